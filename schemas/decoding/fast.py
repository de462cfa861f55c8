"""The fast path from JSON to an event: one call of msgspec for typical events. It gives no reason for what it rejects."""

from sys import intern
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.json import Decoder

from schemas import ids
from schemas.events import Event, EventType
from schemas.ids import GUID_LENGTH
from schemas.times import parse_time

_new = tuple.__new__  # what Event(...) does, without binding ten arguments

_Name = Annotated[str, Meta(min_length=1, max_length=ids.MAX_NAME)]


class _FastData(Struct, gc=False):
    """The data of a typical event of any type: every field is well-formed or left out."""

    bookingId: Annotated[str, Meta(min_length=1, max_length=ids.MAX_BOOKING_ID)]
    sessionId: Annotated[str, Meta(max_length=ids.MAX_SESSION_ID)] = ""
    numberOfAttendees: Annotated[int, Meta(ge=0, le=ids.MAX_ATTENDEES)] | None = None
    status: Literal["ATTENDED", "NOT_ATTENDED", "NOT_SET", ""] = ""
    participantId: Annotated[str, Meta(max_length=ids.MAX_PARTICIPANT_ID)] = ""


class FastEvent(Struct, gc=False):
    """A typical event in structured mode. What fits here is valid by `schemas.events`; what does not fit may be valid too."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: str
    time: str
    data: _FastData
    data_base64: None = None


read_fast = Decoder(FastEvent).decode
# bound once: looking up an enum member costs more than the comparison
_CHECK_IN, _SET, _SCANNED = EventType.CHECK_IN.value, EventType.SET.value, EventType.PARTICIPANT_SCANNED.value
#: Types whose number, status and participant are ignored.
_IDS_ONLY = frozenset({EventType.NO_SHOW.value, EventType.CLEARED.value, EventType.DELETED.value})


def decode_fast(value: bytes, received: int) -> Event | None:
    """Decodes a typical event; None if the event has to be validated by pydantic.

    Args:
        value: JSON without a backslash and without U+007F: both may lead to a character that no id may hold.
        received: microseconds since the epoch.

    Raises:
        msgspec.DecodeError, ValueError, RecursionError: the event is not typical; it may be valid.
    """
    doc = read_fast(value)
    if not value.isascii():
        value.decode()  # msgspec does not check the UTF-8 of fields that it skips
        if not _normalise(doc):
            return None
    return fast_event(doc, received)


def _normalise(doc: FastEvent) -> bool:
    """Normalises the ids that are not ASCII; False if the event has to be validated by pydantic."""
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


def fast_event(doc: FastEvent, received: int) -> Event | None:
    """As `decode_fast`, for a document whose ids are ASCII or normalised."""
    data, kind = doc.data, doc.type
    booking_id, session_id = data.bookingId, data.sessionId
    if booking_id.strip() != booking_id or session_id.strip() != session_id or not session_id:
        return None
    if len(booking_id) == GUID_LENGTH and not booking_id.islower():
        booking_id = ids.lower_guid(booking_id)
    if len(session_id) == GUID_LENGTH and not session_id.islower():
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
    elif kind not in _IDS_ONLY:
        return None
    # sources and sessions are few and stay in rows for long: intern them
    source = intern(doc.source)
    return _new(
        Event,
        (kind, booking_id, intern(session_id), parse_time(doc.time), source, doc.id, status, number, participant_id, received),
    )
