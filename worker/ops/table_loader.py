"""Fills new tables, with a group and changelogs of their own, and the namespace of a build, beside what is live.

All records from the first one on are folded as a worker folds them, from archives and topics; or the rows of the live tables
are copied. Nothing is published of it: alerts, dead letters and forwards are the live workers' business. At the end workers of
the new tables go on from the offsets that are committed here, as if they had processed everything themselves.

Everything may be repeated: rows merge, the offsets that are folded are stored with the rows, and what a namespace holds of a
partition is replaced as a whole.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError

from worker.domain.devices import device_rows
from worker.domain.rows import BOOKINGS, EVENTS, Applied
from worker.engine.fetching import Fetched
from worker.engine.recovery import recover
from worker.engine.stores import open_store
from worker.engine.stores.base import StoreUnusable
from worker.kafka import open_producer
from worker.monitoring.metrics import WorkerMetrics
from worker.ops import topics as topic_ops
from worker.ops.coverage import Coverage, LoadError, find_coverage
from worker.ops.load_sources import read_part
from worker.ops.table_group import join_group
from worker.read_model.builds import Namespace
from worker.read_model.operations import Running
from worker.read_model.write_batch import Write
from worker.read_model.writer import PartitionWriter
from worker.redis.client import Client
from worker.settings import Settings, SettingsError, installed_version
from worker.stream.booking_store import Bookings, ChangedRows
from worker.stream.decode_batch import decode_batch
from worker.stream.redis_sink import watermark_fields
from worker.stream.resources import Resources, open_tables
from worker.tasks import cancel_all
from worker.topics import TopicNames

#: Partitions that are loaded at the same time: while rows of one are stored, another one is folded.
_AT_ONCE = 3
#: Name of the partitions that are done, in the position of the operation.
LOADED = "loaded"

OnProgress = Callable[[int], None]
"""Called with the number of offsets that are folded, of `Coverage.total`, also by earlier processes."""


async def load(
    settings: Settings,
    source: Settings,
    client: Client,
    running: Running,
    build: Namespace,
    archives: Sequence[Path],
    *,
    refold: bool,
    stop: asyncio.Event,
    progress: OnProgress,
) -> bool:
    """Fills the tables of a build and its namespace; returns False if it was stopped, then calling it again goes on.

    Args:
        settings: of the build, with the number of its tables.
        source: of the live tables.
        client: of Redis.
        running: the operation, which owns the build. Partitions that are done are kept in its position, and counts.
        build: the namespace; it is registered, and its partitions are open to this operation.
        archives: folders, or files of them, with what the topics have deleted.
        refold: fold topics and archives; otherwise the rows of the live tables are copied.
        stop: ends it early.
        progress: how far it is.

    Raises:
        LoadError: topics and archives lack some records, or the new group has members.
        ArchiveError, TopicsError, LogUnreadable: see `find_coverage` and `read_part`.
        SettingsError: the store cannot be used.
        SettingsConflict: the new tables exist, made with other settings.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    assert settings.tables == build.tables
    assert settings.group != source.group
    if not refold:
        raise LoadError("tables are not copied yet: use --refold")
    coverage = await find_coverage(source, archives)
    coverage.check()
    await topic_ops.create(settings)
    async with _resources(settings, client) as resources:
        await join_group(settings, resources.producer, client)
        loading = _Load(resources, running, build, coverage, stop, progress)
        return await loading.run()


@asynccontextmanager
async def _resources(settings: Settings, client: Client) -> AsyncIterator[Resources]:
    """What a worker of these tables shares among its partitions."""
    try:
        store = open_store(settings.store, settings.group)
    except StoreUnusable as error:
        raise SettingsError(f"ATTENDANCE_STORE: {error}") from None
    try:
        async with open_producer(settings) as producer:
            metrics = WorkerMetrics(installed_version(), time)
            resources = Resources(settings, producer, client, *open_tables(settings, store), metrics)
            lease = asyncio.create_task(resources.lease.keep())
            try:
                yield resources
            finally:
                await cancel_all([lease])
    finally:
        store.close()


class _Load:
    """One process' part of a load."""

    def __init__(
        self,
        resources: Resources,
        running: Running,
        build: Namespace,
        coverage: Coverage,
        stop: asyncio.Event,
        progress: OnProgress,
    ) -> None:
        self._resources = resources
        self._running = running
        self._build = build
        self._coverage = coverage
        self._stop = stop
        self._progress = progress
        topics = TopicNames.of(resources.settings.topic_prefix)
        self._tps = [topics.events, topics.bookings]
        self._loaded: dict[str, int] = dict(running.operation.position.get(LOADED, {}))
        self._reached = {tp: part.end if str(tp.partition) in self._loaded else 0 for tp, part in coverage.parts.items()}

    async def run(self) -> bool:
        """Loads the partitions that are not loaded yet."""
        numbers = iter([each for each in range(self._build.partitions) if str(each) not in self._loaded])

        async def load_some() -> None:
            for number in numbers:
                if self._stop.is_set() or not await self._load(number):
                    return

        await _all([load_some() for _ in range(_AT_ONCE)])
        await self._save()
        return len(self._loaded) == self._build.partitions

    async def _load(self, number: int) -> bool:
        """Loads a partition; returns whether it is done."""
        resources = self._resources
        tables = (resources.attendance, resources.bookings)
        try:
            async with aclosing(recover(tables, [number], resources.settings.kafka_client())) as recovered:
                async for _ in recovered:
                    pass
            partition = PartitionLoad(number, resources, self._coverage, self._report)
            generation = await partition.bookings.open()
            # booking records first: then no alert opens of which the records know better
            for topic in (BOOKINGS, EVENTS):
                if not await partition.fold_topic(topic, self._stop):
                    return False
            await self._project(partition, generation)
            await commit(resources.settings, number, self._coverage)
        finally:
            for table in tables:
                table.close(number)
        self._loaded[str(number)] = 1
        await self._save()
        return True

    async def _project(self, partition: "PartitionLoad", generation: str) -> None:
        """Fills the partition's keys in the build."""
        writer = PartitionWriter(self._resources.redis, self._build.name, partition.number, generation)
        await writer.claim(self._running.operation.id)
        await writer.begin_repair()
        async for entries in partition.bookings.project_all():
            await writer.apply(Write(entries))
        await writer.end_repair(watermark_fields(partition.applied))

    def _report(self, tp: TopicPartition, offset: int) -> None:
        self._reached[tp] = max(self._reached[tp], offset)
        self._progress(sum(self._reached.values()))

    async def _save(self) -> None:
        operation = self._running.operation
        counts = dict(operation.counts)
        for name, topic in zip(("events", "bookings"), self._tps, strict=True):
            counts[name] = sum(offset for tp, offset in self._reached.items() if tp.topic == topic)
        await self._running.save({**operation.position, LOADED: self._loaded}, counts)


class PartitionLoad:
    """Folds one partition's topics into tables that are recovered."""

    def __init__(
        self,
        number: int,
        resources: Resources,
        coverage: Coverage,
        report: Callable[[TopicPartition, int], None] = lambda *_: None,
    ) -> None:
        self.number = number
        self.bookings = Bookings(number, resources)
        self.applied = Applied()
        """How far the topics are folded."""
        self._resources = resources
        self._coverage = coverage
        self._report = report

    async def fold_topic(self, topic: int, stop: asyncio.Event) -> bool:
        """Folds the rest of a topic (see `worker.domain.rows`); returns False if it was stopped."""
        names, client = self._resources.topics, self._resources.settings.kafka_client()
        tp = TopicPartition(names.events if topic == EVENTS else names.bookings, self.number)
        part = self._coverage.parts[tp]
        self.applied = self.applied.merged(self.bookings.applied)
        async with aclosing(read_part(client, tp, part, self.applied.ends[topic])) as parts:
            async for fetched in parts:
                await self._fold(topic, fetched)
                self._report(tp, min(fetched.end, part.end))
                if stop.is_set():
                    return False
        self.applied = self.applied.merged(Applied.of(topic, part.end, None))
        self._report(tp, part.end)
        return True

    async def _fold(self, topic: int, fetched: Fetched) -> None:
        bookings, resources = self.bookings, self._resources
        async with resources.folding:
            # a record of another partition is left out: the live workers have sent it there
            batch = await decode_batch(topic, fetched, self._is_ours, resources.rules)
            newest = {source: each.newest for source, each in batch.sources.items()}
            rows = ChangedRows(device_rows(bookings.devices.update(newest)))
            # nothing is projected before all is folded, so nothing earlier is left to be removed
            for changes in bookings.fold(batch, is_redelivery=False, projected_offset=sys.maxsize, unchanged=[]):
                rows.add(changes)
                await asyncio.sleep(0)
        self.applied = self.applied.merged(Applied.of(topic, fetched.end, batch.newest))
        await bookings.store(rows, self.applied, {})

    def _is_ours(self, booking_id: str) -> bool:
        return booking_id in self.bookings or self._resources.partition_of(booking_id) == self.number


async def commit(settings: Settings, number: int, coverage: Coverage) -> None:
    """Commits for the group of the new tables where a partition's parts end.

    Raises:
        LoadError: the group has members.
    """
    ends = {tp: part.end for tp, part in coverage.parts.items() if tp.partition == number}
    consumer = AIOKafkaConsumer(**settings.kafka_client(), group_id=settings.group, enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign(list(ends))
        # of a group with members the broker refuses this commit, since it is no member's
        await consumer.commit(ends)
    except (CommitFailedError, UnknownMemberIdError, IllegalGenerationError):
        raise LoadError(
            f"the group {settings.group} has members: stop the workers with ATTENDANCE_TABLES={settings.tables}"
        ) from None
    finally:
        await consumer.stop()


async def _all(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Until all are done; the first error ends the others, and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_all(tasks)
