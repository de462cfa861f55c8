"""Valid events and booking records, ways to spoil them, and the modes in which they travel."""

import contextlib
import copy
import json
from typing import Any, NamedTuple

from schemas.decoding.bindings import Headers
from schemas.decoding.explain import decode, decode_booking
from schemas.events import Booking, BookingGone, DeadLetter, Event

#: 2026-11-22T10:00:00Z
RECEIVED_MS = 1_795_341_600_000
RECEIVED = RECEIVED_MS * 1000
TIME = "2026-11-22T10:00:00Z"
DAY = 86_400_000_000
MAX_AGE = 30 * DAY


class _Missing:
    """Named the same in every process, as parallel test runs want it."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
#: An extra field that changes nothing, but has the value looked at closely.
LOOK = b'{"zz":"\\n",'
GUID = "88214716-ABCD-4eF0-9012-3456789abcDE"

DATA: dict[str, dict[str, Any]] = {
    "attendance.check_in": {"bookingId": "b1", "sessionId": "s1", "numberOfAttendees": 2},
    "attendance.no_show": {"bookingId": "b1", "sessionId": "s1"},
    "attendance.set": {"bookingId": "b1", "sessionId": "s1", "status": "ATTENDED", "numberOfAttendees": 2},
    "attendance.participant_scanned": {"bookingId": "b1", "sessionId": "s1", "participantId": "p1"},
    "attendance.cleared": {"bookingId": "b1", "sessionId": "s1"},
    "attendance.deleted": {"bookingId": "b1", "sessionId": "s1"},
    "booking.erased": {"bookingId": "b1"},
}
BOOKING_DATA: dict[str, dict[str, Any]] = {
    "booking.upserted": {
        "bookingId": "b1",
        "numberOfParticipants": 2,
        "walkInsAllowed": True,
        "serviceType": "CLASS",
        "status": "CONFIRMED",
        "sessions": [{"sessionId": "s1", "startsAt": TIME, "endsAt": "2026-11-22T11:00:00Z"}],
    },
    "booking.deleted": {"bookingId": "b1"},
}


class Polled(NamedTuple):
    """What `decode_all` looks at in a record."""

    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int


def document(kind: str = "attendance.check_in", **data: Any) -> dict[str, Any]:
    """A valid CloudEvent of this type, with these fields of the data changed, or left out where MISSING."""
    envelope = {"specversion": "1.0", "id": "e1", "source": "/devices/kiosk-7", "type": kind, "time": TIME}
    content = {**copy.deepcopy({**DATA, **BOOKING_DATA}[kind]), **data}
    return {**envelope, "data": {name: value for name, value in content.items() if value is not MISSING}}


def spoiled(kind: str, path: str, value: Any) -> dict[str, Any]:
    """A CloudEvent with the field at a dotted path changed, or left out where MISSING."""
    whole = document(kind)
    at: Any = whole
    *parents, last = path.split(".")
    for name in parents:
        at = at[int(name) if name.isdigit() else name]
    if value is MISSING:
        del at[last]
    else:
        at[last] = value
    return whole


def raw(whole: Any) -> bytes:
    return json.dumps(whole).encode()


def looked_at(value: bytes) -> bytes:
    """The same object with an extra field that keeps it from the quick way."""
    assert value[:2] == b'{"', value
    return LOOK + value[1:]


def take(value: bytes | None, headers: Headers = (), *, max_age: int = MAX_AGE) -> Event | DeadLetter:
    return decode(value, headers, RECEIVED_MS, max_age=max_age)


def binary(whole: dict[str, Any]) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """The same CloudEvent in binary mode; its attributes must be texts."""
    headers: list[tuple[str, bytes | None]] = [(f"ce_{k}", v.encode()) for k, v in whole.items() if k != "data"]
    return raw(whole["data"]), [("content-type", b"application/json"), *headers]


def every_way(whole: dict[str, Any]) -> list[Event | DeadLetter]:
    """What comes of a CloudEvent the quick way, the explaining way and, where it can travel so, in binary mode."""
    said = [take(raw(whole)), take(looked_at(raw(whole)))]
    if "data" in whole and "specversion" in whole and all(isinstance(v, str) for k, v in whole.items() if k != "data"):
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate has no UTF-8
            said.append(take(*binary(whole)))
    return said


def event_of(whole: dict[str, Any]) -> Event:
    """The event that every way makes of it."""
    first, *others = every_way(whole)
    assert isinstance(first, Event), first
    assert all(other == first for other in others), (first, others)
    return first


def letter_of(whole: dict[str, Any]) -> DeadLetter:
    """The dead letter that every way makes of it."""
    first, *others = every_way(whole)
    assert isinstance(first, DeadLetter), first
    assert all(other == first for other in others), (first, others)
    return first


def take_booking(value: bytes | None, key: bytes | None = b"b1", headers: Headers = ()) -> Booking | BookingGone | DeadLetter:
    return decode_booking(value, headers, key)
