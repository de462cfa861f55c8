"""The committed JSON Schemas and AsyncAPI document are what the code says, and say what is right and wrong."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.incoming import BOOKING_DATA, DATA, MISSING, document, spoiled
from worker.ops import export

COMMITTED = Path(__file__).parents[3] / "schemas" / "export"
STALE = "stale: run `attendance schemas export` and commit schemas/export"
needs_jsonschema = pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None, reason="jsonschema is not installed")


@pytest.mark.parametrize("name", export.documents())
def test_the_committed_schema_is_current(name: str) -> None:
    path = COMMITTED / name
    assert path.is_file(), STALE
    assert json.loads(path.read_text()) == json.loads(json.dumps(export.documents()[name])), STALE


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in COMMITTED.iterdir()} == set(export.documents()), STALE


def test_written_files_hold_the_documents_and_a_final_line_feed(tmp_path: Path) -> None:
    written = export.write(tmp_path / "new" / "folder")
    assert {path.name for path in written} == set(export.documents())
    for path in written:
        assert json.loads(path.read_text()) == export.documents()[path.name]
        assert path.read_bytes() == (COMMITTED / path.name).read_bytes(), STALE


def test_the_schemas_name_every_type_and_reason() -> None:
    documents = export.documents()
    assert set(documents["attendance-event.schema.json"]["discriminator"]["mapping"]) == set(DATA)
    assert set(documents["booking-event.schema.json"]["discriminator"]["mapping"]) == set(BOOKING_DATA)
    reasons = [
        "too-large",
        "invalid-json",
        "invalid-envelope",
        "unknown-type",
        "invalid-field",
        "time-too-old",
    ]
    assert documents["dead-letter.schema.json"]["properties"]["reason"]["enum"] == reasons


def valid(name: str, whole: dict[str, Any]) -> bool:
    jsonschema = importlib.import_module("jsonschema")
    return bool(jsonschema.Draft202012Validator(export.documents()[f"{name}.schema.json"]).is_valid(whole))


@needs_jsonschema
@pytest.mark.parametrize(
    ("name", "kind"), [*(("attendance-event", kind) for kind in DATA), *(("booking-event", kind) for kind in BOOKING_DATA)]
)
def test_good_events_are_valid(name: str, kind: str) -> None:
    assert valid(name, document(kind))
    assert valid(name, {**document(kind, extra=1), "subject": "x"})


@needs_jsonschema
@pytest.mark.parametrize(
    ("path", "bad"),
    [("id", MISSING), ("id", ""), ("id", "x" * 257), ("specversion", "0.3"), ("type", "x"), ("data", MISSING), ("time", 1)]
    + [("data.bookingId", MISSING), ("data.bookingId", 5), ("data.sessionId", "x" * 251), ("data.numberOfAttendees", -1)]
    + [("data.numberOfAttendees", 100_001), ("data.numberOfAttendees", "2"), ("data.numberOfAttendees", 2.5)],
)
def test_bad_events_are_invalid(path: str, bad: Any) -> None:
    assert not valid("attendance-event", spoiled("attendance.check_in", path, bad))
