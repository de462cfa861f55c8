"""Decodes the raw records of one poll: events and booking records by booking, dead letters, forwards."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from schemas.decoding.explain import booking_of_key, decode_all, decode_booking, received_at
from schemas.events import (
    BACKFILL_HEADER,
    BOOKING_ID,
    RECEIVED,
    SESSION_ID,
    SOURCE,
    TIME,
    TYPE,
    Booking,
    DeadLetter,
    Event,
    EventType,
)
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingRecord, Place
from worker.domain.devices import SourceEvents, newest_by_source
from worker.domain.rows import EVENTS
from worker.engine.fetching import Fetched
from worker.stream.originals import NULL, first_offset, pack_original

#: Booking records that are decoded before other tasks get their turn: each takes ten times as long as an event.
_DECODED_AT_ONCE = 500
#: The id of an operation in `BACKFILL_HEADER`; any other value is ignored.
_is_operation = re.compile(rb"[\w-]{1,64}").fullmatch
_headers_of = attrgetter("headers")
_type_of, _source_of, _source_and_session_of = itemgetter(TYPE), itemgetter(SOURCE), itemgetter(SOURCE, SESSION_ID)
_MINUTE = 60_000_000

Records = Sequence[Any]
IsOurs = Callable[[str], bool]
"""Whether a booking belongs to the partition that the records were read from."""


class DecodedBatch(NamedTuple):
    """A decoded batch."""

    events: dict[str, list[Event]]
    """By booking."""
    booking_records: dict[str, list[BookingRecord]]
    """Booking records that have their booking's key, by booking."""
    last_places: dict[str, Place]
    """By booking, the place of the last record with the booking's key, also if its data names another booking."""
    dead_letters: list[tuple[Any, DeadLetter, int]]
    """(record, why it cannot be used, received in microseconds)."""
    forwards: list[tuple[Any, str, int]]
    """(record, its bookingId, received in microseconds) of records in a wrong partition or with a wrong key."""
    newest: int | None
    """The newest effective time of its events, or the newest reception of its booking records; microseconds."""
    backfills: Mapping[str, str]
    """By booking, the operation that published its records again; empty, or no entry: at least one of them is live."""
    folded: Mapping[str, int]
    """By type, how many events, or booking records, are folded here."""
    forwarded: Mapping[str, int]
    """By type, how many are forwarded to their partition."""
    sources: Mapping[str, SourceEvents]
    """The sources of the events that are folded here, each with the newest of them."""
    received: Mapping[str, Mapping[int, int]]
    """By source, how many of these were received in which minute since the epoch."""
    at_sessions: Mapping[str, Mapping[str, int]]
    """By source, how many of these are of which session."""


async def decode_batch(topic: int, fetched: Fetched, is_ours: IsOurs, rules: Rules) -> DecodedBatch:
    """Decodes what one poll took of the events or the bookings topic (see `worker.domain.rows`)."""
    records = fetched.records
    if topic == EVENTS:
        return read_events(records, is_ours, rules.max_event_age, rules.clock_tolerance)
    parts = []
    for start in range(0, len(records), _DECODED_AT_ONCE):
        parts.append(read_bookings(records[start : start + _DECODED_AT_ONCE], is_ours))
        await asyncio.sleep(0)
    return joined(parts)


def read_events(records: Records, is_ours: IsOurs, max_age: int, tolerance: int) -> DecodedBatch:
    """Decodes records of the events topic; ``max_age`` and ``tolerance`` (of clocks that are ahead) in microseconds."""
    dead_letters: list[tuple[Any, DeadLetter, int]] = []
    forwards: list[tuple[Any, str, int]] = []
    events: dict[str, list[Event]] = {}
    forwarded: Counter[str] = Counter()
    newest = None
    decoded = decode_all(records, max_age=max_age)
    for record, event in zip(records, decoded, strict=True):
        if isinstance(event, DeadLetter):
            dead_letters.append((record, event, received_at(record.headers, record.timestamp)))
            continue
        booking_id, time, received = event[BOOKING_ID], event[TIME], event[RECEIVED]
        if booking_id in events:
            events[booking_id].append(event)
        elif is_ours(booking_id):
            events[booking_id] = [event]
        else:
            forwards.append((record, booking_id, received))
            forwarded[event[TYPE]] += 1
            continue
        if newest is None or newest < time:
            effective = min(time, received + tolerance)
            newest = effective if newest is None else max(newest, effective)
    backfills = _backfills(records, decoded) if _has_backfill(records) else {}
    # in the order of the records, which is that in which they lie in memory: the walks below take a third of the time
    ours: Sequence[Any] = decoded
    if dead_letters or forwards:
        ours = [each for each in decoded if not isinstance(each, DeadLetter) and each[BOOKING_ID] in events]
    folded, sources = Counter(map(_type_of, ours)), newest_by_source(ours, tolerance)
    by_minute, by_session = received_by_minute(records, ours, sources), counts_by_session(ours)
    return DecodedBatch(
        events, {}, {}, dead_letters, forwards, newest, backfills, folded, forwarded, sources, by_minute, by_session
    )


def received_by_minute(
    records: Records, events: Iterable[Event], sources: Mapping[str, SourceEvents]
) -> Mapping[str, Mapping[int, int]]:
    """By source, how many events were received in which minute since the epoch; for estimates.

    Where all records were appended in one minute, a source's events all count for that of its newest one: a few late events
    that somebody republished are not worth a look at each event.
    """
    if not records or records[0].timestamp // 60_000 == records[-1].timestamp // 60_000:
        minutes = {source: each.event.received // _MINUTE for source, each in sources.items()}
        return {source: {minutes[source]: count} for source, count in Counter(map(_source_of, events)).items()}
    found: dict[str, dict[int, int]] = {source: {} for source in sources}
    for (source, minute), count in Counter((each.source, each.received // _MINUTE) for each in events).items():
        found[source][minute] = count
    return found


def counts_by_session(events: Iterable[Event]) -> Mapping[str, Mapping[str, int]]:
    """By source, how many of these events are of which session; for estimates."""
    found: dict[str, dict[str, int]] = {}
    for (source, session_id), count in Counter(map(_source_and_session_of, events)).items():
        if session_id:
            found.setdefault(source, {})[session_id] = count
    return found


def read_bookings(records: Records, is_ours: IsOurs) -> DecodedBatch:
    """Decodes records of the bookings topic.

    A dead letter makes the booking of its key unknown, if the key is the booking's normalised id and the partition is the
    booking's: compaction would leave no other record of that booking. Any other dead letter changes nothing.
    """
    backfills: dict[str, str] = {}
    folded: Counter[str] = Counter()
    forwarded: Counter[str] = Counter()
    batch = DecodedBatch({}, {}, {}, [], [], None, backfills, folded, forwarded, {}, {}, {})
    newest = None
    for record in records:
        received = received_at(record.headers, record.timestamp)
        keyed = _booking_keyed(record.key, is_ours)
        decoded = decode_booking(record.value, record.headers, record.key)
        place = Place(received, first_offset(record.headers, record.offset), record.offset)
        if keyed is not None:
            batch.last_places[keyed] = place
        if isinstance(decoded, DeadLetter):
            batch.dead_letters.append((record, decoded, received))
            if keyed is None:
                continue
            # appended again as a null value, which has the same effect and is no dead letter
            booking, original = None, NULL
        elif decoded.booking_id != keyed:
            batch.forwards.append((record, decoded.booking_id, received))
            forwarded[_type_of_booking(decoded)] += 1
            continue
        else:
            booking = decoded if isinstance(decoded, Booking) else None
            folded[_type_of_booking(decoded)] += 1
            original = pack_original(record.headers, record.value)
            newest = received if newest is None else max(newest, received)
        batch.booking_records.setdefault(keyed, []).append(BookingRecord(place, booking, original))
        _add_backfill(backfills, keyed, _backfill_of(record.headers))
    return batch._replace(newest=newest)


def joined(parts: Iterable[DecodedBatch]) -> DecodedBatch:
    """Joins consecutive parts of a batch."""
    backfills: dict[str, str] = {}
    folded: Counter[str] = Counter()
    forwarded: Counter[str] = Counter()
    whole = DecodedBatch({}, {}, {}, [], [], None, backfills, folded, forwarded, {}, {}, {})
    newest = None
    for part in parts:
        for booking_id, events in part.events.items():
            whole.events.setdefault(booking_id, []).extend(events)
        for booking_id, records in part.booking_records.items():
            whole.booking_records.setdefault(booking_id, []).extend(records)
        whole.last_places.update(part.last_places)
        whole.dead_letters.extend(part.dead_letters)
        whole.forwards.extend(part.forwards)
        for booking_id, operation in part.backfills.items():
            _add_backfill(backfills, booking_id, operation)
        folded.update(part.folded)
        forwarded.update(part.forwarded)
        newest = max((time for time in (newest, part.newest) if time is not None), default=None)
    return whole._replace(newest=newest)


def _type_of_booking(decoded: object) -> str:
    """The type of a usable record; a null value deletes the booking too."""
    return (EventType.BOOKING_UPSERTED if isinstance(decoded, Booking) else EventType.BOOKING_DELETED).value


def _has_backfill(records: Records) -> bool:
    """Whether any record was published again; most batches have none, and cost nothing more than this."""
    return any(name.lower() == BACKFILL_HEADER for headers in map(_headers_of, records) if headers for name, _ in headers)


def _backfills(records: Records, decoded: Iterable[Event | DeadLetter]) -> dict[str, str]:
    backfills: dict[str, str] = {}
    for record, event in zip(records, decoded, strict=True):
        if not isinstance(event, DeadLetter):
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
