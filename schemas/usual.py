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


class Usual(Struct, gc=False):
    """A structured event as nearly all are. What fits here fits `schemas.events`; what does not may still."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: str
    time: str
    data: _UsualData


usual = Decoder(Usual).decode
# bound once: a member looked up on an enum costs more than the comparison
_CHECK_IN, _SET, _SCANNED = EventType.CHECK_IN.value, EventType.SET.value, EventType.PARTICIPANT_SCANNED.value
#: Types of which neither number nor status nor participant counts.
_OTHERS = frozenset({EventType.NO_SHOW.value, EventType.CLEARED.value, EventType.DELETED.value})


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
    return usual_event(usual(value), received)


def usual_event(doc: Usual, received: int) -> Event | None:
    """See `read_usual`."""
    data, kind = doc.data, doc.type
    booking_id, session_id = data.bookingId, data.sessionId
    if booking_id.strip() != booking_id or session_id.strip() != session_id or not session_id:
        return None
    if len(booking_id) == 36 and not booking_id.islower():
        booking_id = normalise(booking_id)
    if len(session_id) == 36 and not session_id.islower():
        session_id = normalise(session_id)
    number, status, participant_id = None, "", ""
    if kind == _CHECK_IN:
        number = data.numberOfAttendees
    elif kind == _SET:
        number, status = data.numberOfAttendees, data.status
        if not status:
            return None
    elif kind == _SCANNED:
        participant_id = data.participantId
        if not participant_id or participant_id.strip() != participant_id:
            return None
    elif kind not in _OTHERS:
        return None
    # sources and sessions are few and stay in rows for long: one object each
    source = intern(doc.source)
    return _new(
        Event,
        (kind, booking_id, intern(session_id), parse_time(doc.time), source, doc.id, status, number, participant_id, received),
    )
