"""The official parser of AsyncAPI has nothing against the committed document."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.programs import Program
from tests.support.services.processes import run_tool

FOLDER = Path(__file__).parent / "asyncapi"
DOCUMENT = Path(__file__).parents[2] / "schemas/export/asyncapi.json"
#: No script of a package is run: one of them reports the installation to its maker.
PARSER = Program(
    "asyncapi",
    [FOLDER / name for name in ("package.json", "package-lock.json", "validate.js")],
    ["npm ci --ignore-scripts --no-audit --no-fund --silent"],
)
INFORMATION = 2


def diagnostics(document: Path, folder: Path) -> list[tuple[int, str]]:
    """What the parser says, with its severity: 0 is an error, 1 a warning, 2 a piece of information."""
    lines = run_tool(["env", "-C", str(folder), "node", "validate.js", str(document)], timeout=120).splitlines()
    return [(each["severity"], f"{each['path']}: {each['message']}") for each in map(json.loads, lines)]


def test_the_parser_has_neither_errors_nor_warnings(installed: Callable[[Program], Path], tmp_path: Path) -> None:
    folder = installed(PARSER)
    found = diagnostics(DOCUMENT, folder)
    # the version of AsyncAPI that most tools read is not the newest
    assert [(severity, "version" in text) for severity, text in found] == [(INFORMATION, True)], found
    bad = json.loads(DOCUMENT.read_text())
    bad["channels"]["events"]["bindings"]["kafka"]["partitions"] = "sixteen"
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    assert "partitions" in str([text for severity, text in diagnostics(tmp_path / "bad.json", folder) if severity == 0])
