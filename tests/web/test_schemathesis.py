"""The running API and its OpenAPI document agree, whatever is sent: no 5xx, no answer that the document does not have."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import examples
from tests.support.serving import Api

#: Of what the document allows some things are refused, which no schema can say: a cursor nobody gave out, a time too long ago.
LEFT_OUT = "positive_data_acceptance"


def test_requests_made_from_the_document(api: Api, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        *("run", f"{api.url}/openapi.json", "--header", f"Authorization: Bearer {api.tokens['all']}"),
        # an answer without an end; tests/web/test_live.py has its parameters
        *("--exclude-path", "/v1/live"),
        *("--checks", "all", "--exclude-checks", LEFT_OUT, "--max-examples", str(examples(5)), "--seed", "7"),
        *("--generation-database", "none", "--continue-on-failure", "--workers", "1", "--no-color"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Traceback" not in api.process.said()


@pytest.mark.parametrize("status", ["400", "401", "403", "429", "503"])
def test_every_call_has_its_errors(api: Api, status: str) -> None:
    document = api.client.get("/openapi.json").json()
    for path, calls in document["paths"].items():
        for call in calls.values():
            if "security" in call:
                schema = call["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, path
            assert "422" not in call["responses"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
