"""What a replay would change: its events are folded into copies of the tables' rows, and nothing is written.

Memory is bounded by the bookings that are held at a time, at most about `MOST_BOOKINGS`: where the source names more, their
hashes are cut into slices, and source and changelogs are read once more for each slice.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple
from zlib import crc32

from schemas.events import BookingGone, Event, EventType
from worker.domain import fold
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingRecord, BookingState, Place, apply_records
from worker.domain.differences import Differences, differences
from worker.domain.row_codec import EMPTY
from worker.domain.rows import (
    PARTITION_GROUP,
    PARTITION_SUFFIX,
    SEPARATOR,
    load,
    merge_attendance_rows,
    merge_booking_rows,
)
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.table import Merge
from worker.ops.replay import Control
from worker.ops.replay_sources import Item, Part, Source, count_unusable
from worker.settings import Settings
from worker.stream.group import check_settings
from worker.topics import TopicNames, partition_of

#: Bookings whose rows are held at a time.
MOST_BOOKINGS = 50_000
#: The offset of a booking record that is not published yet: behind every other one.
_LAST_OFFSET = 1 << 62
_PARTITION_KEY = PARTITION_GROUP + SEPARATOR + PARTITION_SUFFIX

Rows = dict[str, dict[bytes, bytes]]
"""Rows of a table by booking and suffix."""
Show = Callable[[str, Differences], None]
"""Called with each booking that differs."""


class Effect(StrEnum):
    """What one event does to the rows as they are when it is folded."""

    APPLIED = "applied"
    """It changes them."""
    STALE = "stale"
    """Newer ones count."""
    DUPLICATE = "duplicate"
    """They hold it already."""
    HORIZON = "horizon"
    """A deletion or an erasure covers it."""


class Preview(NamedTuple):
    """What a replay would do."""

    counts: Counter[str]
    """Records read and selected; events by `Effect`; dead ones by reason; attendances and alerts that would change."""
    is_complete: bool
    """False: it was stopped."""

    @property
    def changes(self) -> int:
        """Attendances, alerts and booking records that would differ."""
        return sum(self.counts[name] for name in _CHANGES)


_CHANGES = ("attendances", "opened", "resolved", "updated", "bookings")


async def preview(settings: Settings, source: Source, control: Control, show: Show) -> Preview:
    """Folds what the source has against the tables as their changelogs are now.

    Raises:
        SettingsConflict: the tables were made with other settings.
        ReplayError: a file cannot be read.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    folding = _Folding(settings, source, control)
    number = 0
    while number < folding.slices and not control.stop.is_set():
        for booking_id, changed in await folding.slice(number):
            _count(folding.counts, changed)
            show(booking_id, changed)
        number += 1
    return Preview(folding.counts, not control.stop.is_set())


def _count(counts: Counter[str], changed: Differences) -> None:
    counts["attendances"] += len(changed.attendances)
    counts["bookings"] += changed.record_differs
    for alert in changed.alerts:
        counts["opened" if alert.before is None else "resolved" if alert.after is None else "updated"] += 1


class _Folding:
    """The bookings of one slice after the other."""

    def __init__(self, settings: Settings, source: Source, control: Control) -> None:
        self.slices = 1
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._rules = Rules(**{name: value for name, value in settings.shaping().items() if name != "partitions"})
        self._source = source
        self._control = control
        self._seen = 0

    async def slice(self, number: int) -> Iterable[tuple[str, Differences]]:
        """Folds one slice; the bookings that differ, in order."""
        names = await self._names(number)
        attendance, bookings = await self._read_tables(names)
        states: dict[str, BookingState] = {}
        changed: set[str] = set()

        def load_state(name: str) -> BookingState:
            reference = bookings.get(name, {}).get(b"")
            return load(name, attendance.get(name, {}), reference, self._rules)

        async for part in self._source.read(self._source.start):
            self._report(part)
            if self._control.stop.is_set():
                return ()
            if not number:
                self.counts["read"] += len(part.items)
                self.counts.update(count_unusable(part.items))
            for item in part.items:
                if item.decoded is None or (name := item.decoded.booking_id) not in names:
                    continue
                if name not in states:
                    states[name] = load_state(name)
                effect = self._apply(states[name], item)
                self.counts["selected"] += 1
                self.counts[effect.value] += 1
                if effect is Effect.APPLIED:
                    changed.add(name)
            await asyncio.sleep(0)
        return self._differing(sorted(changed), states, load_state)

    def _differing(
        self, names: Sequence[str], states: Mapping[str, BookingState], load_state: Callable[[str], BookingState]
    ) -> Iterator[tuple[str, Differences]]:
        for name in names:
            if found := differences(load_state(name), states[name]):
                yield name, found

    async def _names(self, number: int) -> set[str]:
        """The bookings of a slice; while the first one is read, slices become smaller until one fits."""
        names: set[str] = set()
        async for part in self._source.read(self._source.start):
            self._report(part)
            if self._control.stop.is_set():
                break
            for item in part.items:
                if item.decoded is not None and self._slice_of(item.decoded.booking_id) == number:
                    names.add(item.decoded.booking_id)
            while len(names) > MOST_BOOKINGS and not number:
                self.slices *= 2
                names = {name for name in names if self._slice_of(name) == number}
            await asyncio.sleep(0)
        return names

    def _report(self, part: Part) -> None:
        # each slice is read twice: for its bookings, then to fold
        self._seen += len(part.items)
        self._control.progress(self._seen // (2 * self.slices))

    def _slice_of(self, booking_id: str) -> int:
        return crc32(booking_id.encode()) % self.slices

    async def _read_tables(self, names: set[str]) -> tuple[Rows, Rows]:
        topics = TopicNames.of(self._settings.topic_prefix, self._settings.tables)
        partitions = {partition_of(name, self._settings.partitions) for name in names}
        return (
            await self._read_table(topics.attendance_changelog, partitions, names, merge_attendance_rows),
            await self._read_table(topics.bookings_changelog, partitions, names, merge_booking_rows),
        )

    async def _read_table(self, changelog: str, partitions: set[int], names: set[str], merge: Merge) -> Rows:
        """The rows of these bookings. Rows merge, whatever the order of their records; a deleted row is void anyway."""
        rows: Rows = {}
        wanted = {name.encode(): name for name in names}
        client = self._settings.kafka_client()
        async for _, fetched in read_windows(client, await find_windows(client, changelog, partitions)):
            for record in fetched.records:
                key, value = record.key, record.value
                if key is None or value is None:
                    continue
                group, _, suffix = key.partition(SEPARATOR)
                if group in wanted:
                    held = rows.setdefault(wanted[group], {})
                    held[suffix] = merge(suffix, held[suffix], value) if suffix in held else value
                elif key == _PARTITION_KEY:
                    check_settings(json.loads(value)["settings"], self._settings.shaping())
            if self._control.stop.is_set():
                break
            await asyncio.sleep(0)
        return rows

    def _apply(self, state: BookingState, item: Item) -> Effect:
        """Folds a record into the state."""
        decoded = item.decoded
        if isinstance(decoded, Event):
            is_applied = bool(apply_records([(state, (decoded,), ())], self._rules))
            return Effect.APPLIED if is_applied else _effect(state, decoded, self._rules.clock_tolerance)
        booking = None if decoded is None or isinstance(decoded, BookingGone) else decoded
        place = Place(item.received, _LAST_OFFSET, _LAST_OFFSET)
        before = state.booking
        apply_records([(state, (), (BookingRecord(place, booking, b""),))], self._rules)
        if state.place != place:
            return Effect.STALE
        return Effect.DUPLICATE if state.booking == before else Effect.APPLIED


def _effect(state: BookingState, event: Event, tolerance: int) -> Effect:
    """Why an event changed nothing."""
    key = fold.order_key(event, tolerance)
    effective = fold.effective_time(key)
    if event.type == EventType.BOOKING_ERASED.value:
        return Effect.DUPLICATE if effective == state.erasure_horizon else Effect.STALE
    row = state.rows.get(event.session_id, EMPTY).row
    if event.type == EventType.DELETED.value and effective == row.horizon:
        return Effect.DUPLICATE
    if effective <= max(row.horizon, state.erasure_horizon):
        return Effect.HORIZON
    marks = [mark.key for mark in (row.base and row.base.mark, *row[2:]) if mark is not None]
    scan = state.scans.get(event.session_id, {}).get(fold.participant_hash(event.participant_id))
    return Effect.DUPLICATE if key in marks or key == scan else Effect.STALE
