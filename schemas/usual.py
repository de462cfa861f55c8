"""The quick way from JSON to an event: one call of msgspec, for events as nearly all are. Says nothing of what it refuses."""

import re
from sys import intern
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.json import Decoder

from schemas.events import Event, EventType
from schemas.times import parse_time

_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_new = tuple.__new__  # what Event(...) does, without binding ten arguments

_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Id = Annotated[str, Meta(min_length=1, max_length=128)]


class _UsualData(Struct, gc=False):
    """Data as nearly all events have it: every field of any type, each well-formed or left out."""

    bookingId: _Id
    sessionId: Annotated[str, Meta(max_length=250)] = ""
    numberOfAttendees: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    status: Literal["ATTENDED", "NOT_ATTENDED", "NOT_SET", ""] = ""
    participantId: Annotated[str, Meta(max_length=128)] = ""


class _Usual(Struct, gc=False):
    """A structured event as nearly all are. What fits here fits `schemas.events`; what does not may still."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: str
    time: str
    data: _UsualData


_usual = Decoder(_Usual).decode
#: Of each type: whether its number, its status, its participant counts. One that counts must be there, but for the number.
_COUNTS = {
    EventType.CHECK_IN.value: (True, False, False),
    EventType.NO_SHOW.value: (False, False, False),
    EventType.SET.value: (True, True, False),
    EventType.PARTICIPANT_SCANNED.value: (False, False, True),
    EventType.CLEARED.value: (False, False, False),
    EventType.DELETED.value: (False, False, False),
}


def normalise(text: str) -> str:
    """A bookingId or sessionId as the system knows it: trimmed, and lower case where it is a GUID."""
    text = text.strip()
    return text.lower() if len(text) == 36 and _GUID(text) else text


def read_usual(value: bytes, received: int) -> Event | None:
    """A usual event; None where another look is needed.

    Args:
        value: JSON without a backslash and without U+007F, either of which may stand for what no id may hold.
        received: microseconds.

    Raises:
        msgspec.DecodeError, ValueError, RecursionError: it is no usual event, and may be one all the same.
    """
    if not value.isascii():
        value.decode()  # msgspec passes over what is no UTF-8 in fields that it does not read
    doc = _usual(value)
    counts = _COUNTS.get(doc.type)
    if counts is None:
        return None
    data = doc.data
    booking_id, session_id = data.bookingId, data.sessionId
    if booking_id.strip() != booking_id or session_id.strip() != session_id or not session_id:
        return None
    if len(booking_id) == 36 and not booking_id.islower():
        booking_id = normalise(booking_id)
    if len(session_id) == 36 and not session_id.islower():
        session_id = normalise(session_id)
    numbered, stated, scanned = counts
    status = participant_id = ""
    if stated:
        status = data.status
        if not status:
            return None
    elif scanned:
        participant_id = data.participantId
        if not participant_id or participant_id.strip() != participant_id:
            return None
    number = data.numberOfAttendees if numbered else None
    time, kind = parse_time(doc.time), doc.type
    # sources and sessions are few and stay in rows for long: one object each
    fields = (kind, booking_id, intern(session_id), time, intern(doc.source), doc.id, status, number, participant_id, received)
    return _new(Event, fields)
