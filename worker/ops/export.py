"""Writes the JSON Schemas of what travels and rests; a test fails when the committed ones are stale."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from schemas.alerts import AlertEvent
from schemas.attendance import Attendance
from schemas.events import AttendanceEvent, BookingEvent, Reason

#: Where the committed schemas are.
FOLDER = Path(__file__).parents[2] / "schemas" / "export"


def documents() -> dict[str, dict[str, Any]]:
    """Each schema by its file name."""
    shapes: dict[str, Any] = {
        "attendance-event": AttendanceEvent,
        "booking-event": BookingEvent,
        "alert-event": AlertEvent,
        "attendance": Attendance,
    }
    made = {f"{name}.schema.json": TypeAdapter(shape).json_schema() for name, shape in shapes.items()}
    return {**made, "dead-letter.schema.json": _dead_letter()}


def write(folder: Path) -> list[Path]:
    """Writes every schema; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, document in documents().items():
        path = folder / name
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        written.append(path)
    return written


def _dead_letter() -> dict[str, Any]:
    """A dead letter is the original value; what it adds is in the record's headers."""
    text = {"type": "string"}
    headers = {
        "reason": {"enum": [reason.value for reason in Reason], "description": "the first that applies"},
        "detail": {**text, "description": "names the field and the cure"},
        "topic": text,
        "partition": {**text, "pattern": "^[0-9]+$"},
        "offset": {**text, "pattern": "^[0-9]+$"},
        "first-seen": {**text, "format": "date-time", "description": "when the record first reached the system"},
    }
    return {
        "title": "DeadLetterHeaders",
        "description": "Headers of a record of the dead-letters topic; its key and value are the original's, untouched.",
        "type": "object",
        "properties": headers,
        "required": list(headers),
    }
