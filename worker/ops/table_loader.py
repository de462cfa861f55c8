"""Fills new tables, with a group and changelogs of their own, and the namespace of a build, beside what is live.

All records from the first one on are folded as a worker folds them, from archives and topics; or the rows of the live tables
are copied. Nothing is published of it: alerts, dead letters and forwards are the live workers' business. At the end workers of
the new tables go on from the offsets that are committed here, as if they had processed everything themselves.

The partitions are shared among processes, one a core, since one process uses one core (`load_partitions`). They end with the
command, however it ends; this process keeps the position of the operation.

Everything may be repeated: rows merge, the offsets that are folded are stored with the rows, and what a namespace holds of a
partition is replaced as a whole.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
from aiokafka import TopicPartition

from worker.kafka import open_producer
from worker.ops import topics as topic_ops
from worker.ops.coverage import find_coverage
from worker.ops.load_child import follow
from worker.ops.load_messages import Loaded, Reached, Share
from worker.ops.load_partitions import all_of
from worker.ops.table_group import join_group
from worker.read_model.builds import Namespace
from worker.read_model.operations import Running
from worker.redis.client import Client
from worker.settings import Settings

#: Processes at most: of more, one Redis has too much to do. Each takes up to 600 MB.
_MOST_PROCESSES = 4
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
        source: of the live tables, of the same topics.
        client: of Redis.
        running: the operation, which owns the build. Partitions that are done are kept in its position, and counts.
        build: the namespace; it is registered, and its partitions are open to this operation.
        archives: folders, or files of them, with what the topics have deleted.
        refold: fold topics and archives; otherwise the rows of the live tables are copied.
        stop: ends it early.
        progress: how far it is.

    Raises:
        LoadError: topics and archives lack some records, or a process failed: see `load_partitions`.
        ArchiveError, TopicsError, LogUnreadable: see `find_coverage`.
        SettingsConflict: the new tables exist, made with other settings.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    assert settings.tables == build.tables != source.tables
    assert (settings.topic_prefix, settings.partitions) == (source.topic_prefix, source.partitions)
    if refold:
        # before anything is made
        (await find_coverage(source, archives)).check()
    await topic_ops.create(settings)
    async with open_producer(settings) as producer:
        await join_group(settings, producer, client)
    whole = Share([*range(build.partitions)], build.name, running.operation.id, source.tables, list(map(str, archives)), refold)
    return await _Load(settings, running, whole, stop, progress).run()


class _Load:
    """The command's part of a load."""

    def __init__(self, settings: Settings, running: Running, whole: Share, stop: asyncio.Event, progress: OnProgress) -> None:
        self._settings = settings
        self._running = running
        self._whole = whole
        self._stop = stop
        self._progress = progress
        self._loaded: dict[str, int] = dict(running.operation.position.get(LOADED, {}))
        """By partition that is done: how many offsets were read of it."""
        self._reached: dict[TopicPartition, int] = {}

    async def run(self) -> bool:
        """Loads the partitions that are not loaded yet."""
        numbers = [each for each in self._whole.partitions if str(each) not in self._loaded]
        count = min(len(numbers), _cores(), _MOST_PROCESSES)
        await all_of([self._follow(numbers[first::count]) for first in range(count)])
        await self._save()
        return len(self._loaded) == len(self._whole.partitions)

    async def _follow(self, partitions: list[int]) -> None:
        """Has a process load these partitions."""
        share = msgspec.structs.replace(self._whole, partitions=partitions)
        async with aclosing(follow(self._settings, share, self._stop)) as messages:
            async for message in messages:
                match message:
                    case Reached(topic, partition, count):
                        self._reached[TopicPartition(topic, partition)] = count
                        self._progress(self._done)
                    case Loaded(partition):
                        read = sum(count for tp, count in self._reached.items() if tp.partition == partition)
                        self._loaded[str(partition)] = read
                        await self._save()

    @property
    def _done(self) -> int:
        """Offsets that are read, also by earlier processes."""
        running = sum(count for tp, count in self._reached.items() if str(tp.partition) not in self._loaded)
        return running + sum(self._loaded.values())

    async def _save(self) -> None:
        operation = self._running.operation
        counts = {**operation.counts, "read": self._done, "partitions": len(self._loaded)}
        await self._running.save({**operation.position, LOADED: self._loaded}, counts)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
