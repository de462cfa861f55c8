"""The fast path from JSON to an event or a booking: one call of msgspec if it is typical. No reason for what it rejects."""

from collections.abc import Callable
from functools import lru_cache
from sys import intern
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.json import Decoder

from schemas import ids
from schemas.events import Booking, BookingGone, Event, EventType, Window, in_order, widest
from schemas.times import parse_time

#: Any number of digits may follow the seconds of a time: longer texts are not kept in memory.
_LONGEST_KEPT = 40
#: For sessions, which begin and end at few times.
_parse_once = lru_cache(maxsize=10_000)(parse_time)

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


class _FastListed(Struct, gc=False):
    """A session that a typical booking lists."""

    sessionId: Annotated[str, Meta(min_length=1, max_length=ids.MAX_SESSION_ID)]
    startsAt: str | None = None
    endsAt: str | None = None


class _FastBookingData(Struct, gc=False):
    """The data of a typical booking record of either type."""

    bookingId: Annotated[str, Meta(min_length=1, max_length=ids.MAX_BOOKING_ID)]
    numberOfParticipants: Annotated[int, Meta(ge=1, le=ids.MAX_PARTICIPANTS)] = 0
    walkInsAllowed: bool | None = None
    serviceType: Literal["APPOINTMENT", "CLASS", "COURSE"] | None = None
    status: Literal["CONFIRMED", "CANCELED"] | None = None
    sessions: list[_FastListed] | None = None


class FastBooking(Struct, gc=False):
    """A typical booking record in structured mode, see `FastEvent`."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: str
    time: str
    data: _FastBookingData
    data_base64: None = None


_read = Decoder(FastEvent).decode
_read_booking = Decoder(FastBooking).decode


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


def decode_booking_fast(value: bytes) -> Booking | BookingGone | None:
    """Decodes a typical booking record; None if it has to be validated by pydantic.

    Args:
        value: as that of `decode_fast`.

    Raises:
        msgspec.DecodeError, ValueError, RecursionError: the record is not typical; it may be valid.
    """
    doc, is_ascii = _read_booking(value), value.isascii()
    if not is_ascii:
        value.decode()  # msgspec does not check the UTF-8 of fields that it skips
    if not (is_ascii or (_is_plain(doc.id) and _is_plain(doc.source))):
        return None
    data, time = doc.data, parse_time(doc.time)
    booking_id = _typical_id(data.bookingId, ids.booking_id)
    if not booking_id:
        return None
    if doc.type == EventType.BOOKING_DELETED:
        return BookingGone(booking_id)
    if doc.type != EventType.BOOKING_UPSERTED or not data.numberOfParticipants:
        return None
    sessions: dict[str, Window] | None = None
    if data.sessions is not None:
        sessions = {}
        for listed in data.sessions:
            session_id = _typical_id(listed.sessionId, ids.session_id)
            if not session_id:
                return None
            window = Window(_optional_time(listed.startsAt), _optional_time(listed.endsAt))
            sessions[session_id] = widest(sessions.get(session_id), window)
    return Booking(
        booking_id,
        data.numberOfParticipants,
        data.walkInsAllowed or False,
        data.status == "CANCELED",
        sessions and in_order(sessions),
        time,
    )


def _typical_id(text: str, normalise: Callable[[str], str | None]) -> str:
    """A normalised id; empty if it has to be validated by pydantic."""
    if not text.isascii():
        return normalise(text) or ""
    return ids.lower_guid(text) if text.strip() == text else ""


def _optional_time(text: str | None) -> int | None:
    if text is None:
        return None
    return _parse_once(text) if len(text) <= _LONGEST_KEPT else parse_time(text)


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
