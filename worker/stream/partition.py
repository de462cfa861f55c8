"""One partition of the events and bookings topics, and the two stages that its batches pass: fold and emit.

The effects of a batch happen in this order, each awaited: changelog and table; dead letters, forwards and alerts in Kafka,
at the same time Redis; acknowledgement. After a crash between any two of them the batch is redelivered, and its effects,
emitted again, change nothing. While one batch is emitted, the next is already folded and stored.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from operator import ge
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import structlog
from aiokafka import TopicPartition
from redis import RedisError

from schemas.events import Reason
from worker.domain.devices import device_rows
from worker.domain.rows import BOOKINGS, EVENTS, Applied
from worker.engine.faust_consumer import Batch
from worker.engine.partition_appender import BehindOpenTransaction
from worker.kafka import Message
from worker.monitoring.state import Phase
from worker.read_model.freshness import TOPICS
from worker.read_model.write_batch import Entries
from worker.stream import kafka_sink
from worker.stream.bad_events import BadEvents
from worker.stream.booking_store import Bookings
from worker.stream.dead_letters import DeadLetterCount, count_by_reason
from worker.stream.device_estimates import DeviceEstimates
from worker.stream.handover import unsent
from worker.stream.kafka_sink import Outgoing
from worker.stream.originals import KeptRecord
from worker.stream.projection import project_changed_devices
from worker.stream.redis_sink import BatchWrite, Projected, ReadModels
from worker.stream.resources import Resources
from worker.stream.retry import until_done
from worker.stream.targets import Target

log = structlog.get_logger(__name__)

#: Foreign writes behind an open transaction are read again after so long, seconds.
UNDECIDED_SECONDS = 10.0
#: Sources whose estimates a heartbeat writes: about a millisecond of the server's time.
_ESTIMATES_AT_ONCE = 200

MaintenanceTask = Callable[[], Awaitable[None]]
"""Work that a stage does between two batches."""
Work = TypeVar("Work")


class Folded(NamedTuple):
    """A batch that is stored in changelog and table, and what it emits."""

    topic: int
    """See `worker.domain.rows`."""
    end: int
    """The offset after it."""
    delivered: Batch
    outgoing: Outgoing
    dead_letters: Mapping[Reason, DeadLetterCount]
    writes: Sequence[tuple[ReadModels, BatchWrite]]
    """For each namespace that is written."""


class Partition:
    """The owner of one partition, from its recovery to its revocation."""

    def __init__(self, number: int, resources: Resources, targets: Sequence[Target]) -> None:
        self.number = number
        self._targets = targets
        self._resources = resources
        self._bookings = Bookings(number, resources)
        self._bad_events = BadEvents(number)
        self._estimates = DeviceEstimates()
        self._read_models: list[ReadModels] = []
        """Of each namespace that is written, the live one first; empty until they are claimed."""
        self._create_read_models: Callable[[Target], ReadModels] | None = None
        self._applied = Applied()
        """How far the topics are folded."""
        self._batch_lock = asyncio.Lock()
        self._to_fold: asyncio.Queue[Batch | MaintenanceTask] = asyncio.Queue()
        self._to_emit: asyncio.Queue[Folded | MaintenanceTask] = asyncio.Queue(1)
        self._alerts = asyncio.Lock()
        """Held while appending to the alerts topic."""
        self._rewrite_after = 0.0
        self._acknowledged: list[int] = [0, 0]
        """Offsets of both topics up to which all is acknowledged."""
        self._filling: list[ReadModels] = []
        """Builds whose fill is queued, or under way: a second one would take its keys, and end without its parts."""

    @property
    def phase(self) -> Phase:
        """Whether readers are served."""
        return Phase.LIVE if self._read_models and self._read_models[0].is_live else Phase.REPAIRING

    def fresh_at(self, completed_at: float | None) -> float | None:
        """When Redis was last known to hold everything that Kafka had, in `time.monotonic`; None: not known.

        Args:
            completed_at: when everything that is completed now was everything that Kafka had; None: not known.
        """
        if completed_at is not None:
            for read_models in self._read_models:
                read_models.completed(completed_at)
        return self._read_models[0].fresh_at if self._read_models else None

    async def run(self, committed: Mapping[str, int]) -> None:
        """Works until it is cancelled.

        Args:
            committed: the offsets committed for the events and the bookings topic, by topic name, if there are any.
        """
        topics = self._resources.topics
        await self._bookings.open()
        ends = committed.get(topics.events, 0), committed.get(topics.bookings, 0)
        self._applied = Applied(*ends).merged(self._bookings.applied)
        self._acknowledged = list(ends)
        create = partial(ReadModels, self.number, self._resources, self._bookings, self._estimates, self._batch_lock)
        for target in self._targets:
            read_models = create(target)
            await read_models.take_ownership(ends)
            self._read_models.append(read_models)
            if target.is_live:
                await self._take_over(read_models)
        self._create_read_models = create
        # they may have changed meanwhile
        self.write_to(self._targets)
        self._finish_erasures()
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(_run_stage(self._to_fold, self._fold))
                stages.create_task(_run_stage(self._to_emit, self._emit))
        except ExceptionGroup as errors:
            raise _first(errors) from None

    def deliver(self, delivered: Batch) -> None:
        """Queues a batch; the consumer limits how many are in flight."""
        self._to_fold.put_nowait(delivered)

    def write_to(self, targets: Sequence[Target]) -> None:
        """Writes these namespaces from now on, the live one first."""
        self._targets = targets
        if self._create_read_models is None:
            return  # `run` takes them
        written = {each.target.namespace: each for each in self._read_models}
        read_models = []
        for target in targets:
            each = written.get(target.namespace) or self._create_read_models(target)
            becomes_live, each.target = target.is_live and not each.target.is_live, target
            if each.lacks_data:
                self._to_fold.put_nowait(each.repair)
            if becomes_live:
                self._to_fold.put_nowait(partial(self._take_over, each))
            read_models.append(each)
        self._read_models = read_models

    async def heartbeat(self, ends: Mapping[str, Any], ages_ms: Mapping[str, int]) -> None:
        """Writes the heartbeats, and begins to fill a new build.

        Args:
            ends: fields of the watermark that say where the topics end.
            ages_ms: how long ago Kafka confirmed that, by ``events`` and ``bookings``.
        """
        all_read_models, fields = tuple(self._read_models), {**self._bad_events.fields(), **ends}
        estimates = self._estimates.take_changed(_ESTIMATES_AT_ONCE) if all_read_models and all_read_models[0].is_live else []
        try:
            tasks = await asyncio.gather(*(each.heartbeat(fields, ages_ms, estimates) for each in all_read_models))
        except RedisError:
            self._estimates.put_back(estimates)
            raise
        for task in filter(None, tasks):
            # only an idle partition needs the task: if batches wait, the next write finds the same
            with suppress(asyncio.QueueFull):
                self._to_emit.put_nowait(task)
        for read_models in all_read_models:
            if read_models.needs_fill and read_models not in self._filling:
                self._filling.append(read_models)
                self._to_fold.put_nowait(partial(self._begin_fill, read_models))

    async def _take_over(self, read_models: ReadModels) -> None:
        """A build of its own tables is live: sends what the group that was live before may not have sent."""
        group, applied = await read_models.read_handover(), self._applied

        async def attempt() -> None:
            async with aclosing(unsent(self._resources, self.number, group, applied)) as batches:
                async for batch, outgoing in batches:
                    again = self._append_again(self._bookings.overtaken(batch.last_places))
                    await self._send(Outgoing([*outgoing.messages, *again], []))

        if group:
            await until_done("kafka", attempt, partition=self.number)
            await read_models.end_handover()
            log.info("taken over", partition=self.number, group=group)

    def _append_again(self, overtaken: Iterable[KeptRecord]) -> Iterator[Message]:
        topic = self._resources.topics.bookings
        return (kafka_sink.append_again(topic, self.number, kept) for kept in overtaken)

    async def _begin_fill(self, read_models: ReadModels) -> None:
        """Begins to fill a build, behind the batches that are folded, and queues its parts."""
        await self._to_emit.put(partial(read_models.begin_fill, self._applied))
        await self._fill(read_models, self._bookings.parts())

    async def _fill(self, read_models: ReadModels, parts: Iterator[Entries]) -> None:
        """Reads the next part of a fill, and queues the one after it, behind the batches that wait."""
        part = next(parts, None) if read_models in self._read_models else None
        if part is None:
            await self._to_emit.put(partial(self._end_fill, read_models))
            return
        await self._to_emit.put(partial(read_models.fill, part))
        self._to_fold.put_nowait(partial(self._fill, read_models, parts))

    async def _end_fill(self, read_models: ReadModels) -> None:
        """Ends a fill; only then another one of the same build may begin, if this one was lost."""
        if read_models in self._read_models:
            await read_models.end_fill()
        self._filling.remove(read_models)

    def check_logs(self) -> None:
        """Queues the rewrite that follows foreign writes to the partition's changelogs or alerts, if there are any."""
        if not self._read_models or monotonic() < self._rewrite_after:
            return
        if self._has_foreign_alerts or any(table.foreign_writes(self.number) for table in self._resources.tables):
            self._to_fold.put_nowait(self._rewrite)

    async def _fold(self, delivered: Batch) -> None:
        """Folds a batch, projects what it changed, and stores it in changelog and table."""
        fetched, bookings, resources, metrics = delivered.value, self._bookings, self._resources, self._resources.metrics
        topic = EVENTS if delivered.message.topic == resources.topics.events else BOOKINGS
        async with self._batch_lock:
            # one partition at a time, since several would evict each other's bookings from the processor's cache
            async with resources.folding:
                begun = monotonic()
                contents = await bookings.decode(topic, fetched.records)
                decoded = monotonic()
                metrics.observe_stage("decode", decoded - begun)
                all_read_models = tuple(self._read_models)
                projected, is_redelivery = _projected(all_read_models), fetched.begin < bookings.redelivered[topic]
                changes = await bookings.fold(
                    contents,
                    is_redelivery=is_redelivery,
                    is_known=projected.matches_table,
                    projected_offset=projected.bookings_offset,
                )
                entries = changes.entries
                changed_devices = project_changed_devices(
                    bookings.devices, contents.sources, entries, is_redelivery=is_redelivery
                )
            folded = monotonic()
            metrics.observe_stage("fold", folded - decoded)
            metrics.observe_batch(TOPICS[topic], len(fetched.records), contents.folded, changes.unchanged, contents.forwarded)
            metrics.observe_sources(contents.sources)
            applied = Applied.of(topic, fetched.end, contents.newest)
            self._applied = self._applied.merged(applied)
            writes = [(each, each.begin(entries, applied)) for each in all_read_models]
            source, partitions = TopicPartition(delivered.message.topic, self.number), resources.settings.partitions
            outgoing = kafka_sink.outgoing(contents, changes.alerts, source, resources.topics, partitions)
            if topic == EVENTS:
                bad = self._bad_events.add(fetched.records, contents.dead_letters)
                if not is_redelivery:
                    self._estimates.add(contents.sources)
                    self._estimates.add_dead_letters(bad, bookings.devices.newest().__contains__)
            # a batch may wait long for Kafka and Redis, and its records take far more memory than what it emits
            fetched.records.clear()
            last_places, dead_letters = contents.last_places, count_by_reason(contents.dead_letters, source)
            del contents
            overtaken = await bookings.store(changes, device_rows(changed_devices), self._applied, last_places)
            metrics.observe_stage("store", monotonic() - folded)
            outgoing.messages.extend(self._append_again(overtaken))
            sent, counted = _sent(self._targets, outgoing, dead_letters)
        # also if it had nothing to store
        resources.gathering.leave(self.number)
        await self._to_emit.put(Folded(topic, fetched.end, delivered, sent, counted, writes))
        if changes.erasing:
            self._to_fold.put_nowait(partial(self._remove_erased, changes.erasing))

    async def _emit(self, folded: Folded) -> None:
        """Emits a stored batch to Kafka and Redis, then acknowledges it."""
        begun = monotonic()
        async with asyncio.TaskGroup() as sinks:
            if folded.outgoing.messages or folded.outgoing.alerts:
                sinks.create_task(self._send(folded.outgoing))
            # most often there is one namespace: its write needs no task of its own
            (read_models, write), *others = folded.writes
            for other, its_write in others:
                sinks.create_task(other.write(its_write))
            await read_models.write(write)
        self._resources.metrics.observe_stage("emit", monotonic() - begun)
        for reason, count in folded.dead_letters.items():
            self._resources.metrics.count_dead_letters(TOPICS[folded.topic], reason.value, count.count)
        self._resources.dead_letters.add(folded.dead_letters)
        folded.delivered.ack()
        self._acknowledged[folded.topic] = max(self._acknowledged[folded.topic], folded.end)
        self._finish_erasures()
        self.check_logs()

    def _finish_erasures(self) -> None:
        """Queues the removal of erased bookings that an earlier owner left, once what it had applied is emitted again."""
        bookings = self._bookings
        if bookings.unfinished and all(map(ge, self._acknowledged, bookings.redelivered)):
            names, bookings.unfinished = bookings.unfinished, []
            self._to_fold.put_nowait(partial(self._remove_erased, names))

    async def _remove_erased(self, names: Sequence[str]) -> None:
        """Removes what is stored of erased bookings, once every batch that was folded is emitted."""
        emitted = asyncio.get_running_loop().create_future()

        async def note() -> None:
            emitted.set_result(None)

        await self._to_emit.put(note)
        await emitted
        async with self._batch_lock:
            alerts = self._bookings.past_alerts(names)
            if alerts and self._targets[0].is_live:
                # the last record of each names the booking
                await self._send(Outgoing([], [(key, None) for key in alerts]))
            await self._bookings.remove_erased(names)
        log.info("erased", partition=self.number, bookings=len(names))

    async def _send(self, outgoing: Outgoing) -> None:
        resources = self._resources
        async with self._alerts:
            begun, appender = monotonic(), resources.alerts[self.number]
            await resources.until_written("kafka", self.number, kafka_sink.send, appender, outgoing)
            resources.metrics.observe_round_trip("kafka", monotonic() - begun)

    @property
    def _has_foreign_alerts(self) -> bool:
        """Whether somebody else wrote alerts; those of the live tables are not foreign to a build."""
        return self._targets[0].is_live and bool(self._resources.alerts[self.number].foreign_writes)

    async def _rewrite(self) -> None:
        """Rewrites rows and alerts after foreign writes, most likely by a worker that had lost the partition."""
        try:
            await self._rewrite_all()
            self._rewrite_after = 0.0
        except BehindOpenTransaction as error:
            # records of an open transaction do not count yet; other work goes on meanwhile
            if not self._rewrite_after:
                log.info("rewrite postponed", partition=self.number, reason=str(error))
            self._rewrite_after = monotonic() + UNDECIDED_SECONDS

    async def _rewrite_all(self) -> None:
        resources = self._resources
        await self._bookings.rewrite()
        appender, client = resources.alerts[self.number], resources.settings.kafka_client()
        while self._has_foreign_alerts:
            offsets = appender.foreign_writes[0]
            concerned = appender, offsets, client, self._bookings.state
            async with self._alerts:
                await resources.until_written("kafka", self.number, kafka_sink.rewrite, *concerned)
            appender.foreign_writes.remove(offsets)


def _sent(
    targets: Sequence[Target], outgoing: Outgoing, dead_letters: Mapping[Reason, DeadLetterCount]
) -> tuple[Outgoing, Mapping[Reason, DeadLetterCount]]:
    """What the workers of these namespaces send, and the dead letters of it."""
    if not any(each.sends_messages for each in targets):
        return Outgoing([], []), {}
    return Outgoing(outgoing.messages, outgoing.alerts if any(each.sends_alerts for each in targets) else []), dead_letters


def _projected(all_read_models: Iterable[ReadModels]) -> Projected:
    """What surely all of these hold."""
    held = [each.projected for each in all_read_models if each.is_live or each.is_filling or each.target.is_live]
    offset = min((each.bookings_offset for each in held), default=0)
    return Projected(offset, all(each.matches_table for each in held))


async def _run_stage(queue: asyncio.Queue[Work | MaintenanceTask], handle: Callable[[Work], Awaitable[None]]) -> None:
    """Handles the batches and maintenance tasks of a queue, one after the other."""
    while True:
        item = await queue.get()
        await (item() if callable(item) else handle(item))


def _first(error: BaseException) -> BaseException:
    """The first error of a group, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
