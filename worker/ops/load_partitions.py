"""Fills some partitions of new tables, and their part of a build, in one process; see `table_loader`."""

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
from worker.ops.coverage import LoadError, find_coverage
from worker.ops.load_copy import find_rows
from worker.ops.load_messages import Share
from worker.ops.load_refold import Refold
from worker.ops.load_sources import LoadSource, OnReached
from worker.read_model.write_batch import Write
from worker.read_model.writer import Dropped, Fenced, NeedsRepair, PartitionWriter
from worker.redis.client import Client
from worker.settings import Settings, installed_version
from worker.stream.booking_store import Bookings
from worker.stream.group_topic import find_erase_key
from worker.stream.redis_sink import watermark_fields
from worker.stream.resources import Resources, open_row_store, open_tables
from worker.stream.retry import until_done
from worker.tasks import cancel_all, uncancelled

#: Partitions that are loaded at the same time: while rows of one are stored, another one is folded.
_AT_ONCE = 3


async def load_partitions(
    settings: Settings,
    client: Client,
    share: Share,
    stop: asyncio.Event,
    on_reached: OnReached,
    on_loaded: Callable[[int], None],
) -> None:
    """Loads partitions, one after the other a few at a time, until all are done or ``stop`` is set.

    Args:
        settings: of the new tables.
        client: of Redis.
        share: what to load.
        stop: ends it early.
        on_reached: called while a partition is filled.
        on_loaded: called with each partition that is done.

    Raises:
        LoadError: topics and archives lack some records, the new group has members, or the build is gone.
        ArchiveError, TopicsError, LogUnreadable: see `find_coverage` and `read_part`.
        SettingsError: the store cannot be used.
        SettingsConflict: the new tables exist, made with other settings.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    source = await _source(settings.model_copy(update={"tables": share.live_tables}), share)
    numbers = iter(share.partitions)
    async with _resources(settings, client) as resources:
        load = _Load(resources, share, source, stop, on_reached)

        async def load_some() -> None:
            for number in numbers:
                if stop.is_set() or not await load.partition(number):
                    return
                on_loaded(number)

        await all_of([load_some() for _ in range(_AT_ONCE)])


async def _source(live: Settings, share: Share) -> LoadSource:
    if not share.is_refold:
        return await find_rows(live)
    coverage = await find_coverage(live, [Path(each) for each in share.archives])
    coverage.check()
    return Refold(coverage, live)


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
    """The load of partitions with the same resources."""

    def __init__(
        self, resources: Resources, share: Share, source: LoadSource, stop: asyncio.Event, on_reached: OnReached
    ) -> None:
        self._resources = resources
        self._share = share
        self._source = source
        self._stop = stop
        self._on_reached = on_reached

    async def partition(self, number: int) -> bool:
        """Loads a partition; returns whether it is done."""
        resources = self._resources
        try:
            async with aclosing(recover(resources.tables, [number], resources.settings.kafka_client())) as recovered:
                async for _ in recovered:
                    pass
            bookings = Bookings(number, resources)
            if not await self._source.fill(number, resources, bookings, self._stop, self._on_reached):
                return False
            # by a process that was frozen, and is not the one that loads any more
            await bookings.rewrite()
            await self._project(number, bookings)
            ends = {tp: end for tp, end in self._source.ends.items() if tp.partition == number}
            await commit(resources.settings, ends)
        finally:
            for table in resources.tables:
                table.close(number)
        return True

    async def _project(self, number: int, bookings: Bookings) -> None:
        """Fills the partition's keys in the build; anew if Redis lost some of them meanwhile."""
        while True:
            writer = PartitionWriter(self._resources.redis, self._share.namespace, number, bookings.generation)
            try:
                await self._fill(writer, number, bookings)
            except NeedsRepair:
                continue
            except (Dropped, Fenced) as error:
                raise LoadError(f"{error}, or Redis lost it: --abort {self._share.operation}, and begin anew") from None
            return

    async def _fill(self, writer: PartitionWriter, number: int, bookings: Bookings) -> None:
        names = (self._resources.topics.events, self._resources.topics.bookings)
        events, of_bookings = (self._source.ends.get(TopicPartition(name, number), 0) for name in names)
        await until_done("redis", lambda: writer.claim(self._share.operation), partition=number)
        await until_done("redis", writer.begin_repair, partition=number)
        async for entries in bookings.project_all():
            write = Write(entries)
            await until_done("redis", partial(writer.apply, write), partition=number)
        applied = Applied(events, of_bookings, *bookings.applied.times)
        await until_done("redis", lambda: writer.end_repair(watermark_fields(applied)), partition=number)


async def commit(settings: Settings, ends: Mapping[TopicPartition, int]) -> None:
    """Commits offsets for the group of the new tables.

    Raises:
        LoadError: the group has members.
    """
    consumer = AIOKafkaConsumer(**settings.kafka_client(), group_id=settings.group, enable_auto_commit=False)
    try:
        await uncancelled(consumer.start())
        consumer.assign(list(ends))
        # of a group with members the broker refuses this commit, since it is no member's
        await consumer.commit(ends)
    except (CommitFailedError, UnknownMemberIdError, IllegalGenerationError):
        raise LoadError(
            f"the group {settings.group} has members: stop the workers with ATTENDANCE_TABLES={settings.tables}"
        ) from None
    finally:
        await consumer.stop()


async def all_of(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Until all are done; the first error ends the others, and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_all(tasks)
