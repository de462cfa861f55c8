"""A copy of one partition's tables and of its alerts topic, and what Redis should hold of it, in a store of this process.

It is filled from the changelogs, whose rows merge as a recovery merges them, and follows them from then on.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from schemas.alerts import AlertEvent
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, listed_by
from worker.domain.devices import Devices, device_suffix, devices_of
from worker.domain.erasures import Erasures
from worker.domain.rows import (
    APPLIED_SUFFIX,
    PARTITION_GROUP,
    PARTITION_SUFFIX,
    Applied,
    decode_reference,
    load,
    merge_attendance_rows,
    merge_booking_rows,
)
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.stores.base import SEPARATOR, Store
from worker.engine.table import Table
from worker.ops.alert_records import Concerns
from worker.ops.changelog_steps import Step, booking_of, read_steps
from worker.ops.watched import Watched
from worker.read_model.content import (
    DEVICES,
    DEVICES_AT,
    PAIRS,
    SESSIONS,
    SESSIONS_START,
    UNLISTED,
    Content,
    Place,
    added,
    is_tally,
    start_score,
    tally_key,
)
from worker.settings import Settings
from worker.stream.group import check_settings
from worker.stream.group_topic import find_erase_key
from worker.stream.projection import current_alert_event, project_all
from worker.topics import BATCH_BYTES, TopicNames

#: Bookings that are loaded together.
_AT_ONCE = 500
_ATTENDANCE, _BOOKINGS, _ALERTS, _CONTENT = range(4)
_ZERO = bytes(8)
#: Indexes of sessions: the score that follows from a tally.
_OF_TALLIES: Mapping[bytes, Callable[[bytes], bytes]] = {SESSIONS: lambda _: _ZERO, SESSIONS_START: start_score}
#: Watched places up to which the batches of the owner are applied one by one, and records that are applied together otherwise.
_STEPPED, _APPLIED_AT_ONCE = 200, 2_000


class TableCopy:
    """The copy of one partition.

    Args:
        store: tables 0 to 3 are used; what they hold of the partition is dropped by `drop`.
        consumer: see `worker.engine.log_reader.find_windows`.
        on_progress: called with the number of records or bookings that were worked off.
    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        store: Store,
        consumer: AIOKafkaConsumer,
        on_progress: Callable[[int], None],
    ) -> None:
        self.partition = partition
        self._consumer = consumer
        self.rules = Rules(**{name: value for name, value in settings.shaping().items() if name != "partitions"})
        self._settings = settings
        self._client = settings.kafka_client()
        topics = TopicNames.of(settings.topic_prefix, settings.tables)
        self._attendance = Table(topics.attendance_changelog, merge_attendance_rows, BATCH_BYTES, store, _ATTENDANCE)
        self._bookings = Table(topics.bookings_changelog, merge_booking_rows, BATCH_BYTES, store, _BOOKINGS)
        self._alerts, self._content = store.table(_ALERTS), store.table(_CONTENT)
        self._alerts_topic = topics.alerts
        self._next = {topics.bookings_changelog: 0, topics.attendance_changelog: 0, topics.alerts: 0}
        self._store = store
        self._on_progress = on_progress
        self._devices = Devices({})
        self._erasures = Erasures({}, b"")

    def drop(self) -> None:
        """Deletes the copy."""
        for number in range(4):
            self._store.table(number).drop(self.partition)

    async def fill(self) -> None:
        """Reads the changelogs, and computes what Redis should hold.

        Raises:
            SettingsConflict: the tables were made with other settings than these.
        """
        for table in (self._attendance, self._bookings):
            table.open(self.partition)
        async for table, records in self._read(await self._ends()):
            table.recover(self.partition, records)
        for table in (self._attendance, self._bookings):
            table.recovered(self.partition, self._next[table.changelog])
        (rows,) = self._attendance.rows(self.partition, [PARTITION_GROUP])
        if PARTITION_SUFFIX in rows:
            check_settings(json.loads(rows[PARTITION_SUFFIX])["settings"], self._settings.shaping())
        self._erasures = Erasures(rows, await find_erase_key(self._settings))
        self._devices = Devices(devices_of(rows))
        self._write_devices(self._devices.newest())
        names = self.bookings()
        while part := list(islice(names, _AT_ONCE)):
            self._write(Content(), self._project(self.states(part), {}))
            self._on_progress(len(part))

    async def follow(self, watched: Watched | None = None, on_step: Callable[[set[Place]], None] = lambda _: None) -> None:
        """Reads what the changelogs have got since.

        Args:
            watched: is given all that this concerns.
            on_step: called with those of these places that it may have changed: if there are few, after each batch of the
                owner that concerns some of them; otherwise, which is cheaper, after thousands of records.
        """
        watched = Watched() if watched is None else watched
        waiting, concerned = Step([], []), set[Place]()
        async with aclosing(self._steps()) as steps:
            async for step in steps:
                by_booking = self._see(watched, step)
                if len(watched) <= _STEPPED and by_booking:
                    self._apply(step.of(by_booking.keys()))
                    on_step(set().union(*by_booking.values()))
                    step = Step(*([each for each in some if booking_of(each) not in by_booking] for some in step))  # noqa: PLW2901
                else:
                    concerned = concerned.union(*by_booking.values())
                waiting.add(step)
                if len(waiting) >= _APPLIED_AT_ONCE:
                    self._apply(waiting)
                    on_step(concerned)
                    waiting, concerned = Step([], []), set()
                    await asyncio.sleep(0)
        self._apply(waiting)
        on_step(concerned)

    @property
    def applied(self) -> Applied:
        """How far the topics are applied in the tables."""
        (rows,) = self._attendance.rows(self.partition, [PARTITION_GROUP])
        return Applied.decode(rows.get(APPLIED_SUFFIX))

    def bookings(self) -> Iterator[bytes]:
        """Every booking of the tables; one that is in both may come twice. The tables must not change meanwhile."""
        yield from (group for group in self._attendance.groups(self.partition) if group != PARTITION_GROUP)
        groups = self._bookings.groups(self.partition)
        while part := list(islice(groups, _AT_ONCE)):
            for group, rows in zip(part, self._attendance.rows(self.partition, part), strict=True):
                if not rows:
                    yield group

    def lacking_sources(self, newest: Mapping[str, bytes]) -> list[str]:
        """Those of these sources of which the tables lack the newest event."""
        return self._devices.lacking(newest)

    def states(self, names: Sequence[bytes]) -> list[BookingState]:
        """These bookings."""
        references = self._bookings.get(self.partition, [(name, b"") for name in names])
        rows = self._attendance.rows(self.partition, names)
        return [
            load(name.decode(), of_booking, reference, self.rules, self._erasures.marker(name.decode()))
            for name, of_booking, reference in zip(names, rows, references, strict=True)
        ]

    def content(self) -> Iterator[list[tuple[Place, bytes]]]:
        """Every place at which Redis should hold something, with that, some at a time."""
        for page in self._content.pages(self.partition):
            places = list[tuple[Place, bytes]]()
            for key, value in page:
                group, _, member = key.partition(SEPARATOR)
                if is_tally(group):
                    session = group.removeprefix(tally_key(b""))
                    places += [((SESSIONS, session), _ZERO), ((SESSIONS_START, session), start_score(value))]
                if not group.startswith(PAIRS):
                    places.append(((group, member), value))
            yield places

    def expected(self, places: Sequence[Place]) -> list[bytes | None]:
        """What Redis should hold at these places."""
        stored = [(tally_key(member), b"") if key in _OF_TALLIES else (key, member) for key, member in places]
        values = self._content.get(self.partition, [key + SEPARATOR + member for key, member in stored])
        return [
            _OF_TALLIES[key](value) if key in _OF_TALLIES and value is not None else value
            for (key, _), value in zip(places, values, strict=True)
        ]

    def pairs(self, session: bytes) -> Mapping[bytes, bytes]:
        """The contributions of a session's pairs by id."""
        (pairs,) = self._content.rows(self.partition, [PAIRS + session])
        return pairs

    async def follow_alerts(self) -> None:
        """Reads what the alerts topic has got since the last time."""
        async for tp, records in self._read_topics([await self._window(self._alerts_topic)]):
            rows = {record.key + SEPARATOR: record.value for record in records if record.key and SEPARATOR not in record.key}
            self._alerts.write(tp.partition, rows.items(), None)

    def alerts_of_topic(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Key and value of the last record of each key in the alerts topic, some at a time."""
        keys = self._alerts.groups(self.partition)
        while part := list(islice(keys, _AT_ONCE)):
            yield [(key, value) for key, value in zip(part, self.topic_values(part), strict=True) if value is not None]

    def topic_values(self, alerts: Sequence[bytes]) -> list[bytes | None]:
        """The last records of these alerts in the topic."""
        return self._alerts.get(self.partition, [key + SEPARATOR for key in alerts])

    def alert_events(self, alerts: Sequence[Concerns]) -> list[AlertEvent | None]:
        """What the alerts topic should say last of these; None: it was never open."""
        names = list({booking.encode() for booking, _, _ in alerts})
        states = {state.booking_id: state for state in self.states(names)}
        return [current_alert_event(states[booking], kind, session) for booking, kind, session in alerts]

    def _see(self, watched: Watched, step: Step) -> dict[bytes, set[Place]]:
        """By booking: the watched places that records may have changed, of those that concern some."""
        if not watched:
            return {}
        sessions, of_partition = step.sessions(), watched.add_sources(step.devices())
        wholes = [booking for booking, some in sessions.items() if some is None]
        found = {booking: watched.add(booking.decode(), some) for booking, some in sessions.items() if some is not None}
        for booking, state in zip(wholes, self.states(wholes), strict=True):
            found[booking] = watched.add(state.booking_id, state.rows.keys() | listed_by(state.booking).keys())
        for record in step.bookings:
            # a listing may come and go between two rows that are read together
            if record.value is not None:
                name = booking_of(record)
                current, removed = decode_reference(name.decode(), record.value)
                found[name] |= watched.add(name.decode(), listed_by(current.booking).keys() | removed)
        found[PARTITION_GROUP] = of_partition
        return {booking: places for booking, places in found.items() if places}

    def _apply(self, step: Step) -> None:
        sessions = step.sessions()
        groups = list(sessions)
        before = self._project(self.states(groups), sessions)
        self._erasures.take(step.markers())
        self._attendance.recover(self.partition, step.attendance)
        self._bookings.recover(self.partition, step.bookings)
        self._write(before, self._project(self.states(groups), sessions))
        # a deletion says nothing: which sources leave follows from the others
        rows = {device_suffix(source): row for source, row in step.devices().items() if row is not None}
        self._write_devices(self._devices.update(devices_of(rows)))

    def _project(self, states: Iterable[BookingState], sessions: Mapping[bytes, Collection[str] | None]) -> Content:
        content = Content()
        for state in states:
            project_all(state, content, sessions.get(state.booking_id.encode()))
        return content

    def _write(self, before: Content, now: Content) -> None:
        old, new = before.with_alerts(), now.with_alerts()
        changes: dict[Place, bytes | None] = dict.fromkeys(old.keys() - new.keys())
        changes.update(new)
        changes.update(self._summed(tally_key, before.tallies, now.tallies))
        changes.update(self._summed(lambda _: UNLISTED, {b"": before.unlisted}, {b"": now.unlisted}))
        self._write_content(changes)

    def _summed(
        self, key_of: Callable[[bytes], bytes], before: Mapping[bytes, Counter[str]], now: dict[bytes, Counter[str]]
    ) -> dict[Place, bytes | None]:
        """The sums that changed, given by session what some bookings contributed before and contribute now."""
        for session, counts in before.items():
            now.setdefault(session, Counter()).subtract(counts)
        names = [session for session, counts in now.items() if any(counts.values())]
        places = [(key_of(session), b"") for session in names]
        values = zip(names, places, self.expected(places), strict=True)
        return {place: added(value, now[name]) for name, place, value in values}

    def _write_devices(self, changed: Mapping[str, bytes | None]) -> None:
        content = Content()
        for source, newest in changed.items():
            if newest is not None:
                content.device(source, newest)
        left = [source.encode() for source, newest in changed.items() if newest is None]
        gone = {(key, source): None for key in (DEVICES, DEVICES_AT) for source in left}
        self._write_content({**content.values, **gone})

    def _write_content(self, changes: Mapping[Place, bytes | None]) -> None:
        self._content.write(
            self.partition, [(key + SEPARATOR + member, value) for (key, member), value in changes.items()], None
        )

    async def _steps(self) -> AsyncGenerator[Step]:
        of_bookings, of_attendance = await self._ends()
        async with (
            aclosing(self._read_topics([of_bookings])) as bookings,
            aclosing(self._read_topics([of_attendance])) as attendance,
            aclosing(read_steps(attendance, bookings, self.applied.bookings)) as steps,
        ):
            async for step in steps:
                yield step

    async def _ends(self) -> list[dict[TopicPartition, range]]:
        # bookings first: rows there are covered by the applied offsets, which the other changelog has before them
        return [await self._window(table.changelog) for table in (self._bookings, self._attendance)]

    async def _window(self, topic: str) -> dict[TopicPartition, range]:
        return await find_windows(
            self._client, topic, [self.partition], self._next[topic], by_time=False, consumer=self._consumer
        )

    async def _read(
        self, windows: Iterable[Mapping[TopicPartition, range]]
    ) -> AsyncGenerator[tuple[Table, list[ConsumerRecord]]]:
        tables = {table.changelog: table for table in (self._attendance, self._bookings)}
        async for tp, records in self._read_topics(windows):
            yield tables[tp.topic], records

    async def _read_topics(
        self, windows: Iterable[Mapping[TopicPartition, range]]
    ) -> AsyncGenerator[tuple[TopicPartition, list[ConsumerRecord]]]:
        joined = {tp: window for each in windows for tp, window in each.items()}
        async for tp, (_, records, end) in read_windows(self._client, joined):
            self._next[tp.topic] = end
            yield tp, records
            self._on_progress(len(records))
