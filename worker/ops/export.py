"""Writes the JSON Schemas of events, alerts, attendances and dead letters, and the AsyncAPI document of the topics.

A test fails if the committed ones are stale.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from schemas.alerts import AlertEvent
from schemas.attendance import Attendance
from schemas.events import TRACEPARENT_HEADER, AttendanceEvent, BookingEvent, Reason
from worker.ops import asyncapi

#: The folder of the committed schemas.
FOLDER = Path(__file__).parents[2] / "schemas" / "export"


def documents() -> dict[str, dict[str, Any]]:
    """All schemas, and the AsyncAPI document, by file name."""
    shapes: dict[str, Any] = {
        "attendance-event": AttendanceEvent,
        "booking-event": BookingEvent,
        "alert-event": AlertEvent,
        "attendance": Attendance,
    }
    schemas = {f"{name}.schema.json": TypeAdapter(shape).json_schema() for name, shape in shapes.items()}
    dead_letter = _dead_letter()
    return {**schemas, "dead-letter.schema.json": dead_letter, "asyncapi.json": asyncapi.document(dead_letter)}


def write(folder: Path) -> list[Path]:
    """Writes all documents and returns the paths of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, document in documents().items():
        path = folder / name
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        written.append(path)
    return written


def _dead_letter() -> dict[str, Any]:
    """The schema of the headers that a worker adds to a dead letter."""
    text = {"type": "string"}
    headers = {
        "reason": {"enum": [reason.value for reason in Reason], "description": "the first that applies"},
        "detail": {**text, "description": "names the field and the fix"},
        "topic": text,
        "partition": {**text, "pattern": "^[0-9]+$"},
        "offset": {**text, "pattern": "^[0-9]+$"},
        "first-seen": {**text, "format": "date-time", "description": "when the record first reached the system"},
    }
    truncated = {**text, "pattern": "^[0-9]+$", "description": "only of a value that was cut: its size in bytes"}
    trace = {**text, "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", "description": "the event's, if any"}
    return {
        "title": "DeadLetterHeaders",
        "description": "Headers that a worker adds to a record of the dead-letters topic. Its key (cut at 8 KiB), its value "
        "(cut at 2 MiB) and its other headers (as many as fit into 32 KiB) are those of the original record.",
        "type": "object",
        "properties": {**headers, "truncated": truncated, TRACEPARENT_HEADER: trace},
        "required": list(headers),
    }
