"""Parses requests to set or delete: validated as the worker validates the event, every violation with its path."""

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from schemas.decoding.explain import decode
from schemas.decoding.hints import FIX_HINTS, STATUS_FIX_HINTS
from schemas.events import CONTROL_CHARACTER, DATA, DeadLetter, EventType, Topic
from schemas.ids import is_guid
from schemas.query.violations import Rule, Violations
from worker.web.commands import Command, event
from worker.web.errors import ApiError, Invalid, Refused
from worker.web.http.bodies import write_json

MAX_ENTRIES = 100
_FIELDS = ("bookingId", "sessionId", "status", "numberOfAttendees")
_RULES = {
    "missing": Rule.REQUIRED,
    "int_type": Rule.WRONG_TYPE,
    "string_type": Rule.WRONG_TYPE,
    "enum": Rule.UNKNOWN_VALUE,
    "string_too_short": Rule.REQUIRED,
    "string_too_long": Rule.TOO_LARGE,
    "greater_than_equal": Rule.OUT_OF_RANGE,
    "less_than_equal": Rule.OUT_OF_RANGE,
    "string_unicode": Rule.MALFORMED,
    CONTROL_CHARACTER: Rule.MALFORMED,
}


def attendance_guid(text: str) -> str | None:
    """An attendance's id in normal form; None if it is not a GUID, so that no attendance has it."""
    text = text.strip().lower()
    return text if is_guid(text) else None


def read_set(document: dict[str, Any]) -> Command:
    """Parses a request to set one attendance.

    Raises:
        ApiError: the request is not valid (400).
    """
    violations = Violations()
    attendance = document.get("attendance")
    if isinstance(attendance, dict) and attendance.get("sessionId") is None and attendance.get("eventId") is None:
        raise Refused(400, "SESSION_ID_NOT_PROVIDED", "attendance.sessionId: send it, or attendance.eventId")
    command = _command(document, "", violations)
    if command is None:
        raise Invalid(violations.items)
    return command


def read_sets(document: dict[str, Any]) -> list[Command]:
    """Parses a bulk request to set attendances; one invalid entry fails the request. Raises as `read_set`."""
    violations = Violations()
    commands = [
        _command(entry, f"attendanceDetails.{index}.", violations)
        for index, entry in enumerate(_entries(document, "attendanceDetails"))
    ]
    if violations.items:
        raise Invalid(violations.items)
    return [command for command in commands if command is not None]


def read_ids(document: dict[str, Any]) -> list[str]:
    """The ids of a bulk request to delete, not normalised. Raises as `read_set`."""
    violations = Violations()
    entries = _entries(document, "attendanceIds")
    for index, entry in enumerate(entries):
        if not isinstance(entry, str):
            violations.add(f"attendanceIds.{index}", "write the id of an attendance, a GUID", Rule.WRONG_TYPE)
    violations.raise_if_any()
    return [str(entry) for entry in entries]


def read_flag(document: dict[str, Any], name: str) -> bool:
    """A flag that may be left out. Raises as `read_set`."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        violations = Violations()
        violations.add(name, "write true or false, or leave it out", Rule.WRONG_TYPE)
        violations.raise_if_any()
    return bool(value)


def _entries(document: dict[str, Any], name: str) -> Sequence[Any]:
    entries = document.get(name)
    if entries is None or entries == []:
        raise missing_list(name)
    violations = Violations()
    if not isinstance(entries, list):
        violations.add(name, f"write a list of 1 to {MAX_ENTRIES} entries", Rule.WRONG_TYPE)
    elif len(entries) > MAX_ENTRIES:
        violations.add(name, f"has {len(entries)} entries; send at most {MAX_ENTRIES} in a call", Rule.TOO_MANY)
    violations.raise_if_any()
    assert isinstance(entries, list)
    return entries


def missing_list(name: str) -> ApiError:
    """The error response to a bulk request without entries."""
    return Refused(400, "ATTENDANCES_MISSING_IN_REQUEST", f"{name}: send 1 to {MAX_ENTRIES} entries")


def _command(entry: Any, where: str, violations: Violations) -> Command | None:
    """The command of an entry; None if the entry is not valid."""
    if not isinstance(entry, dict) or not isinstance(entry.get("attendance"), dict):
        rule = Rule.REQUIRED if isinstance(entry, dict) and entry.get("attendance") is None else Rule.WRONG_TYPE
        violations.add(f"{where}attendance", "write an object of bookingId, sessionId, status and numberOfAttendees", rule)
        return None
    previous_count = len(violations.items)
    data = _data(entry["attendance"], f"{where}attendance.", violations)
    _check_data(data, f"{where}attendance.", violations)
    notification = entry.get("participantNotification")
    if notification is not None and not isinstance(notification, dict):
        violations.add(f"{where}participantNotification", "write a JSON object, or leave it out", Rule.WRONG_TYPE)
    if len(violations.items) > previous_count:
        return None
    other_data: dict[str, Any] = {name: data[name] for name in ("status", "numberOfAttendees") if name in data}
    if notification is not None:
        other_data["participantNotification"] = notification
    command = Command(EventType.SET, data["bookingId"], data["sessionId"], other_data)
    return _as_published(command, where, violations)


def _data(attendance: dict[str, Any], where: str, violations: Violations) -> dict[str, Any]:
    """The data of the event: the fields of an attendance that can be set, without null; eventId becomes sessionId."""
    data = {name: attendance[name] for name in _FIELDS if attendance.get(name) is not None}
    alias = attendance.get("eventId")
    if alias is not None and data.setdefault("sessionId", alias) != alias:
        violations.add(f"{where}eventId", "differs from sessionId, of which it is an alias: send one of them", Rule.REPEATED)
    return data


def _check_data(data: dict[str, Any], where: str, violations: Violations) -> None:
    try:
        DATA[Topic.EVENTS][EventType.SET].validate_python(data)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            field = str(each["loc"][0])
            hint = STATUS_FIX_HINTS[EventType.SET] if field == "status" else FIX_HINTS[field]
            description = f"is missing; {hint}" if each["type"] == "missing" else hint
            violations.add(where + field, description, _RULES.get(each["type"], Rule.WRONG_TYPE))


def _as_published(command: Command, where: str, violations: Violations) -> Command | None:
    """The command with normalised ids; None with a violation if its event would be a dead letter."""
    try:
        decoded = decode(write_json(event(command, 0)), (), 0, max_age=0)
    except orjson.JSONEncodeError:
        violations.add(f"{where}participantNotification", "is nested too deeply", Rule.TOO_DEEP)
        return None
    if isinstance(decoded, DeadLetter):
        path, _, detail = decoded.detail.partition(": ")
        field = f"{where}attendance.{path.removeprefix('data.')}" if path.startswith("data.") else where.rstrip(".") or "body"
        violations.add(field, detail, Rule.TOO_LARGE if path == "value" else Rule.MALFORMED)
        return None
    return command._replace(booking_id=decoded.booking_id, session_id=decoded.session_id)
