"""One partition of the events and bookings topics: its tables, its read models, and the way of each of its batches.

The effects of a batch go out in this order, each awaited: changelog and table; dead letters, forwards and alerts; Redis;
acknowledgement. A crash between any two of them lets the batch come again, and what it then says again changes nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from time import time
from typing import Any, Protocol
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from schemas.alerts import AlertEvent
from schemas.times import format_time
from worker.domain.mismatch import Rules
from worker.domain.rows import (
    APPLIED_SUFFIX,
    PARTITION_GROUP,
    PARTITION_SUFFIX,
    changed_rows,
    decode_applied,
    encode_applied,
    load,
)
from worker.domain.state import BookingState, Change, apply
from worker.engine.table import Table
from worker.read_model.keys import LAYOUT_VERSION
from worker.read_model.writer import Fenced, NeedsRepair, PartitionWriter, ReadModelError, Write
from worker.settings import Settings
from worker.stream import outbox
from worker.stream.errors import SettingsConflict
from worker.stream.intake import Intake, read_bookings, read_events
from worker.stream.lease import Lease
from worker.stream.project import project, whole
from worker.stream.retry import until_done
from worker.topics import TopicNames, partition_of

log = structlog.get_logger(__name__)

#: Bookings kept decoded in memory, of all partitions; beyond, those longest unused are read from the table again.
CACHED_BOOKINGS = 60_000
_REPAIR_ENTRIES = 1000
_EVENTS, _BOOKINGS = range(2)
_TOPICS = ("events", "bookings")

Chore = Callable[[], Awaitable[None]]
"""What a partition does between two batches."""


class Delivered(Protocol):
    """A Faust event whose value is the list of raw records of one poll."""

    value: Any

    def ack(self) -> bool: ...


class Shared:
    """What all partitions of a worker use."""

    def __init__(
        self,
        settings: Settings,
        producer: AIOKafkaProducer,
        redis: Redis,
        attendance: Table,
        bookings: Table,
        namespace: str,
    ) -> None:
        self.settings = settings
        self.topics = TopicNames.of(settings.topic_prefix)
        self.rules = Rules(**{k: v for k, v in settings.shaping().items() if k != "partitions"})
        self.producer = producer
        self.redis = redis
        self.attendance = attendance
        self.bookings = bookings
        self.namespace = namespace
        self.cached_bookings = CACHED_BOOKINGS
        """Bookings that each partition may keep decoded."""
        self.lease = Lease(settings.session_timeout.total_seconds())

    def partition_of(self, booking_id: str) -> int:
        return partition_of(booking_id, self.settings.partitions)


class Partition:
    """Owner of one partition, from its recovery to its revocation."""

    def __init__(self, number: int, shared: Shared) -> None:
        self.number = number
        self._queue: asyncio.Queue[Delivered | Chore] = asyncio.Queue()
        self.is_live = False
        """Whether its read models are up to the table."""
        self._is_known = False
        """Whether Redis holds what the table came to before the batch at hand."""
        self._shared = shared
        self._cache: dict[str, BookingState] = {}
        self._marks: dict[str, Any] = {}
        self._newest: dict[str, int] = {}
        self._redelivered = (0, 0)
        """Offsets of events and bookings below which records may have been applied by an earlier owner."""
        self._writer: PartitionWriter | None = None

    async def run(self, committed: Mapping[str, int]) -> None:
        """Works until it is cancelled.

        Args:
            committed: offsets committed for the events and the bookings topic, where there are any.
        """
        generation = await self._generation()
        shared = self._shared
        self._writer = PartitionWriter(shared.redis, shared.namespace, self.number, generation)
        await self._own(committed)
        while True:
            task = await self._queue.get()
            if callable(task):
                await task()
            else:
                await self._process(task.value)
                task.ack()

    def deliver(self, delivered: Delivered) -> None:
        """Takes a batch; the consumer bounds how many wait."""
        self._queue.put_nowait(delivered)

    async def beat(self, ends: Mapping[str, int]) -> None:
        """Writes the heartbeat: the topics' ends by topic name ``events`` and ``bookings``."""
        if self._writer is not None and self.is_live:
            marks = {f"{topic}.end": end for topic, end in ends.items()}
            try:
                await self._writer.beat({**marks, "writtenAt": int(time() * 1000)})
            except ReadModelError as error:
                # an idle partition has no write that would find it
                log.warning("refused", partition=self.number, reason=str(error))
                self.is_live = False
                self._queue.put_nowait(self._reclaim if isinstance(error, Fenced) else self._repair)

    async def _generation(self) -> str:
        """The partition's generation, made when it is new; refuses tables that other settings have shaped."""
        table, shaping = self._shared.attendance, self._shared.settings.shaping()
        row = table.rows(self.number, PARTITION_GROUP).get(PARTITION_SUFFIX)
        if row is None:
            row = json.dumps({"generation": uuid4().hex, "layout": LAYOUT_VERSION, "settings": shaping}).encode()
            await self._flush(table, {PARTITION_GROUP: {PARTITION_SUFFIX: row}})
        self._redelivered = decode_applied(table.rows(self.number, PARTITION_GROUP).get(APPLIED_SUFFIX))
        kept = json.loads(row)
        for name, value in kept["settings"].items():
            if shaping.get(name) != value:
                raise SettingsConflict(
                    f"ATTENDANCE_{name.upper()}: the tables were made with {_readable(name, value)}, this worker has "
                    f"{_readable(name, shaping.get(name, 0))}; set what they were made with, or refold under a new prefix"
                )
        return str(kept["generation"])

    async def _own(self, committed: Mapping[str, int]) -> None:
        """Becomes the writer of the read models; fills them from the table where they are missing or behind."""
        assert self._writer is not None
        claim = await until_done("redis", self._writer.claim, partition=self.number)
        topics = self._shared.topics
        events, bookings = committed.get(topics.events, 0), committed.get(topics.bookings, 0)
        self._marks = {"events.offset": events, "bookings.offset": bookings}
        behind = claim.events_offset < events or claim.bookings_offset < bookings
        if not claim.sound or behind:
            await self._repair()
        else:
            self._marks = {"events.offset": claim.events_offset, "bookings.offset": claim.bookings_offset}
            self._is_known = claim.events_offset >= self._redelivered[0] and claim.bookings_offset >= self._redelivered[1]
            # another claim meanwhile is for the first write or heartbeat to find; what is left over waits for the next owner
            with suppress(ReadModelError):
                await until_done("redis", self._writer.tidy, partition=self.number)
        self.is_live = True

    async def _process(self, records: list[Any]) -> None:
        """One batch, effect by effect."""
        shared = self._shared
        topic = _EVENTS if records[0].topic == shared.topics.events else _BOOKINGS
        again = records[0].offset < self._redelivered[topic]
        intake = (
            read_events(records, self.number, shared.partition_of, shared.rules.max_event_age)
            if topic == _EVENTS
            else read_bookings(records, self.number, shared.partition_of)
        )
        changes = self._fold(intake, again)
        write, published = Write(), list[AlertEvent]()
        for change in changes:
            project(change, write, published, known=self._is_known)
        self._advance(topic, records[-1].offset + 1, intake.newest)
        await self._store(changes)
        waiting = outbox.messages(intake, published, shared.topics, self.number, shared.settings.partitions)
        await self._send(waiting)
        await self._write(write)
        self._is_known = self._is_known or all(map(int.__ge__, self._ends(), self._redelivered))

    def _fold(self, intake: Intake, again: bool) -> list[Change]:
        rules, events, references = self._shared.rules, intake.events, intake.references
        if references:
            return [apply(self._state(name), (), said, rules, again=again) for name, said in references.items()]
        return [apply(self._state(name), happened, (), rules, again=again) for name, happened in events.items()]

    async def _store(self, changes: list[Change]) -> None:
        """Changelogs first, then the tables. Alerts that a session ever held open are stored before the booking record."""
        applied = encode_applied(*map(max, self._ends(), self._redelivered))
        rows: dict[bytes, dict[bytes, bytes | None]] = {PARTITION_GROUP: {APPLIED_SUFFIX: applied}}
        references: dict[bytes, dict[bytes, bytes | None]] = {}
        for change in changes:
            changed, reference = changed_rows(change)
            if changed:
                rows[change.state.booking_id.encode()] = changed
            if reference is not None:
                references[change.state.booking_id.encode()] = {b"": reference}
        if len(rows) > 1 or references:
            await self._flush(self._shared.attendance, rows)
            await self._flush(self._shared.bookings, references)

    async def _flush(self, table: Table, changes: Mapping[bytes, Mapping[bytes, bytes | None]]) -> None:
        async def attempt() -> None:
            await self._shared.lease.hold()
            await table.flush(self._shared.producer, self.number, changes)

        if changes:
            await until_done("changelog", attempt, partition=self.number)

    async def _send(self, waiting: list[outbox.Message]) -> None:
        async def attempt() -> None:
            await self._shared.lease.hold()
            await outbox.send(self._shared.producer, waiting)

        if waiting:
            await until_done("kafka", attempt, partition=self.number)

    def _advance(self, topic: int, end: int, newest: int | None) -> None:
        name = _TOPICS[topic]
        self._marks[f"{name}.offset"] = max(end, self._ends()[topic])
        if newest is not None and newest > self._newest.get(name, newest - 1):
            self._newest[name] = newest
            self._marks[f"{name}.time"] = format_time(newest)

    def _ends(self) -> tuple[int, int]:
        """Offsets up to which events and bookings are applied, or are about to be."""
        return self._marks["events.offset"], self._marks["bookings.offset"]

    async def _write(self, write: Write) -> None:
        assert self._writer is not None
        write.marks, writer = dict(self._marks), self._writer
        try:
            await until_done("redis", lambda: writer.apply(write), partition=self.number)
        except NeedsRepair as error:
            log.warning("repairing", partition=self.number, reason=str(error))
            self.is_live = False
            await self._repair()
        except Fenced:
            await self._reclaim()

    async def _reclaim(self) -> None:
        """Another worker has claimed the partition: most likely Kafka is about to say so. If it does not, it is ours."""
        self.is_live = False
        log.warning("fenced", partition=self.number)
        await asyncio.sleep(2 * self._shared.settings.session_timeout.total_seconds())
        await self._repair()

    async def _repair(self) -> None:
        assert self._writer is not None
        writer = self._writer

        async def attempt() -> None:
            await writer.repair(self._everything(), self._marks)

        while True:
            try:
                await until_done("redis", attempt, partition=self.number)
            except NeedsRepair:
                continue
            except Fenced:
                await asyncio.sleep(1)
                continue
            break
        self.is_live = self._is_known = True
        log.info("filled", partition=self.number)

    async def _everything(self) -> AsyncIterator[Write]:
        """Every booking of the partition as readers see it, some at a time."""
        write = Write()
        for name in self._names():
            whole(self._load(name), write)
            if len(write) >= _REPAIR_ENTRIES:
                yield write
                write = Write()
                await asyncio.sleep(0)
        yield write

    def _names(self) -> Iterator[str]:
        attendance, bookings = self._shared.attendance, self._shared.bookings
        known = {*attendance.groups(self.number), *bookings.groups(self.number)} - {PARTITION_GROUP}
        return (group.decode() for group in known)

    def _state(self, booking_id: str) -> BookingState:
        """The booking, the most recently used ones from memory."""
        state = self._cache.pop(booking_id, None)
        if state is None:
            state = self._load(booking_id)
            if len(self._cache) >= self._shared.cached_bookings:
                del self._cache[next(iter(self._cache))]
        self._cache[booking_id] = state
        return state

    def _load(self, booking_id: str) -> BookingState:
        group = booking_id.encode()
        rows = self._shared.attendance.rows(self.number, group)
        reference = self._shared.bookings.rows(self.number, group).get(b"")
        return load(booking_id, rows, reference, self._shared.rules)


def _readable(name: str, value: int) -> str:
    return str(value) if name == "partitions" else f"{value / 1e6:g}s"
