"""Fills new tables, with a group and changelogs of their own, and the namespace of a build, beside what is live.

All records from the first one on are folded as a worker folds them, from archives and topics; or the rows of the live tables
are copied. Nothing is published of it: alerts, dead letters and forwards are the live workers' business. At the end workers of
the new tables go on from the offsets that are committed here, as if they had processed everything themselves.

Everything may be repeated: rows merge, the offsets that are folded are stored with the rows, and what a namespace holds of a
partition is replaced as a whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError

from worker.domain.rows import Applied
from worker.engine.recovery import recover
from worker.kafka import open_producer
from worker.monitoring.metrics import WorkerMetrics
from worker.ops import topics as topic_ops
from worker.ops.coverage import LoadError, find_coverage
from worker.ops.load_copy import find_rows
from worker.ops.load_refold import Refold
from worker.ops.load_sources import LoadSource
from worker.ops.table_group import join_group
from worker.read_model.builds import Namespace
from worker.read_model.operations import Running
from worker.read_model.write_batch import Write
from worker.read_model.writer import Dropped, Fenced, NeedsRepair, PartitionWriter
from worker.redis.client import Client
from worker.settings import Settings, installed_version
from worker.stream.booking_store import Bookings
from worker.stream.garbage import tune_garbage_collector
from worker.stream.group_topic import find_erase_key
from worker.stream.redis_sink import watermark_fields
from worker.stream.resources import Resources, open_row_store, open_tables
from worker.stream.retry import until_done
from worker.tasks import cancel_all

#: Partitions that are loaded at the same time: while rows of one are stored, another one is folded.
_AT_ONCE = 3
#: Name of the partitions that are done, in the position of the operation.
LOADED = "loaded"

OnProgress = Callable[[int], None]
"""Called with the number of offsets that are read, also by earlier processes: of `Coverage.total`, or `RowCopy.total`."""


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
    if refold:
        coverage = await find_coverage(source, archives)
        coverage.check()
    tune_garbage_collector()
    filling: LoadSource = Refold(coverage, source) if refold else await find_rows(source)
    await topic_ops.create(settings)
    async with _resources(settings, client) as resources:
        await join_group(settings, resources.producer, client)
        return await _Load(resources, running, build, filling, stop, progress).run()


@asynccontextmanager
async def _resources(settings: Settings, client: Client) -> AsyncIterator[Resources]:
    """What a worker of these tables shares among its partitions."""
    store = open_row_store(settings)
    try:
        async with open_producer(settings) as producer:
            metrics = WorkerMetrics(installed_version(), time)
            key = await find_erase_key(settings)
            resources = Resources(settings, producer, client, *open_tables(settings, store), metrics, key)
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
        source: LoadSource,
        stop: asyncio.Event,
        progress: OnProgress,
    ) -> None:
        self._resources = resources
        self._running = running
        self._build = build
        self._source = source
        self._stop = stop
        self._progress = progress
        self._loaded: dict[str, int] = dict(running.operation.position.get(LOADED, {}))
        """By partition that is done: how many offsets were read of it."""
        self._reached: dict[TopicPartition, int] = {}

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
            bookings = Bookings(number, resources)
            if not await self._source.fill(number, resources, bookings, self._stop, self._report):
                return False
            await self._project(number, bookings)
            ends = {tp: end for tp, end in self._source.ends.items() if tp.partition == number}
            await commit(resources.settings, ends)
        finally:
            for table in tables:
                table.close(number)
        self._loaded[str(number)] = sum(count for tp, count in self._reached.items() if tp.partition == number)
        await self._save()
        return True

    async def _project(self, number: int, bookings: Bookings) -> None:
        """Fills the partition's keys in the build; anew if Redis lost some of them meanwhile."""
        while True:
            writer = PartitionWriter(self._resources.redis, self._build.name, number, bookings.generation)
            try:
                await self._fill(writer, number, bookings)
            except NeedsRepair:
                continue
            except (Dropped, Fenced) as error:
                raise LoadError(f"{error}, or Redis lost it: --abort {self._running.operation.id}, and begin anew") from None
            return

    async def _fill(self, writer: PartitionWriter, number: int, bookings: Bookings) -> None:
        operation, names = self._running.operation.id, (self._resources.topics.events, self._resources.topics.bookings)
        events, of_bookings = (self._source.ends.get(TopicPartition(name, number), 0) for name in names)
        await until_done("redis", lambda: writer.claim(operation), partition=number)
        await until_done("redis", writer.begin_repair, partition=number)
        async for entries in bookings.project_all():
            write = Write(entries)
            await until_done("redis", partial(writer.apply, write), partition=number)
        applied = Applied(events, of_bookings, *bookings.applied.times)
        await until_done("redis", lambda: writer.end_repair(watermark_fields(applied)), partition=number)

    def _report(self, tp: TopicPartition, count: int) -> None:
        self._reached[tp] = count
        self._progress(self._done)

    @property
    def _done(self) -> int:
        """Offsets that are read, also by earlier processes."""
        running = sum(count for tp, count in self._reached.items() if str(tp.partition) not in self._loaded)
        return running + sum(self._loaded.values())

    async def _save(self) -> None:
        operation = self._running.operation
        counts = {**operation.counts, "read": self._done, "partitions": len(self._loaded)}
        await self._running.save({**operation.position, LOADED: self._loaded}, counts)


async def commit(settings: Settings, ends: Mapping[TopicPartition, int]) -> None:
    """Commits offsets for the group of the new tables.

    Raises:
        LoadError: the group has members.
    """
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
