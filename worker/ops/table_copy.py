"""A copy of one partition's tables and of its alerts topic, and what Redis should hold of it, in a store of this process.

It is filled from the changelogs, whose rows merge as a recovery merges them, and follows them from then on.
"""

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from schemas.alerts import OPENED, AlertEvent, AlertKind, alert_id
from schemas.attendance import attendance_id
from worker.domain.alert_rules import BITS, FREQUENT, Rules, kinds
from worker.domain.booking_state import BookingState, listed_by
from worker.domain.row_codec import ever_opened_of
from worker.domain.rows import (
    APPLIED_SUFFIX,
    PARTITION_GROUP,
    PARTITION_SUFFIX,
    Applied,
    decode_applied,
    decode_reference,
    load,
    merge_attendance_rows,
    merge_booking_rows,
)
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.stores.base import SEPARATOR, Store
from worker.engine.table import Table
from worker.read_model.content import PAIRS, SESSIONS, Content, Place, group_of, is_tally, session_of, tally_of
from worker.read_model.documents import unpack_contribution
from worker.settings import Settings
from worker.stream.group import check_settings
from worker.stream.projection import current_alert_event, project_all
from worker.topics import BATCH_BYTES, TopicNames

#: Bookings that are loaded together.
_AT_ONCE = 500
_ATTENDANCE, _BOOKINGS, _ALERTS, _CONTENT = range(4)
_ZERO = bytes(8)
_SESSION_KINDS = tuple(BITS)


@dataclass
class Touched:
    """What the records concern that were read from the changelogs."""

    bookings: set[bytes] = field(default_factory=set)
    sessions: set[bytes] = field(default_factory=set)
    ids: set[bytes] = field(default_factory=set)
    """Of attendances."""
    alerts: set[bytes] = field(default_factory=set)

    def concerns(self, place: Place) -> bool:
        """Whether what Redis holds at a place may have changed."""
        key, member = place
        if is_tally(key):
            return session_of(key) in self.sessions
        if key == SESSIONS:
            return member in self.sessions
        return (
            member in self.ids
            or member in self.bookings
            or member in self.alerts
            or member.partition(b"\0")[0] in self.bookings
        )

    def add(self, state: BookingState) -> None:
        """Adds all that readers may see of a booking."""
        self._add(state.booking_id, state.rows.keys() | listed_by(state.booking).keys())

    def add_booking_row(self, booking_id: str, value: bytes) -> None:
        """Adds what one row of ``bookings`` lists: a later row that is read with it may no longer list that."""
        record, removed = decode_reference(booking_id, value)
        self._add(booking_id, listed_by(record.booking).keys() | removed)

    def _add(self, booking: str, sessions: Iterable[str]) -> None:
        self.bookings.add(booking.encode())
        self.alerts.add(alert_id(FREQUENT, booking, None).encode())
        for name in sessions:
            self.sessions.add(name.encode())
            self.ids.add(attendance_id(booking, name))
            self.alerts.update(alert_id(kind, booking, name).encode() for kind in _SESSION_KINDS)


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
        topics = TopicNames.of(settings.topic_prefix)
        self._attendance = Table(topics.attendance_changelog, merge_attendance_rows, BATCH_BYTES, store, _ATTENDANCE)
        self._bookings = Table(topics.bookings_changelog, merge_booking_rows, BATCH_BYTES, store, _BOOKINGS)
        self._alerts, self._content = store.table(_ALERTS), store.table(_CONTENT)
        self._alerts_topic = topics.alerts
        self._next = {topics.bookings_changelog: 0, topics.attendance_changelog: 0, topics.alerts: 0}
        self._store = store
        self._on_progress = on_progress

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
        names = self.bookings()
        while part := list(islice(names, _AT_ONCE)):
            self._write({}, self._project(self.states(part), Touched()))
            self._on_progress(len(part))

    async def follow(self) -> Touched:
        """Reads what the changelogs have got since; returns what it concerns."""
        touched = Touched()
        async for table, records in self._read(await self._ends()):
            groups = list({record.key.partition(SEPARATOR)[0] for record in records} - {PARTITION_GROUP})
            before = self._project(self.states(groups), touched)
            if table is self._bookings:
                for record in records:
                    if record.value is not None:
                        touched.add_booking_row(record.key.partition(SEPARATOR)[0].decode(), record.value)
            table.recover(self.partition, records)
            self._write(before, self._project(self.states(groups), touched))
        return touched

    @property
    def applied(self) -> Applied:
        """How far the topics are applied in the tables."""
        (rows,) = self._attendance.rows(self.partition, [PARTITION_GROUP])
        return decode_applied(rows.get(APPLIED_SUFFIX))

    def bookings(self) -> Iterator[bytes]:
        """Every booking of the tables; one that is in both may come twice. The tables must not change meanwhile."""
        yield from (group for group in self._attendance.groups(self.partition) if group != PARTITION_GROUP)
        groups = self._bookings.groups(self.partition)
        while part := list(islice(groups, _AT_ONCE)):
            for group, rows in zip(part, self._attendance.rows(self.partition, part), strict=True):
                if not rows:
                    yield group

    def states(self, names: Sequence[bytes]) -> list[BookingState]:
        """These bookings."""
        references = self._bookings.get(self.partition, [(name, b"") for name in names])
        rows = self._attendance.rows(self.partition, names)
        return [
            load(name.decode(), of_booking, reference, self.rules)
            for name, of_booking, reference in zip(names, rows, references, strict=True)
        ]

    def groups(self) -> Iterator[bytes]:
        """Every group of places at which Redis should hold something, see `content.group_of`."""
        return self._content.groups(self.partition)

    def expected_of(self, groups: Collection[bytes]) -> list[Mapping[bytes, bytes]]:
        """What is expected in each group, by member."""
        return self._content.rows(self.partition, groups)

    def expected(self, places: Sequence[Place]) -> list[bytes | None]:
        """What Redis should hold at these places."""
        plain = [place for place in places if place[0] != SESSIONS and not is_tally(place[0])]
        stored = self._content.get(self.partition, [group_of(place) + SEPARATOR + place[1] for place in plain])
        values = dict(zip(plain, stored, strict=True))
        for place in set(places) - values.keys():
            key, member = place
            pairs = self.pairs(member if key == SESSIONS else session_of(key))
            values[place] = tally_of(map(unpack_contribution, pairs.values())) if key != SESSIONS else _ZERO if pairs else None
        return [values[place] for place in places]

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

    def alert_events(self, alerts: Sequence[tuple[str, AlertKind, str | None]]) -> list[AlertEvent | None]:
        """What the alerts topic should say last of these (bookingId, kind, sessionId); None: it was never open."""
        names = list({booking.encode() for booking, _, _ in alerts})
        states = {state.booking_id: state for state in self.states(names)}
        return [current_alert_event(states[booking], kind, session) for booking, kind, session in alerts]

    def _project(self, states: Iterable[BookingState], touched: Touched) -> dict[Place, bytes]:
        content = Content()
        for state in states:
            project_all(state, content)
            touched.add(state)
        return content.with_alerts()

    def _write(self, before: Mapping[Place, bytes], now: Mapping[Place, bytes]) -> None:
        changes: dict[Place, bytes | None] = dict.fromkeys(before.keys() - now.keys())
        changes.update(now)
        records = [(group_of(place) + SEPARATOR + place[1], value) for place, value in changes.items()]
        self._content.write(self.partition, records, None)

    async def _ends(self) -> list[dict[TopicPartition, range]]:
        # bookings first: rows there are covered by the applied offsets, which the other changelog has before them
        return [await self._window(table.changelog) for table in (self._bookings, self._attendance)]

    async def _window(self, topic: str) -> dict[TopicPartition, range]:
        return await find_windows(
            self._client, topic, [self.partition], self._next[topic], by_time=False, consumer=self._consumer
        )

    async def _read(
        self, windows: Iterable[Mapping[TopicPartition, range]]
    ) -> AsyncIterator[tuple[Table, list[ConsumerRecord]]]:
        tables = {table.changelog: table for table in (self._attendance, self._bookings)}
        async for tp, records in self._read_topics(windows):
            yield tables[tp.topic], records

    async def _read_topics(
        self, windows: Iterable[Mapping[TopicPartition, range]]
    ) -> AsyncIterator[tuple[TopicPartition, list[ConsumerRecord]]]:
        joined = {tp: window for each in windows for tp, window in each.items()}
        async for tp, (_, records, end) in read_windows(self._client, joined):
            self._next[tp.topic] = end
            yield tp, records
            self._on_progress(len(records))


def topic_state(event: Any) -> bytes | None:
    """What matters of an alert's event: its data while it is open; None if it is resolved, or there is none.

    The id of the event depends on rows that readers do not see, and ``backfill`` on how the alert was opened.
    """
    return None if event is None or event["type"] != OPENED else orjson.dumps(event["data"], option=orjson.OPT_SORT_KEYS)


def current_alerts(state: BookingState) -> Iterator[tuple[str, AlertKind, str | None]]:
    """(bookingId, kind, sessionId) of each alert of a booking that was ever open."""
    for name, row in state.rows.items():
        for kind in kinds(ever_opened_of(row) | state.masks.get(name, 0)):
            yield state.booking_id, kind, name
    if state.ever_frequent or state.frequent:
        yield state.booking_id, FREQUENT, None


def parse_alert(key: bytes, value: bytes | None) -> tuple[Any, tuple[str, AlertKind, str | None]] | None:
    """An event of the alerts topic and what it concerns; None if the record is no alert."""
    try:
        event = orjson.loads(value or b"")
        data = event["data"]
        concerns = data["bookingId"], AlertKind(data["kind"]), data.get("sessionId")
        is_alert = isinstance(event["type"], str) and alert_id(concerns[1], concerns[0], concerns[2]).encode() == key
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return (event, concerns) if is_alert else None
