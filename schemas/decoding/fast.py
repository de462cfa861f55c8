"""The fast path from JSON to an event: one call of msgspec for typical events. It gives no reason for what it rejects."""

from sys import intern
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.json import Decoder

from schemas import ids
from schemas.events import Event, EventType
from schemas.times import parse_time

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


_read = Decoder(FastEvent).decode


def decode_fast(value: bytes, received: int) -> Event | None:
    """Decodes a typical event; None if the event has to be validated by pydantic.

    Args:
        value: JSON without a backslash and without U+007F: both may lead to a character that no id may hold.
        received: microseconds since the epoch.

    Raises:
        msgspec.DecodeError, ValueError, RecursionError: the event is not typical; it may be valid.
    """
    doc = _read(value)
    if not value.isascii():
        value.decode()  # msgspec does not check the UTF-8 of fields that it skips
        if not _normalise(doc):
            return None
    data = doc.data
    booking_id, session_id = ids.lower_guid(data.bookingId), ids.lower_guid(data.sessionId)
    if booking_id.strip() != booking_id or session_id.strip() != session_id or not session_id:
        return None
    number, status, participant_id = None, "", ""
    match doc.type:
        case EventType.CHECK_IN:
            number = data.numberOfAttendees
        case EventType.SET if data.status:
            number, status = data.numberOfAttendees, data.status
        case EventType.PARTICIPANT_SCANNED if data.participantId and data.participantId.strip() == data.participantId:
            participant_id = data.participantId
        case EventType.NO_SHOW | EventType.CLEARED | EventType.DELETED:
            pass
        case _:
            return None
    time = parse_time(doc.time)
    # sources and sessions are few and stay in rows for long: intern them
    source, session_id = intern(doc.source), intern(session_id)
    return Event(doc.type, booking_id, session_id, time, source, doc.id, status, number, participant_id, received)


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
