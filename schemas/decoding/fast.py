"""The quick way from JSON to an event: one call of msgspec, for events as nearly all are. Says nothing of what it refuses."""

from sys import intern
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.json import Decoder

from schemas import ids
from schemas.events import MAX_ATTENDEES, Event, EventType
from schemas.times import parse_time

_new = tuple.__new__  # what Event(...) does, without binding ten arguments

_Name = Annotated[str, Meta(min_length=1, max_length=ids.MAX_NAME)]


class _UsualData(Struct, gc=False):
    """Data as nearly all events have it: every field of any type, each well-formed or left out."""

    bookingId: Annotated[str, Meta(min_length=1, max_length=ids.MAX_BOOKING_ID)]
    sessionId: Annotated[str, Meta(max_length=ids.MAX_SESSION_ID)] = ""
    numberOfAttendees: Annotated[int, Meta(ge=0, le=MAX_ATTENDEES)] | None = None
    status: Literal["ATTENDED", "NOT_ATTENDED", "NOT_SET", ""] = ""
    participantId: Annotated[str, Meta(max_length=ids.MAX_PARTICIPANT_ID)] = ""


class Usual(Struct, gc=False):
    """A structured event as nearly all are. What fits here fits `schemas.events`; what does not may still."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: str
    time: str
    data: _UsualData
    data_base64: None = None


usual = Decoder(Usual).decode
# bound once: a member looked up on an enum costs more than the comparison
_CHECK_IN, _SET, _SCANNED = EventType.CHECK_IN.value, EventType.SET.value, EventType.PARTICIPANT_SCANNED.value
#: Types of which neither number nor status nor participant counts.
_OTHERS = frozenset({EventType.NO_SHOW.value, EventType.CLEARED.value, EventType.DELETED.value})


def read_usual(value: bytes, received: int) -> Event | None:
    """A usual event; None where another look is needed.

    Args:
        value: JSON without a backslash and without U+007F, either of which may stand for what no id may hold.
        received: microseconds.

    Raises:
        msgspec.DecodeError, ValueError, RecursionError: it is no usual event, and may be one all the same.
    """
    doc = usual(value)
    if not value.isascii():
        value.decode()  # msgspec passes over what is no UTF-8 in fields that it does not read
        if not _normalise(doc):
            return None
    return usual_event(doc, received)


def _normalise(doc: Usual) -> bool:
    """Gives ids that are not in ASCII their normal spelling; False where another look is needed."""
    data = doc.data
    if not data.bookingId.isascii():
        data.bookingId = ids.booking_id(data.bookingId) or ""
    if not data.sessionId.isascii():
        data.sessionId = ids.session_id(data.sessionId) or ""
    if not data.participantId.isascii():
        data.participantId = ids.participant_id(data.participantId) or ""
    return bool(data.bookingId) and _is_plain(doc.id) and _is_plain(doc.source)


def _is_plain(text: str) -> bool:
    return text.isascii() or not ids.find_forbidden(text)


def usual_event(doc: Usual, received: int) -> Event | None:
    """See `read_usual`; of ids in ASCII, or normalised."""
    data, kind = doc.data, doc.type
    booking_id, session_id = data.bookingId, data.sessionId
    if booking_id.strip() != booking_id or session_id.strip() != session_id or not session_id:
        return None
    if len(booking_id) == 36 and not booking_id.islower():
        booking_id = ids.lower_guid(booking_id)
    if len(session_id) == 36 and not session_id.islower():
        session_id = ids.lower_guid(session_id)
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
