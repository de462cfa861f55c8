"""Decodes the raw records of one poll: events and booking records by booking, dead letters, forwards."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.decoding.explain import booking_of_key, decode, decode_booking, received_at
from schemas.events import BACKFILL_HEADER, Booking, BookingGone, DeadLetter, Event, EventType
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingRecord, Place
from worker.domain.devices import SourceEvents
from worker.domain.fold import effective_time, pack_times
from worker.domain.rows import EVENTS
from worker.read_model.estimates import MOST_SESSIONS
from worker.stream.originals import NULL, first_offset, pack_original

#: Booking records that are decoded before other tasks get their turn: each takes many times as long as an event.
_DECODED_AT_ONCE = 500
#: The id of an operation in `BACKFILL_HEADER`; any other value is ignored.
_is_operation = re.compile(rb"[\w-]{1,64}").fullmatch
_MINUTE = 60_000_000
_UPSERTED, _DELETED = EventType.BOOKING_UPSERTED.value, EventType.BOOKING_DELETED.value

Records = Sequence[Any]
DecodeRecord = Callable[[bytes | None, Any, bytes | None], Booking | BookingGone | DeadLetter]
"""Decodes value, headers and key as `decode_booking` does; that of the native core gives most bookings as `EncodedBooking`."""
IsOurs = Callable[[str], bool]
"""Whether a booking belongs to the partition that the records were read from."""


class Contents(NamedTuple):
    """What a batch holds beside its events and booking records."""

    missing: list[str]
    """Bookings that are to be loaded before it is applied."""
    last_places: Mapping[str, Place]
    """By booking, the place of the last record with the booking's key, also if its data names another booking."""
    dead_letters: list[tuple[Any, DeadLetter, int]]
    """(record, why it cannot be used, received in microseconds)."""
    forwards: list[tuple[Any, str, int]]
    """(record, its bookingId, received in microseconds) of records in a wrong partition or with a wrong key."""
    newest: int | None
    """The newest effective time of its events, or the newest reception of its booking records; microseconds."""
    folded: Mapping[str, int]
    """By type, how many events, or booking records, are folded here."""
    forwarded: Mapping[str, int]
    """By type, how many are forwarded to their partition."""
    sources: Mapping[str, SourceEvents]
    """The sources of the events that are folded here."""


class DecodedBatch(NamedTuple):
    """A decoded batch."""

    contents: Contents
    events: Mapping[str, list[Event]]
    """By booking."""
    booking_records: Mapping[str, list[BookingRecord]]
    """Booking records that have their booking's key, by booking."""
    backfills: Mapping[str, str]
    """By booking, the operation that published its records again; empty, or no entry: at least one of them is live."""


EMPTY = DecodedBatch(Contents([], {}, [], [], None, {}, {}, {}), {}, {}, {})
"""A batch without records."""


async def decode_batch(topic: int, records: Records, is_ours: IsOurs, rules: Rules) -> DecodedBatch:
    """Decodes what one poll took of the events or the bookings topic (see `worker.domain.rows`)."""
    if topic == EVENTS:
        return read_events(records, is_ours, rules.max_event_age, rules.clock_tolerance)
    return await read_bookings(records, is_ours)


def read_events(records: Records, is_ours: IsOurs, max_age: int, tolerance: int) -> DecodedBatch:
    """Decodes records of the events topic; ``max_age`` and ``tolerance`` (of clocks that are ahead) in microseconds."""
    dead_letters: list[tuple[Any, DeadLetter, int]] = []
    forwards: list[tuple[Any, str, int]] = []
    ours: list[tuple[Any, Event]] = []
    events: dict[str, list[Event]] = {}
    forwarded: Counter[str] = Counter()
    for record in records:
        event = decode(record.value, record.headers, record.timestamp, max_age=max_age)
        if isinstance(event, DeadLetter):
            dead_letters.append((record, event, received_at(record.headers, record.timestamp)))
        elif event.booking_id in events or is_ours(event.booking_id):
            events.setdefault(event.booking_id, []).append(event)
            ours.append((record, event))
        else:
            forwards.append((record, event.booking_id, event.received))
            forwarded[event.type] += 1
    sources = events_by_source([event for _, event in ours], tolerance)
    newest = max((effective_time(each.newest) for each in sources.values()), default=None)
    folded = Counter([event.type for _, event in ours])
    contents = Contents([], {}, dead_letters, forwards, newest, folded, forwarded, sources)
    return DecodedBatch(contents, events, {}, backfills_of(ours) if has_backfill(records) else {})


def events_by_source(events: Iterable[Event], tolerance: int) -> dict[str, SourceEvents]:
    """What these events say of their sources; of equal ones the last is the newest. ``tolerance`` in microseconds."""
    grouped: dict[str, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.source, []).append(event)
    return {source: _of_source(some, tolerance) for source, some in grouped.items()}


def _of_source(events: Sequence[Event], tolerance: int) -> SourceEvents:
    keys = [(min(each.time, each.received + tolerance), each.time, each.received, at) for at, each in enumerate(events)]
    _, time, received, newest = max(keys)
    minutes = Counter([each.received // _MINUTE for each in events])
    sessions = Counter([each.session_id for each in events if each.session_id])
    latest = dict(list(sessions.items())[-MOST_SESSIONS:])
    times = pack_times(time, received, tolerance)
    return SourceEvents(times, received, time, events[newest].session_id, minutes, latest)


async def read_bookings(records: Records, is_ours: IsOurs, decode_record: DecodeRecord = decode_booking) -> DecodedBatch:
    """Decodes records of the bookings topic.

    A dead letter makes the booking of its key unknown, if the key is the booking's normalised id and the partition is the
    booking's: compaction would leave no other record of that booking. Any other dead letter changes nothing.
    """
    backfills: dict[str, str] = {}
    booking_records: dict[str, list[BookingRecord]] = {}
    last_places: dict[str, Place] = {}
    dead_letters: list[tuple[Any, DeadLetter, int]] = []
    forwards: list[tuple[Any, str, int]] = []
    folded: Counter[str] = Counter()
    forwarded: Counter[str] = Counter()
    newest = None
    for index, record in enumerate(records):
        if index % _DECODED_AT_ONCE == _DECODED_AT_ONCE - 1:
            await asyncio.sleep(0)
        received = received_at(record.headers, record.timestamp)
        keyed = _booking_keyed(record.key, is_ours)
        decoded = decode_record(record.value, record.headers, record.key)
        # a null value deletes the booking too
        kind = _DELETED if isinstance(decoded, BookingGone) else _UPSERTED
        place = Place(received, first_offset(record.headers, record.offset), record.offset)
        if keyed is not None:
            last_places[keyed] = place
        if isinstance(decoded, DeadLetter):
            dead_letters.append((record, decoded, received))
            if keyed is None:
                continue
            # appended again as a null value, which has the same effect and is no dead letter
            booking, original = None, NULL
        elif decoded.booking_id != keyed:
            forwards.append((record, decoded.booking_id, received))
            forwarded[kind] += 1
            continue
        else:
            booking = None if isinstance(decoded, BookingGone) else decoded
            folded[kind] += 1
            original = pack_original(record.headers, record.value)
            newest = received if newest is None else max(newest, received)
        booking_records.setdefault(keyed, []).append(BookingRecord(place, booking, original))
        _add_backfill(backfills, keyed, _backfill_of(record.headers))
    contents = Contents([], last_places, dead_letters, forwards, newest, folded, forwarded, {})
    return DecodedBatch(contents, {}, booking_records, backfills)


def has_backfill(records: Records) -> bool:
    """Whether any of these records was published again."""
    return any(name.lower() == BACKFILL_HEADER for record in records for name, _ in record.headers)


def backfills_of(events: Iterable[tuple[Any, Event]]) -> dict[str, str]:
    """See `DecodedBatch.backfills`; of (record, event)."""
    backfills: dict[str, str] = {}
    for record, event in events:
        _add_backfill(backfills, event.booking_id, _backfill_of(record.headers))
    return backfills


def _add_backfill(backfills: dict[str, str], booking_id: str, operation: str) -> None:
    """Adds the operation of one record: a live record (empty) counts for the booking, whatever the others are."""
    backfills[booking_id] = operation if backfills.get(booking_id, operation) else ""


def _backfill_of(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """The operation that published a record again; empty if it is live."""
    for name, content in headers:
        if name.lower() == BACKFILL_HEADER and content is not None and _is_operation(content):
            return content.decode()
    return ""


def _booking_keyed(key: bytes | None, is_ours: IsOurs) -> str | None:
    """The booking whose normalised id the key is, if this is its partition. Of such records compaction keeps the last."""
    booking_id = booking_of_key(key)
    return booking_id if booking_id is not None and booking_id.encode() == key and is_ours(booking_id) else None
