"""Decodes a record to an event, a booking or a dead letter; it never raises.

A typical event takes one call of msgspec on the raw JSON, a quarter of the time of pydantic. An event that msgspec rejects, or
that holds characters to check one by one, is validated by pydantic, which names the wrong field and the fix.
"""

from typing import Any

from msgspec import DecodeError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas import ids
from schemas.decoding.bindings import WRAPPED, Headers, InvalidRecord, data_of, is_binary, is_too_deep, read_event, unwrapped
from schemas.decoding.causes import field_detail, mode_detail, quoted_header_detail, time_detail
from schemas.decoding.fast import decode_booking_fast, decode_fast
from schemas.events import (
    DATA,
    ENVELOPE,
    MAX_BOOKING_BYTES,
    MAX_EVENT_BYTES,
    RECEIVED_HEADER,
    Booking,
    BookingGone,
    DeadLetter,
    Event,
    EventType,
    Reason,
    Topic,
    Window,
    in_order,
    widest,
)
from schemas.times import FIRST, LAST, format_time, parse_time

#: Bounds of a record's timestamp (years 1 to 9999), milliseconds; a timestamp beyond them counts as the bound.
_EARLIEST, _LATEST = -(-FIRST // 1000), LAST // 1000


def booking_of_key(key: bytes | None) -> str | None:
    """The normalised bookingId in a record's key; None if the key is not a bookingId."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return ids.booking_id(text)


def received_at(headers: Headers, timestamp: int) -> int:
    """When an event first reached the system, microseconds: the record's timestamp (ms) or, if earlier, its header.

    Of several ``attendance-received`` headers the earliest well-formed one counts.
    """
    received = min(max(timestamp, _EARLIEST), _LATEST) * 1000
    for name, content in headers:
        if content is not None and name.lower() == RECEIVED_HEADER:
            try:
                received = min(received, parse_time(content.decode()))
            except ValueError:
                continue
    return received


def decode(value: bytes | None, headers: Headers, timestamp: int, *, max_age: int) -> Event | DeadLetter:
    """Decodes a record of the events topic.

    Args:
        value: the record's value.
        headers: the record's headers: ``ce_*`` in binary mode, ``attendance-received`` for the time of first reception.
        timestamp: the record's (log append) timestamp, milliseconds.
        max_age: how long before its reception an event may have happened, microseconds.
    """
    uses_timestamp = not headers and _EARLIEST <= timestamp <= _LATEST
    received = timestamp * 1000 if uses_timestamp else received_at(headers, timestamp)
    document = _typical(value, headers, MAX_EVENT_BYTES)
    try:
        event = None if document is None else decode_fast(document, received)
    except (DecodeError, ValueError, RecursionError):
        event = None
    if event is None:
        return _decode_by_pydantic(value, headers, received, max_age)
    return event if event.time >= received - max_age else _too_old(event)


def decode_booking(value: bytes | None, headers: Headers, key: bytes | None = None) -> Booking | BookingGone | DeadLetter:
    """Decodes a record of the bookings topic. The key names the booking only if the value is null; otherwise the data does."""
    document = _typical(value, headers, MAX_BOOKING_BYTES)
    try:
        booking = None if document is None else decode_booking_fast(document)
    except (DecodeError, ValueError, RecursionError):
        booking = None
    if booking is not None:
        return booking
    try:
        if value is None:
            return _booking_gone(key)
        doc = _validate(value, headers, Topic.BOOKINGS)
        booking_id = doc["data"]["bookingId"]
        return BookingGone(booking_id) if doc["type"] == EventType.BOOKING_DELETED else _booking(booking_id, doc)
    except InvalidRecord as invalid:
        return invalid.dead_letter


def _typical(value: bytes | None, headers: Headers, limit: int) -> bytes | None:
    """The JSON of a record that may be typical: in structured mode, and not too long; None: it is not."""
    if not value or len(value) > limit or (headers and is_binary(headers)):
        return None
    document = unwrapped(value) if value[0] in WRAPPED else value
    # an escape may hide a control character or a surrogate
    return None if b"\\" in document or b"\x7f" in document or is_too_deep(document) else document


def _event(doc: Any, received: int) -> Event:
    data = doc["data"]
    return Event(
        type=doc["type"],
        booking_id=data["bookingId"],
        session_id=data["sessionId"] if doc["type"] != EventType.BOOKING_ERASED else "",
        time=parse_time(doc["time"]),
        source=doc["source"],
        id=doc["id"],
        status=data.get("status", ""),
        number=data.get("numberOfAttendees"),
        participant_id=data.get("participantId", ""),
        received=received,
    )


def _too_old(event: Event) -> DeadLetter:
    since = format_time(event.received)
    return DeadLetter(
        Reason.TIME_TOO_OLD,
        f"time: is too old, the event was received at {since}; set the device's clock, or send history with the "
        f"header {RECEIVED_HEADER}",
    )


def _decode_by_pydantic(value: bytes | None, headers: Headers, received: int, max_age: int) -> Event | DeadLetter:
    try:
        event = _event(_validate(value, headers, Topic.EVENTS), received)
    except InvalidRecord as invalid:
        return invalid.dead_letter
    return event if event.time >= received - max_age else _too_old(event)


def _validate(value: bytes | None, headers: Headers, topic: Topic) -> Any:
    """The CloudEvent as one dict with normalised ids, validated by the rules of `schemas/README.md` in their order."""
    limit = MAX_EVENT_BYTES if topic is Topic.EVENTS else MAX_BOOKING_BYTES
    if value is not None and len(value) > limit:
        raise InvalidRecord(Reason.TOO_LARGE, f"value: has {len(value)} bytes; send at most {limit}")
    doc = read_event(value, headers)
    _check_envelope(doc, headers)
    kind = doc["type"]
    adapter = DATA[topic].get(kind)
    if adapter is None:
        detail = f"type: is not a type of the {topic} topic; use {', '.join(DATA[topic])}"
        raise InvalidRecord(Reason.UNKNOWN_TYPE, (is_binary(headers) and quoted_header_detail("type", kind)) or detail)
    data = data_of(doc)
    try:
        return {**doc, "data": adapter.validate_python(data)}
    except ValidationError as error:
        raise InvalidRecord(Reason.INVALID_FIELD, field_detail(_first(error), "data.", kind)) from None


def _check_envelope(doc: dict[str, Any], headers: Headers) -> None:
    try:
        ENVELOPE.validate_python(doc)
    except ValidationError as error:
        first = _first(error)
        detail = field_detail(first, "", "")
        if is_binary(headers):
            detail = quoted_header_detail(str(first["loc"][0]), first["input"]) or detail
        elif "specversion" not in doc:
            detail = mode_detail(name.lower() for name, _ in headers) or detail
        raise InvalidRecord(Reason.INVALID_ENVELOPE, detail) from None
    try:
        parse_time(doc["time"])
    except ValueError:
        detail = time_detail("time", doc["time"])
        raise InvalidRecord(
            Reason.INVALID_ENVELOPE, (is_binary(headers) and quoted_header_detail("time", doc["time"])) or detail
        ) from None
    if doc.get("data") is not None and doc.get("data_base64") is not None:
        raise InvalidRecord(Reason.INVALID_ENVELOPE, "data_base64: is present together with data; send one of them")


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_context=False)[0]


def _booking_gone(key: bytes | None) -> BookingGone:
    booking_id = booking_of_key(key)
    if booking_id is None:
        raise InvalidRecord(
            Reason.INVALID_FIELD, "key: is not a bookingId; a null value deletes the booking whose bookingId is its key"
        )
    return BookingGone(booking_id)


def _booking(booking_id: str, doc: dict[str, Any]) -> Booking:
    data = doc["data"]
    listed = data.get("sessions")
    sessions: dict[str, Window] | None = None if listed is None else {}
    for index, entry in enumerate(listed or ()):
        path = f"data.sessions.{index}"
        window = Window(*(_optional_time(entry, name, path) for name in ("startsAt", "endsAt")))
        session_id = entry["sessionId"]
        assert sessions is not None
        sessions[session_id] = widest(sessions.get(session_id), window)
    return Booking(
        booking_id,
        data["numberOfParticipants"],
        data.get("walkInsAllowed") or False,
        data.get("status") == "CANCELED",
        sessions and in_order(sessions),
        parse_time(doc["time"]),
    )


def _optional_time(entry: dict[str, Any], name: str, path: str) -> int | None:
    text = entry.get(name)
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError:
        raise InvalidRecord(Reason.INVALID_FIELD, time_detail(f"{path}.{name}", text)) from None
