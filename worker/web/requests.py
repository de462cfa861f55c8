"""Requests to set or delete, as they are read: checked as the worker will check the event, every finding with its place."""

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from schemas.decoding.explain import decode
from schemas.decoding.hints import CURES, STATUS_CURES
from schemas.events import CONTROL_CHARACTER, DATA, DeadLetter, EventType, Topic
from schemas.query.violations import Refusals, Rule
from worker.web.commands import Change, event
from worker.web.errors import ApiError, invalid, refused
from worker.web.http.bodies import write_json

MAX_ENTRIES = 100
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
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
    """An attendance's id as it is looked up; None where it is no GUID, and so nobody's."""
    text = text.strip().lower()
    return text if _GUID(text) else None


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of `attendance_guid`."""
    return UUID(text).bytes


def read_set(document: dict[str, Any]) -> Change:
    """One attendance to set.

    Raises:
        ApiError: what is wrong (400).
    """
    refusals = Refusals()
    attendance = document.get("attendance")
    if isinstance(attendance, dict) and attendance.get("sessionId") is None and attendance.get("eventId") is None:
        raise refused(400, "SESSION_ID_NOT_PROVIDED", "attendance.sessionId: give it, or attendance.eventId")
    change = _change(document, "", refusals)
    if change is None:
        raise invalid(refusals.found)
    return change


def read_sets(document: dict[str, Any]) -> list[Change]:
    """The attendances of a bulk call to set; one entry that is wrong fails them all. Raises as `read_set`."""
    refusals = Refusals()
    found = [
        _change(entry, f"attendanceDetails.{index}.", refusals)
        for index, entry in enumerate(_listed(document, "attendanceDetails"))
    ]
    if refusals.found:
        raise invalid(refusals.found)
    return [change for change in found if change is not None]


def read_ids(document: dict[str, Any]) -> list[str]:
    """The ids of a bulk call to delete, as they came. Raises as `read_set`."""
    refusals = Refusals()
    listed = _listed(document, "attendanceIds")
    for index, each in enumerate(listed):
        if not isinstance(each, str):
            refusals.add(f"attendanceIds.{index}", "write the id of an attendance, a GUID", Rule.WRONG_TYPE)
    refusals.settle()
    return [str(each) for each in listed]


def read_flag(document: dict[str, Any], name: str) -> bool:
    """A flag that may be left out. Raises as `read_set`."""
    said = document.get(name)
    if said is not None and not isinstance(said, bool):
        refusals = Refusals()
        refusals.add(name, "write true or false, or leave it out", Rule.WRONG_TYPE)
        refusals.settle()
    return bool(said)


def _listed(document: dict[str, Any], name: str) -> Sequence[Any]:
    listed = document.get(name)
    if listed is None or listed == []:
        raise missing_list(name)
    refusals = Refusals()
    if not isinstance(listed, list):
        refusals.add(name, f"write a list of 1 to {MAX_ENTRIES}", Rule.WRONG_TYPE)
    elif len(listed) > MAX_ENTRIES:
        refusals.add(name, f"has {len(listed)} entries; send at most {MAX_ENTRIES} in a call", Rule.TOO_MANY)
    refusals.settle()
    assert isinstance(listed, list)
    return listed


def missing_list(name: str) -> ApiError:
    """The error of a bulk call without entries."""
    return refused(400, "ATTENDANCES_MISSING_IN_REQUEST", f"{name}: list 1 to {MAX_ENTRIES} of them")


def _change(entry: Any, where: str, refusals: Refusals) -> Change | None:
    """The change that an entry asks for, None where something is wrong with it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("attendance"), dict):
        rule = Rule.REQUIRED if isinstance(entry, dict) and entry.get("attendance") is None else Rule.WRONG_TYPE
        refusals.add(f"{where}attendance", "write an object of bookingId, sessionId, status and numberOfAttendees", rule)
        return None
    before = len(refusals.found)
    data = _data(entry["attendance"], f"{where}attendance.", refusals)
    _checked(data, f"{where}attendance.", refusals)
    notification = entry.get("participantNotification")
    if notification is not None and not isinstance(notification, dict):
        refusals.add(f"{where}participantNotification", "write a JSON object, or leave it out", Rule.WRONG_TYPE)
    if len(refusals.found) > before:
        return None
    rest: dict[str, Any] = {name: data[name] for name in ("status", "numberOfAttendees") if name in data}
    if notification is not None:
        rest["participantNotification"] = notification
    change = Change(EventType.SET, data["bookingId"], data["sessionId"], rest)
    return _as_published(change, where, refusals)


def _data(attendance: dict[str, Any], where: str, refusals: Refusals) -> dict[str, Any]:
    """The event's data: what counts of an attendance, eventId by its other name; null is left out."""
    data = {name: attendance[name] for name in _FIELDS if attendance.get(name) is not None}
    alias = attendance.get("eventId")
    if alias is not None and data.setdefault("sessionId", alias) != alias:
        refusals.add(f"{where}eventId", "differs from sessionId, whose other name it is: give one", Rule.REPEATED)
    return data


def _checked(data: dict[str, Any], where: str, refusals: Refusals) -> None:
    try:
        DATA[Topic.EVENTS][EventType.SET].validate_python(data)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            field = str(each["loc"][0])
            cure = STATUS_CURES[EventType.SET] if field == "status" else CURES[field]
            said = f"is missing; {cure}" if each["type"] == "missing" else cure
            refusals.add(where + field, said, _RULES.get(each["type"], Rule.WRONG_TYPE))


def _as_published(change: Change, where: str, refusals: Refusals) -> Change | None:
    """The change with its ids as the worker will know them; what the worker would refuse is refused here."""
    try:
        said = decode(write_json(event(change, 0)), (), 0, max_age=0)
    except orjson.JSONEncodeError:
        refusals.add(f"{where}participantNotification", "is nested too deeply", Rule.TOO_DEEP)
        return None
    if isinstance(said, DeadLetter):
        place, _, detail = said.detail.partition(": ")
        field = f"{where}attendance.{place.removeprefix('data.')}" if place.startswith("data.") else where.rstrip(".") or "body"
        refusals.add(field, detail, Rule.TOO_LARGE if place == "value" else Rule.MALFORMED)
        return None
    return change._replace(booking_id=said.booking_id, session_id=said.session_id)
