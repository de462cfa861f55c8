"""The product as the property tests see it: decode, fold, judge and project, without Kafka and Redis.

Events go in as bytes and come out as what the read models and the alerts topic would be sent; tallies are added up from
the pairs here, as ``apply.lua`` does in Redis (which the integration tests compare with the same oracle).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from random import Random
from struct import unpack_from
from typing import Any

from schemas.decoding.explain import decode
from schemas.events import DeadLetter, Event
from schemas.times import format_time
from tests.support import oracle
from tests.support.cores import Tables, fetched
from tests.support.oracle import Delivery, Outcome, Rules
from tests.support.shown_bookings import ShownBookings
from worker.domain import alert_rules
from worker.domain.booking_state import NOWHERE, BookingRecord, BookingState
from worker.domain.devices import MOST_DEVICES, Devices, device_rows, devices_of
from worker.domain.erasures import Marker
from worker.domain.fold import NEVER, NOTHING, Row
from worker.domain.row_codec import FORMAT, encode
from worker.domain.rows import (
    _BOOKING,
    BOOKINGS,
    EVENTS,
    SEPARATOR,
    load,
    merge_attendance_rows,
    merge_booking_rows,
    void_rows,
)
from worker.read_model.booking_records import unpack_summary
from worker.read_model.devices import NewestEvent, unpack_newest
from worker.read_model.documents import contribution_size, minute_of, names_of, unpack, unpack_contribution
from worker.read_model.write_batch import _ARRIVED, _MOVED, _SAME, Entries
from worker.stream.core import Changes
from worker.stream.projection import project_changed_devices, surplus_devices

Batch = Sequence[Delivery] | Sequence[oracle.BookingRecord]
State = dict[str, tuple[int, dict[str, tuple[Row, dict[bytes, bytes]]]]]
_Read = tuple[list[Event], list[tuple[str, BookingRecord]]]
"""Events, and booking records by booking."""

_MAX_AGE = 365 * 86400 * 1_000_000


def outcome(batches: Sequence[Batch], rules: Rules = Rules(), most_devices: int = MOST_DEVICES) -> Outcome:
    """What readers see after these batches."""
    shown = _Shown()
    for changes in _folded(batches, rules, most_devices):
        shown.take(changes.entries)
    return shown.outcome()


def survived(batches: Sequence[Batch], chance: Random, most_devices: int = MOST_DEVICES) -> Outcome:
    """What readers see where one worker after the other dies while batches are stored that readers were not told of.

    Who takes over finds the rows, reads again from an offset committed before, in other batches, and knows how far readers
    were told. Deleted rows of devices may come back, since a recovery does not know which records are newer.
    """
    records = [record for batch in batches for record in batch]
    shown, tables = _Shown(), Tables(_rules(Rules()))
    device_records = dict[bytes, bytes]()
    kept = projected_offset = 0
    lives = chance.randint(1, 4)
    for life in range(lives + 1):
        tables = Tables(_rules(Rules()), tables.rows, tables.references)
        devices = Devices(devices_of(device_records), most_devices)
        if devices.is_full:
            shown.take(surplus_devices(devices, shown.devices.keys()))
        at, redelivered, known = max(0, projected_offset - chance.choice((0, 0, 1, 3))), kept, projected_offset >= kept
        dies = len(records) if life == lives else chance.randint(at, len(records))
        waiting: list[tuple[list[Entries], int]] = []
        quick = chance.choice((0.0, 0.3, 0.8))
        while at < dies:
            some = list(enumerate(records[at : at + chance.randint(1, 4)], at))
            is_redelivery, emitted = at < redelivered, list[Entries]()
            for topic, read in _by_topic(some):
                contents, changes = tables.fold(
                    topic, read, is_redelivery=is_redelivery, known=known, projected_offset=projected_offset
                )
                changed = project_changed_devices(devices, contents.sources, changes.entries, is_redelivery=is_redelivery)
                for suffix, row in device_rows(changed).items():
                    if row is not None:
                        old = device_records.get(suffix)
                        device_records[suffix] = row if old is None else merge_attendance_rows(suffix, old, row)
                emitted.append(changes.entries)
            at += len(some)
            waiting.append((emitted, at))
            kept = max(kept, at)
            while waiting and (len(waiting) > 3 or (life == lives and at == dies) or chance.random() < quick):
                emitted, projected_offset = waiting.pop(0)
                for entries in emitted:
                    shown.take(entries)
                known = known or projected_offset >= redelivered
    return shown.outcome()


def forgotten(batches: Sequence[Batch], chance: Random) -> tuple[Outcome, set[str]]:
    """What readers see where rows of erased bookings leave at any time between two batches, and what stays are markers.

    Rows that left may come back as they once were, since a recovery merges the records of a changelog.

    Returns:
        And the bookings of which nothing is stored but their marker.
    """
    shown, tables, offset = _Shown(), Tables(_rules(Rules())), 0
    removed: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    references = dict[str, bytes]()
    empty, names = set[str](), set[str]()
    for batch in batches:
        some = list(enumerate(batch, offset))
        offset += len(batch)
        for topic, read in _by_topic(some):
            contents, changes = tables.fold(topic, read, projected_offset=offset)
            names.update(contents.missing)
            project_changed_devices(Devices({}), contents.sources, changes.entries, is_redelivery=False)
            shown.take(changes.entries)
        for name in sorted(names):
            (stored,) = tables.stored([name])
            rows, reference = dict(stored.rows), stored.reference
            state = load(name, rows, reference, _rules(Rules()), stored.marker)
            if state.erasure_horizon > NEVER and chance.random() < 0.7:
                marker = Marker(state.erasure_horizon, state.place if state.booking is None else NOWHERE)
                tables.erasures.add(name, marker)
                for suffix in void_rows(state, rows):
                    removed[name][suffix] = rows.pop(suffix)
                if state.booking is None and reference is not None:
                    references[name], reference = reference, None
                (empty.discard if rows or reference else empty.add)(name)
            if chance.random() < 0.3:
                for suffix, row in removed[name].items():
                    rows[suffix] = merge_attendance_rows(suffix, rows[suffix], row) if suffix in rows else row
                back = [each for each in (reference, references.get(name)) if each is not None]
                reference = reduce(partial(merge_booking_rows, b""), back) if back else None
            tables.rows[name] = rows
            tables.references.pop(name, None)
            if reference is not None:
                tables.references[name] = reference
            tables.core.forget([name])
    return shown.outcome(), empty


def published(batches: Sequence[Batch], rules: Rules = Rules()) -> list[dict[str, Any]]:
    """Alert CloudEvents in the order in which they are published."""
    return [json.loads(value or b"") for each in _folded(batches, rules) for _, value in each.alerts]


def state(deliveries: Sequence[Delivery]) -> State:
    """The rows that one batch of deliveries folds into."""
    tables = Tables(_rules(Rules()))
    for topic, records in _by_topic(list(enumerate(deliveries))):
        tables.fold(topic, records)
    return _loaded(tables.rows)


def merge(one: State, other: State) -> State:
    """The rows of both, merged as a recovery merges them."""
    merged: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for part in (one, other):
        for booking_id, suffix, value in _rows(part):
            old = merged[booking_id].get(suffix)
            merged[booking_id][suffix] = value if old is None else merge_attendance_rows(suffix, old, value)
    return _loaded(merged)


def decode_encode(given: State) -> State:
    """A state after a round trip through its stored bytes."""
    rows: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for booking_id, suffix, value in _rows(given):
        rows[booking_id][suffix] = value
    return _loaded(rows)


def _folded(batches: Sequence[Batch], rules: Rules, most_devices: int = MOST_DEVICES) -> Iterator[Changes]:
    """What each batch changes; every other booking is loaded from its rows before each batch."""
    tables, devices, offset = Tables(_rules(rules)), Devices({}, most_devices), 0
    for batch in batches:
        for topic, records in _by_topic(list(enumerate(batch, offset))):
            contents, changes = tables.fold(topic, records, projected_offset=offset)
            project_changed_devices(devices, contents.sources, changes.entries, is_redelivery=False)
            yield changes
        offset += len(batch)
        tables.core.forget(sorted({*tables.rows, *tables.references})[::2])


def _by_topic(batch: Sequence[tuple[int, Delivery | oracle.BookingRecord]]) -> Iterator[tuple[int, list[Any]]]:
    """The records of each topic in a batch, if it has any; events first."""
    read = [fetched(record, offset) for offset, record in batch]
    for topic in (EVENTS, BOOKINGS):
        if records := [record for each, record in read if each == topic]:
            yield topic, records


class _Shown:
    """What readers see."""

    def __init__(self) -> None:
        self._documents: dict[bytes, bytes] = {}
        self._bookings = ShownBookings()
        self._alerts: dict[str, dict[str, Any]] = {}
        self.devices: dict[str, NewestEvent] = {}

    def take(self, write: Entries) -> None:
        for kind, identity, before, document in _pairs(write.pairs):
            held = self._documents.get(identity, b"")
            # what the write says was there before is what is there, or tallies would drift
            assert before is None or (held.startswith(before) and bool(held) == bool(before))
            # the session of a pair of another kind counts as changed, and its arrivals are loaded again
            assert kind not in (_SAME, _ARRIVED) or (minute_of(held) != minute_of(document)) == (kind == _ARRIVED)
            _put(self._documents, identity, document or None)
        for entry in write.bookings:
            self._bookings.take(entry)
        for change in write.alerts:
            alert_id, *_, text = json.loads(change)
            _put(self._alerts, alert_id, json.loads(text) if text else None)
        for device in write.devices:
            _put_device(self.devices, device)

    def outcome(self) -> Outcome:
        found = [unpack(identity, document) for identity, document in self._documents.items()]
        self._bookings.check(found, self._alerts)
        return Outcome(
            {(each["bookingId"], each["sessionId"]): _without_id(each) for each in found if each is not None},
            _tallies(self._documents.values()),
            {name.decode(): unpack_summary(record) for name, record in self._bookings.records.items()},
            {
                (alert["kind"], alert["bookingId"], alert.get("sessionId")): {
                    "openedAt": alert["openedAt"],
                    "attendance": alert["attendance"] and _without_id(alert["attendance"]),
                }
                for alert in self._alerts.values()
            },
            _arrivals(self._documents.values()),
            {source: tuple(newest) for source, newest in self.devices.items()},
        )


def _pairs(entries: Iterable[bytes]) -> Iterator[tuple[int, bytes, bytes | None, bytes]]:
    """(kind, id, what it contributed before or None where that is not given, document) of each entry of a write."""
    for entry in entries:
        kind, identity, _ = unpack_from(">B16sH", entry)
        if kind == _MOVED:
            end = 20 + entry[19]
            yield kind, identity, entry[20:end], entry[end:]
        elif kind in (_SAME, _ARRIVED):
            length = contribution_size(entry[19:])
            yield kind, identity, entry[19 : 19 + length], entry[19:]
        else:
            yield kind, identity, None, entry[19:]


def _put_device(held: dict[str, NewestEvent], entry: bytes) -> None:
    end = 2 + unpack_from(">H", entry)[0]
    score, length = unpack_from(">dB", entry, end)
    newest = unpack_newest(entry[end + 9 :]) if length else None
    assert newest is None or (length == 24 and score == newest.effective // 1000)
    _put(held, entry[2:end].decode(), newest)


def decoded(delivery: Delivery) -> Event:
    """The event of a delivery."""
    _, record = fetched(delivery, 0)
    event = decode(record.value, record.headers, record.timestamp, max_age=_MAX_AGE)
    assert not isinstance(event, DeadLetter), event
    return event


def _rules(rules: Rules) -> alert_rules.Rules:
    return alert_rules.Rules(rules.clock_tolerance, rules.conflict_window, _MAX_AGE)


def _put(held: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        held.pop(key, None)
    else:
        held[key] = value


def _without_id(attendance: Any) -> dict[str, Any]:
    return {name: value for name, value in attendance.items() if name != "id"}


def _arrivals(documents: Iterable[bytes]) -> dict[str, dict[int, int]]:
    arrivals: dict[str, dict[int, int]] = {}
    for document in documents:
        each, (session, _) = unpack_contribution(document), names_of(document)
        if (minute := minute_of(document)) and each.number:
            minutes = arrivals.setdefault(session.decode(), {})
            minutes[minute] = minutes.get(minute, 0) + each.number
    return arrivals


def _tallies(documents: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    tallies: dict[str, dict[str, Any]] = {}
    windows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    names = ("attended", "notAttended", "notSet")
    zero = dict.fromkeys(("bookings", *names, "attendees", "expectedParticipants"), 0)
    for document in documents:
        (_, status, number, expected, window), (session, _) = unpack_contribution(document), names_of(document)
        tally = tallies.setdefault(session.decode(), dict(zero))
        tally["bookings"] += 1
        tally[names[status]] += 1
        tally["attendees"] += number if status == 0 else 0
        tally["expectedParticipants"] += expected
        start, _, end = window.decode().partition(":")
        windows[session.decode()].append((start, end))
    for name, tally in tallies.items():
        starts = [int(start) * 1000 for start, _ in windows[name] if start]
        ends = [int(end) * 1000 for _, end in windows[name] if end]
        tally["startsAt"] = format_time(min(starts)) if starts else None
        tally["endsAt"] = format_time(max(ends)) if ends else None
    return tallies


def _visible(states: Iterable[BookingState]) -> State:
    """Without what an empty set of events would leave."""
    found: State = {}
    for each in states:
        sessions = {
            name: (row, each.scans.get(name, {}))
            for name, (row, _) in each.rows.items()
            if row != NOTHING or each.scans.get(name)
        }
        if sessions or each.erasure_horizon > NEVER:
            found[each.booking_id] = (each.erasure_horizon, sessions)
    return found


def _rows(given: State) -> Iterator[tuple[str, bytes, bytes]]:
    for booking_id, (erasure_horizon, sessions) in given.items():
        yield booking_id, b"", _BOOKING.pack(FORMAT, False, erasure_horizon)
        for name, (row, scans) in sessions.items():
            yield booking_id, name.encode(), encode(row, 0)
            for participant, key in scans.items():
                yield booking_id, name.encode() + SEPARATOR + participant, bytes((FORMAT,)) + key


def _loaded(rows: dict[str, dict[bytes, bytes]]) -> State:
    return _visible(load(name, each, None, _rules(Rules())) for name, each in rows.items())
