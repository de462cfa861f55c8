"""Compares one partition's tables, Redis and alerts topic.

How a difference is told from lag: the tables are read to the end of their changelogs, then it waits until Redis and the
committed offsets have reached what the tables have applied, then it reads Redis and the alerts topic, then the changelogs
again to their end. Every batch is in the changelogs before anything of it is in Redis or the topic. So what differs and is
not concerned by the records that were read last is a difference; what is concerned is looked at again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from schemas.alerts import RESOLVED, SOURCE, AlertKind, alert_id
from schemas.attendance import guid
from worker.domain.booking_state import apply_records
from worker.domain.rows import BOOKINGS, EVENTS, Ends, changed_rows
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.stores.base import Store
from worker.kafka import create_producer
from worker.ops.table_copy import TableCopy, Touched, current_alerts, parse_alert, topic_state
from worker.read_model.content import (
    PAIRS,
    SESSIONS,
    PartitionContent,
    Place,
    is_hash,
    is_tally,
    key_of,
    session_of,
    shown,
    tally_key,
    tally_of,
)
from worker.read_model.documents import unpack_contribution
from worker.read_model.freshness import STALE_AFTER, Partition
from worker.read_model.keys import PartitionKeys
from worker.read_model.lua_scripts import REQUEST_REPAIR
from worker.read_model.watermark import parse_watermark, watermark_command
from worker.redis.client import Client
from worker.redis.scripts import raise_first_error, run
from worker.settings import Settings
from worker.stream.decode_batch import decode_batch
from worker.topics import TopicNames, partition_of

#: Key of a difference in the alerts topic, and in the tables; neither is a key of Redis.
ALERTS_TOPIC, TABLES = b"alerts topic", b"tables"
#: Differences of a partition that are kept, of Redis and of the alerts topic each.
MOST_DIFFERENCES = 10_000
#: How often what changes meanwhile is looked at again.
_ROUNDS = 30
_ATTEMPTS = 3
#: Members that are compared together.
_AT_ONCE = 2_000
#: How long Redis and the committed offsets may take to reach the tables without any progress, seconds.
_PATIENCE = 60.0
_POLL_SECONDS = 0.1


class Difference(NamedTuple):
    """What differs at one place."""

    partition: int
    key: str
    """Without namespace, partition and key generation; or `ALERTS_TOPIC` or `TABLES`."""
    member: str
    problem: str
    """``missing``, ``surplus`` or ``different``; ``changing``: it changed whenever it was looked at."""
    expected: Any
    found: Any


@dataclass
class PartitionReport:
    """What became of one partition."""

    number: int
    compared: int = 0
    """Places in Redis and alerts that were compared."""
    events: int = 0
    """Records of the window that were folded."""
    differences: list[Difference] = field(default_factory=list)
    unreached: str = ""
    """Why it could not be compared."""
    redis_differs: bool = False
    alerts: dict[bytes, bytes | None] = field(default_factory=dict)
    """Records that would make the alerts topic right."""

    @property
    def is_equal(self) -> bool:
        """Whether everything was compared, and nothing differs."""
        return not self.differences and not self.unreached


class Window(NamedTuple):
    """A part of the events topic: from a time (microseconds) or an offset on."""

    begin: int
    by_time: bool


OnProgress = Callable[[int], None]


@dataclass(slots=True)
class _Candidate:
    """A place where something else was found than expected."""

    place: Place
    found: bytes | None
    concerns: tuple[str, AlertKind, str | None] | None = None
    """Of an alert in the topic."""
    documents: Mapping[bytes, bytes] | None = None
    """Of a tally: the documents at the same moment."""


class Unreached(Exception):
    """Redis or the committed offsets do not reach what the tables have applied."""


class PartitionCheck:
    """Compares one partition.

    Args:
        consumer: for the ends of topics, see `worker.engine.log_reader.find_windows`.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        consumer: AIOKafkaConsumer,
        namespace: str,
        number: int,
        store: Store,
        on_progress: OnProgress,
    ) -> None:
        self.copy = TableCopy(settings, number, store, consumer, on_progress)
        self._settings = settings
        self._topics = TopicNames.of(settings.topic_prefix)
        self._client = client
        self._number = number
        self._keys = PartitionKeys(namespace, number)
        self._on_progress = on_progress
        self._is_filled = False

    async def run(self, window: Window | None) -> PartitionReport:
        """Compares, and folds the window."""
        report = PartitionReport(self._number)
        try:
            for _ in range(_ATTEMPTS):
                report = PartitionReport(self._number)
                if not self._is_filled:
                    await self.copy.fill()
                    self._is_filled = True
                else:
                    await self.copy.follow()
                if await self._compare(report):
                    break
            else:
                raise Unreached("its read models were repaired again and again meanwhile: look at the worker's log")
            if window is not None:
                await self._fold_window(window, report)
        except Unreached as error:
            report.unreached = str(error)
        return report

    async def repair(self, found: PartitionReport) -> PartitionReport:
        """Has the owner repair what differs, and compares again."""
        if found.alerts:
            await self._publish(found.alerts)
        try:
            if found.redis_differs:
                await self._have_repaired()
        except Unreached as error:
            return PartitionReport(self._number, differences=found.differences, unreached=str(error))
        return await self.run(None)

    async def _compare(self, report: PartitionReport) -> bool:
        """Compares Redis and alerts topic; returns False if a repair replaced the keys meanwhile."""
        generation = await self._reached()
        content = PartitionContent(self._client, self._keys, generation)
        await self.copy.follow_alerts()
        candidates: dict[Place, _Candidate] = {}
        async for candidate in self._candidates(content, report):
            candidates[candidate.place] = candidate
            if len(candidates) >= MOST_DIFFERENCES:
                break
        most = len(candidates) + MOST_DIFFERENCES
        async for candidate in self._alert_candidates(report):
            candidates[candidate.place] = candidate
            if len(candidates) >= most:
                break
        remaining = list(candidates.values())
        for number in range(_ROUNDS):
            touched = await self.copy.follow()
            if await self._generation() != generation:
                return False
            remaining = self._settle(remaining, touched, report)
            if not remaining or number == _ROUNDS - 1:
                break
            if await self._reached() != generation:
                return False
            remaining = await self._look_again(content, remaining)
            if not remaining:
                break
        for candidate in remaining:
            self._add(report, candidate, self._expected(candidate), "changing")
        return True

    async def _candidates(self, content: PartitionContent, report: PartitionReport) -> AsyncIterator[_Candidate]:
        """Places where Redis holds something else than expected: first those that are expected, then all that Redis has."""
        groups = self.copy.groups()
        while part := list(islice(groups, _AT_ONCE)):
            places = list[Place]()
            for group, rows in zip(part, self.copy.expected_of(part), strict=True):
                if group.startswith(PAIRS):
                    places += [(tally_key(session_of(group)), b""), (SESSIONS, session_of(group))]
                else:
                    places += [(key_of(group), member) for member in rows]
            for start in range(0, len(places), _AT_ONCE):
                async for candidate in self._differing(content, places[start : start + _AT_ONCE]):
                    yield candidate
            report.compared += len(places)
            self._on_progress(len(places))
        async for names in content.all_keys():
            tallies = [(name, b"") for name in names if is_tally(name)]
            known = [name for name in names if is_hash(name) is not None]
            for name in set(names) - set(known) - {key for key, _ in tallies}:
                yield _Candidate((name, b""), b"a key that the layout does not have")
            async for candidate in self._surplus(content, tallies):
                yield candidate
            async for places in content.members(known):
                async for candidate in self._surplus(content, places):
                    yield candidate

    async def _surplus(self, content: PartitionContent, places: Sequence[Place]) -> AsyncIterator[_Candidate]:
        expected = self.copy.expected(places)
        surplus = [place for place, value in zip(places, expected, strict=True) if value is None]
        async for candidate in self._differing(content, surplus):
            yield candidate

    async def _differing(self, content: PartitionContent, places: Sequence[Place]) -> AsyncIterator[_Candidate]:
        expected = self.copy.expected(places)
        for place, value, found in zip(places, expected, await content.values(places), strict=True):
            if value != found:
                yield _Candidate(place, found)

    async def _alert_candidates(self, report: PartitionReport) -> AsyncIterator[_Candidate]:
        """Alerts of which the topic says something else than the tables."""
        for records in self.copy.alerts_of_topic():
            parsed = [(key, alert) for key, value in records if (alert := parse_alert(key, value)) is not None]
            expected = self.copy.alert_events([concerns for _, (_, concerns) in parsed])
            for (key, (event, concerns)), current in zip(parsed, expected, strict=True):
                if topic_state(event) != topic_state(current):
                    yield _Candidate((ALERTS_TOPIC, key), topic_state(event), concerns)
            report.compared += len(parsed)
            await asyncio.sleep(0)
        names = self.copy.bookings()
        while part := list(islice(names, _AT_ONCE)):
            alerts = [alert for state in self.copy.states(part) for alert in current_alerts(state)]
            keys = [_alert_key(alert) for alert in alerts]
            values = self.copy.topic_values(keys)
            lacking = [(key, alert) for key, alert, value in zip(keys, alerts, values, strict=True) if value is None]
            expected = self.copy.alert_events([alert for _, alert in lacking])
            for (key, concerns), current in zip(lacking, expected, strict=True):
                if topic_state(current) is not None:
                    yield _Candidate((ALERTS_TOPIC, key), None, concerns)
            await asyncio.sleep(0)

    def _settle(self, candidates: Sequence[_Candidate], touched: Touched, report: PartitionReport) -> list[_Candidate]:
        """Reports what surely differs; returns what may only be behind."""
        remaining = []
        for candidate in candidates:
            expected = self._expected(candidate)
            if expected == candidate.found:
                continue
            if not touched.concerns(candidate.place):
                self._add(report, candidate, expected)
            elif not self._tally_matches(candidate, touched):
                remaining.append(candidate)
        return remaining

    def _tally_matches(self, candidate: _Candidate, touched: Touched) -> bool:
        """Whether a tally is the sum of its pairs: those that are concerned as Redis had them, the others of the table."""
        if candidate.documents is None:
            return False
        pairs = self.copy.pairs(session_of(candidate.place[0]))
        contributions = []
        for identity in pairs.keys() | candidate.documents.keys():
            packed: bytes | None = pairs.get(identity, b"")
            if identity in touched.ids:
                packed = candidate.documents.get(identity)
                if packed is None:
                    return False
            if packed:
                contributions.append(unpack_contribution(packed))
        return tally_of(contributions) == candidate.found

    async def _look_again(self, content: PartitionContent, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """Reads the places again; returns those where something else than expected is found."""
        in_redis = [each for each in candidates if each.place[0] != ALERTS_TOPIC and not is_tally(each.place[0])]
        alerts = [each for each in candidates if each.place[0] == ALERTS_TOPIC]
        found = dict(zip(map(_place, in_redis), await content.values([each.place for each in in_redis]), strict=True))
        again = [_Candidate(each.place, found[each.place]) for each in in_redis]
        for each in candidates:
            if is_tally(each.place[0]):
                session = session_of(each.place[0])
                value, documents = await content.tally(session, self.copy.pairs(session))
                again.append(_Candidate(each.place, value, documents=documents))
        if alerts:
            await self.copy.follow_alerts()
            for each in alerts:
                (value,) = self.copy.topic_values([each.place[1]])
                parsed = parse_alert(each.place[1], value)
                again.append(_Candidate(each.place, topic_state(parsed and parsed[0]), each.concerns))
        return [each for each in again if self._expected(each) != each.found]

    def _expected(self, candidate: _Candidate) -> bytes | None:
        if candidate.concerns is not None:
            (event,) = self.copy.alert_events([candidate.concerns])
            return topic_state(event)
        key, _ = candidate.place
        return self.copy.expected([candidate.place])[0] if is_hash(key) is not None or is_tally(key) else None

    def _add(self, report: PartitionReport, candidate: _Candidate, expected: bytes | None, problem: str = "") -> None:
        key, member = candidate.place
        if candidate.concerns is not None:
            if not problem:
                report.alerts[member] = self._right_record(candidate)
        else:
            report.redis_differs |= not problem
        problem = problem or ("missing" if candidate.found is None else "surplus" if expected is None else "different")
        values = (shown(candidate.place, expected), shown(candidate.place, candidate.found))
        report.differences.append(
            Difference(self._number, key.decode(errors="replace"), _shown_member(member), problem, *values)
        )

    def _right_record(self, candidate: _Candidate) -> bytes | None:
        """The record that the alerts topic should have last of an alert."""
        assert candidate.concerns is not None
        (event,) = self.copy.alert_events([candidate.concerns])
        if event is not None:
            return orjson.dumps(event)
        if candidate.found is None:
            return None
        # the tables never had it open, so there is no state to make an event of
        data = orjson.loads(candidate.found)
        data |= {"resolvedAt": data["openedAt"], "message": f"{data['kind']} no longer applies"}
        head = {"specversion": "1.0", "id": f"{data['alertId']}:resolved:verify", "source": SOURCE}
        tail = {"type": RESOLVED, "time": data["openedAt"], "datacontenttype": "application/json", "data": data}
        return orjson.dumps(head | tail)

    async def _fold_window(self, window: Window, report: PartitionReport) -> None:
        """Folds events again: in tables that have them all, that changes no row."""
        client, applied = self._settings.kafka_client(), self.copy.applied
        windows = await find_windows(client, self._topics.events, [self._number], window.begin, by_time=window.by_time)
        tp = TopicPartition(self._topics.events, self._number)
        windows = {tp: range(windows[tp].start, min(windows[tp].stop, applied.events))}
        async with aclosing(read_windows(client, windows)) as parts:
            async for _, fetched in parts:
                batch = await decode_batch(EVENTS, fetched, self._is_ours, self.copy.rules)
                names = list(batch.events)
                states = self.copy.states([name.encode() for name in names])
                changes = apply_records(
                    [(state, batch.events[name], ()) for name, state in zip(names, states, strict=True)], self.copy.rules
                )
                for change in changes:
                    rows, _ = changed_rows(change)
                    where = f"offsets {fetched.begin} to {fetched.end - 1}"
                    for suffix in list(rows)[: MOST_DIFFERENCES - len(report.differences)]:
                        session = suffix.partition(b"\0")[0].decode()
                        member = f"booking {change.state.booking_id}" + (f", session {session}" if session else "")
                        difference = Difference(self._number, TABLES.decode(), member, "missing", f"events of {where}", None)
                        report.differences.append(difference)
                report.events += len(fetched.records)
                self._on_progress(len(fetched.records))

    def _is_ours(self, booking_id: str) -> bool:
        return partition_of(booking_id, self._settings.partitions) == self._number

    async def _reached(self) -> str:
        """Waits until Redis and the committed offsets have reached the tables; returns the live key generation.

        Raises:
            Unreached: they do not; the message says why.
        """
        goal, last, deadline = self.copy.applied.ends, None, monotonic() + _PATIENCE
        async with _CommittedOffsets(self._settings) as committed_of:
            while True:
                partition = await self._watermark()
                redis = _ends(partition)
                committed = await committed_of(self._topics, self._number)
                behind = [
                    name
                    for name, ends in (("the read models", redis), ("the committed offsets", committed))
                    if ends[EVENTS] < goal[EVENTS] or ends[BOOKINGS] < goal[BOOKINGS]
                ]
                is_live = partition.state == "live" and "keys" in partition.mark and "building" not in partition.mark
                if is_live and not behind:
                    return partition.mark["keys"]
                state = (redis, committed, partition.state)
                if state != last:
                    last, deadline = state, monotonic() + _PATIENCE
                if not partition.has_owner or monotonic() > deadline:
                    what = f"{' and '.join(behind)} are behind the tables" if behind else f"it is {partition.state}"
                    cure = "no worker owns it: start one" if not partition.has_owner else "look at its worker's log"
                    raise Unreached(f"{what}, and {cure}; then verify again")
                await asyncio.sleep(_POLL_SECONDS)

    async def _have_repaired(self) -> None:
        """Asks the owner to repair the read models, and waits until it has."""
        before = await self._generation()
        deadline = monotonic() + _PATIENCE
        if before is not None:
            await run(self._client, REQUEST_REPAIR, self._keys.watermark, before)
        while True:
            partition = await self._watermark()
            if partition.state == "live" and partition.mark.get("keys") not in (None, before):
                return
            if partition.state != "live" and partition.age <= STALE_AFTER:
                deadline = monotonic() + _PATIENCE
            if not partition.has_owner:
                raise Unreached(
                    "the repair is requested, but no worker owns it: start one, which repairs it; then verify again"
                )
            if monotonic() > deadline:
                raise Unreached("its worker has not begun the repair that was requested: look at its log; then verify again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _publish(self, records: Mapping[bytes, bytes | None]) -> None:
        # the owner finds them as foreign writes, and appends what holds by then behind them
        producer = create_producer(self._settings)
        await producer.start()
        try:
            futures = [
                await producer.send(self._topics.alerts, key=key, value=value, partition=self._number)
                for key, value in records.items()
            ]
            await asyncio.gather(*futures)
        finally:
            await producer.stop()

    async def _generation(self) -> str | None:
        partition = await self._watermark()
        return partition.mark.get("keys") if "building" not in partition.mark else None

    async def _watermark(self) -> Partition:
        (answer,) = raise_first_error(await self._client.ask([watermark_command(self._keys.watermark)]))
        return parse_watermark(self._number, answer)


class _CommittedOffsets:
    """Asks for the offsets that the group has committed; the admin client stays open."""

    def __init__(self, settings: Settings) -> None:
        self._group = settings.topic_prefix
        self._admin = AIOKafkaAdminClient(**settings.kafka_client())

    async def __aenter__(self) -> Callable[[TopicNames, int], Awaitable[Ends]]:
        await self._admin.start()
        return self._ask

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()

    async def _ask(self, topics: TopicNames, number: int) -> Ends:
        found = await self._admin.list_consumer_group_offsets(self._group)
        offsets = [found.get(TopicPartition(topic, number)) for topic in (topics.events, topics.bookings)]
        return tuple(0 if each is None else max(each.offset, 0) for each in offsets)  # type: ignore[return-value]


def _ends(partition: Partition) -> Ends:
    return partition.number_of("events.offset"), partition.number_of("bookings.offset")


def _place(candidate: _Candidate) -> Place:
    return candidate.place


def _alert_key(alert: tuple[str, AlertKind, str | None]) -> bytes:
    booking, kind, session = alert
    return alert_id(kind, booking, session).encode()


def _shown_member(member: bytes) -> str:
    if len(member) == 16:
        return guid(member)
    name, separator, identity = member.partition(b"\0")
    if separator and len(identity) == 16:
        return f"{name.decode(errors='replace')} {guid(identity)}"
    return member.decode(errors="replace")
