"""From a record's bytes to an event, a booking or a dead letter: never an exception.

The usual record takes one call of msgspec on the raw JSON, in a quarter of the time pydantic takes; whatever that refuses,
and whatever holds characters that need a closer look, goes pydantic's way, which says what is wrong and how to mend it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import DecodeError
from pydantic import ValidationError

from schemas.cures import CURES, STATUS_CURES
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
from schemas.times import format_time, parse_time
from schemas.usual import normalise, read_usual, usual, usual_event

Headers = Iterable[tuple[str, bytes | None]]

_CONTROL = re.compile("[\x00-\x1f\x7f]").search
_CLOUDEVENTS = b"application/cloudevents"
#: Records of which one that is not usual costs the others a second look.
_AT_ONCE = 64
_IDENTIFIERS = frozenset({"id", "source", "bookingId", "sessionId", "participantId"})


class _Refused(Exception):
    """Carries a dead letter out of the explaining way."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.letter = DeadLetter(reason, detail)


def booking_of_key(key: bytes | None) -> str | None:
    """The normalised bookingId that a record's key spells; None where it spells none."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    booking_id = normalise(text)
    return booking_id if 0 < len(booking_id) <= 128 and not _CONTROL(text) else None


def received_at(headers: Headers, timestamp: int) -> int:
    """Microseconds when an event first reached the system: the record's timestamp (ms) or, where it is earlier, the header."""
    received = timestamp * 1000
    for name, content in headers:
        if name == RECEIVED_HEADER and content is not None:
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
    received = received_at(headers, timestamp) if headers else timestamp * 1000
    if (
        not value
        or len(value) > MAX_EVENT_BYTES
        or b"\\" in value  # an escape may hide a control character or a surrogate
        or b"\x7f" in value
        or (headers and _is_binary(headers))
    ):
        return _explain(value, headers, received, max_age)
    try:
        event = read_usual(value, received)
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
    joined = b"".join(values)
    if b"\\" in joined or b"\x7f" in joined or not joined.isascii():
        return None
    received = [record.timestamp * 1000 for record in records]
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
        booking_id = normalise(doc["data"]["bookingId"])
        return BookingGone(booking_id) if doc["type"] == EventType.BOOKING_DELETED else _booking(booking_id, doc)
    except _Refused as refused:
        return refused.letter


def _event(doc: Any, received: int) -> Event:
    data = doc["data"]
    return Event(
        type=doc["type"],
        booking_id=normalise(data["bookingId"]),
        session_id=normalise(data.get("sessionId", "")) if doc["type"] != EventType.BOOKING_ERASED else "",
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
    except _Refused as refused:
        return refused.letter
    return event if event.time >= received - max_age else _too_old(event)


def _is_binary(headers: Headers) -> bool:
    names = dict(headers)
    return any(n.startswith("ce_") for n in names) and not (names.get("content-type") or b"").lower().startswith(_CLOUDEVENTS)


def _validated(value: bytes | None, headers: Headers, topic: Topic) -> Any:
    """The CloudEvent as one dict, every rule of the contract checked in the contract's order."""
    limit = MAX_EVENT_BYTES if topic is Topic.EVENTS else MAX_BOOKING_BYTES
    if value is not None and len(value) > limit:
        raise _Refused(Reason.TOO_LARGE, f"value: has {len(value)} bytes; send at most {limit}")
    doc = _json_object(value)
    if headers and _is_binary(headers):
        doc = {**_binary_attributes(headers), "data": doc}
    _check(Reason.INVALID_ENVELOPE, ENVELOPE.validate_python, doc)
    _check_time(doc["time"], "time", Reason.INVALID_ENVELOPE)
    kind = doc["type"]
    adapter = DATA[topic].get(kind)
    if adapter is None:
        raise _Refused(Reason.UNKNOWN_TYPE, f"type: not one of the {topic} topic; use {', '.join(DATA[topic])}")
    data = doc.get("data")
    if not isinstance(data, dict):
        raise _Refused(Reason.INVALID_FIELD, f"data: {CURES['data']}")
    if kind == EventType.BOOKING_UPSERTED:
        _check_listed(data.get("sessions"))
    return {**doc, "data": _check(Reason.INVALID_FIELD, adapter.validate_python, data, "data.", kind)}


def _json_object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise _Refused(Reason.INVALID_JSON, "value: is null; send a JSON object")
    try:
        doc = json.loads(value.decode(), parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise _Refused(Reason.INVALID_JSON, f"value: not JSON in UTF-8 ({str(error)[:100]})") from None
    if not isinstance(doc, dict):
        raise _Refused(Reason.INVALID_JSON, "value: JSON, but no object; send a JSON object")
    return doc


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int | float:
    # int() of thousands of digits is slow and then refused; no field takes more than ten
    return int(digits) if len(digits) <= 20 else float("inf")


def _binary_attributes(headers: Headers) -> dict[str, str]:
    try:
        return {name[3:]: (content or b"").decode() for name, content in headers if name.startswith("ce_")}
    except UnicodeDecodeError:
        raise _Refused(Reason.INVALID_ENVELOPE, "ce_ headers: write them in UTF-8") from None


def _check(reason: Reason, validate: Any, doc: dict[str, Any], prefix: str = "", kind: str = "") -> Any:
    try:
        checked = validate(doc)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = next(part for part in reversed(first["loc"]) if isinstance(part, str) and part in CURES)
        cure = STATUS_CURES[EventType(kind)] if field == "status" else CURES[field]
        where = prefix + ".".join(str(part) for part in first["loc"])
        raise _Refused(reason, f"{where}: {'is missing; ' if first['type'] == 'missing' else ''}{cure}") from None
    for name in _IDENTIFIERS.intersection(checked):
        # in the text as it came: trimming takes some control characters away
        if _CONTROL(doc[name]):
            raise _Refused(reason, f"{prefix}{name}: {CURES[name]}")
    return checked


def _check_listed(sessions: Any) -> None:
    for index, entry in enumerate(sessions if isinstance(sessions, list) else ()):
        name = entry.get("sessionId") if isinstance(entry, dict) else None
        if isinstance(name, str) and _CONTROL(name):
            raise _Refused(Reason.INVALID_FIELD, f"data.sessions.{index}.sessionId: {CURES['sessionId']}")


def _check_time(text: str, where: str, reason: Reason) -> int:
    try:
        return parse_time(text)
    except ValueError:
        raise _Refused(reason, f"{where}: {CURES[where.rpartition('.')[2]]}") from None


def _gone(key: bytes | None) -> BookingGone:
    booking_id = booking_of_key(key)
    if booking_id is None:
        raise _Refused(
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
        session_id = normalise(entry["sessionId"])
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
    return None if text is None else _check_time(text, f"{where}.{name}", Reason.INVALID_FIELD)


def _widest(one: Window | None, other: Window) -> Window:
    if one is None:
        return other
    starts = [t for t in (one.starts, other.starts) if t is not None]
    ends = [t for t in (one.ends, other.ends) if t is not None]
    return Window(min(starts, default=None), max(ends, default=None))
