"""From a record's bytes to an event, a booking or a dead letter: never an exception.

The usual record takes one call of msgspec on the raw JSON, in a quarter of the time pydantic takes; whatever that refuses,
and whatever holds characters that need a closer look, goes pydantic's way, which says what is wrong and how to mend it.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import DecodeError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas import ids
from schemas.decoding.bindings import WRAPPED, Headers, Refused, data_of, is_binary, read_event, unwrapped
from schemas.decoding.causes import field_detail, mode_detail, quoted_header_detail, time_detail
from schemas.decoding.fast import read_usual, usual, usual_event
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
)
from schemas.times import FIRST, LAST, format_time, parse_time

#: Records of which one that is not usual costs the others a second look.
_AT_ONCE = 64
#: The earliest and the latest timestamp of a record that counts, milliseconds: no producer's clock leaves the years 1 to 9999.
_EARLIEST, _LATEST = -(-FIRST // 1000), LAST // 1000


def booking_of_key(key: bytes | None) -> str | None:
    """The normalised bookingId that a record's key spells; None where it spells none."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return ids.booking_id(text)


def received_at(headers: Headers, timestamp: int) -> int:
    """Microseconds when an event first reached the system: the record's timestamp (ms) or, where it is earlier, the header.

    Of several headers the earliest that is well-formed counts.
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
    """An event of the events topic.

    Args:
        value: the record's value.
        headers: the record's headers; ``ce_*`` make it binary mode, ``attendance-received`` says when it first came.
        timestamp: the record's (log append) timestamp, milliseconds.
        max_age: how long before it was received an event may say it happened, microseconds.
    """
    plainly = not headers and _EARLIEST <= timestamp <= _LATEST
    received = timestamp * 1000 if plainly else received_at(headers, timestamp)
    event = None
    if value and len(value) <= MAX_EVENT_BYTES and not (headers and is_binary(headers)):
        plain = unwrapped(value) if value[0] in WRAPPED else value
        # an escape may hide a control character or a surrogate
        if b"\\" not in plain and b"\x7f" not in plain:
            try:
                event = read_usual(plain, received)
            except (DecodeError, ValueError, RecursionError):
                event = None
    if event is None:
        return _explain(value, headers, received, max_age)
    return event if event.time >= received - max_age else _too_old(event)


def decode_all(records: Sequence[Any], *, max_age: int) -> list[Event | DeadLetter]:
    """As `decode` of the value, headers and timestamp of each record; nearly all polls hold usual events alone."""
    found: list[Event | DeadLetter] = []
    for start in range(0, len(records), _AT_ONCE):
        some = records[start : start + _AT_ONCE]
        found += _all_usual(some, max_age) or [
            decode(each.value, each.headers, each.timestamp, max_age=max_age) for each in some
        ]
    return found


def _all_usual(records: Sequence[Any], max_age: int) -> list[Event] | None:
    """The events in records without headers; None where one of them needs another look."""
    values = [record.value for record in records]
    if not all(values) or max(map(len, values)) > MAX_EVENT_BYTES or any(record.headers for record in records):
        return None
    timestamps = [record.timestamp for record in records]
    if min(timestamps) < _EARLIEST or max(timestamps) > _LATEST:
        return None
    joined = b"".join(values)
    if b"\\" in joined or b"\x7f" in joined or not joined.isascii():
        return None
    received = [timestamp * 1000 for timestamp in timestamps]
    try:
        events = [event for event in map(usual_event, map(usual, values), received) if event is not None]
    except (DecodeError, ValueError, RecursionError):
        return None
    if len(events) < len(records) or any(event[3] < event[9] - max_age for event in events):
        return None
    return events


def decode_booking(value: bytes | None, headers: Headers, key: bytes | None = None) -> Booking | BookingGone | DeadLetter:
    """A record of the bookings topic. The key only counts where the value is null: elsewhere the data names the booking."""
    try:
        if value is None:
            return _gone(key)
        doc = _validated(value, headers, Topic.BOOKINGS)
        booking_id = doc["data"]["bookingId"]
        return BookingGone(booking_id) if doc["type"] == EventType.BOOKING_DELETED else _booking(booking_id, doc)
    except Refused as refused:
        return refused.letter


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
        f"time: too long before the event was received ({since}); set the device's clock, or send history with the "
        f"header {RECEIVED_HEADER}",
    )


def _explain(value: bytes | None, headers: Headers, received: int, max_age: int) -> Event | DeadLetter:
    try:
        event = _event(_validated(value, headers, Topic.EVENTS), received)
    except Refused as refused:
        return refused.letter
    return event if event.time >= received - max_age else _too_old(event)


def _validated(value: bytes | None, headers: Headers, topic: Topic) -> Any:
    """The CloudEvent as one dict, its ids normalised; every rule of the contract checked in the contract's order."""
    limit = MAX_EVENT_BYTES if topic is Topic.EVENTS else MAX_BOOKING_BYTES
    if value is not None and len(value) > limit:
        raise Refused(Reason.TOO_LARGE, f"value: has {len(value)} bytes; send at most {limit}")
    doc = read_event(value, headers)
    _check_envelope(doc, headers)
    kind = doc["type"]
    adapter = DATA[topic].get(kind)
    if adapter is None:
        detail = f"type: not one of the {topic} topic; use {', '.join(DATA[topic])}"
        raise Refused(Reason.UNKNOWN_TYPE, (is_binary(headers) and quoted_header_detail("type", kind)) or detail)
    data = data_of(doc)
    try:
        return {**doc, "data": adapter.validate_python(data)}
    except ValidationError as error:
        raise Refused(Reason.INVALID_FIELD, field_detail(_first(error), "data.", kind)) from None


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
        raise Refused(Reason.INVALID_ENVELOPE, detail) from None
    try:
        parse_time(doc["time"])
    except ValueError:
        detail = time_detail("time", doc["time"])
        raise Refused(
            Reason.INVALID_ENVELOPE, (is_binary(headers) and quoted_header_detail("time", doc["time"])) or detail
        ) from None
    if doc.get("data") is not None and doc.get("data_base64") is not None:
        raise Refused(Reason.INVALID_ENVELOPE, "data_base64: stands beside data; send one of them")


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_context=False)[0]


def _gone(key: bytes | None) -> BookingGone:
    booking_id = booking_of_key(key)
    if booking_id is None:
        raise Refused(
            Reason.INVALID_FIELD, "key: a null value deletes the booking that its key names; write the bookingId there"
        )
    return BookingGone(booking_id)


def _booking(booking_id: str, doc: dict[str, Any]) -> Booking:
    data = doc["data"]
    listed = data.get("sessions")
    sessions: dict[str, Window] | None = None if listed is None else {}
    for index, entry in enumerate(listed or ()):
        where = f"data.sessions.{index}"
        window = Window(*(_optional_time(entry, name, where) for name in ("startsAt", "endsAt")))
        session_id = entry["sessionId"]
        assert sessions is not None
        sessions[session_id] = _widest(sessions.get(session_id), window)
    return Booking(
        booking_id,
        data["numberOfParticipants"],
        data.get("walkInsAllowed") or False,
        data.get("status") == "CANCELED",
        sessions and in_order(sessions),
        parse_time(doc["time"]),
    )


def _optional_time(entry: dict[str, Any], name: str, where: str) -> int | None:
    text = entry.get(name)
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError:
        raise Refused(Reason.INVALID_FIELD, time_detail(f"{where}.{name}", text)) from None


def _widest(one: Window | None, other: Window) -> Window:
    if one is None:
        return other
    starts = [t for t in (one.starts, other.starts) if t is not None]
    ends = [t for t in (one.ends, other.ends) if t is not None]
    return Window(min(starts, default=None), max(ends, default=None))
