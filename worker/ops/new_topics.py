"""Prepares the topics of a new prefix for a refold into them: another number of partitions, or other topics.

What the topics in use have deleted is copied from archives; the rest is mirrored (see `worker.ops.mirror`). The tables of the
new topics are then folded by ordinary workers.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition

from worker.domain.erasures import merge_markers
from worker.domain.rows import PARTITION_GROUP
from worker.engine.log_reader import find_windows
from worker.engine.stores.base import SEPARATOR
from worker.kafka import Message, open_producer, send_all
from worker.ops import topics as topic_ops
from worker.ops.coverage import Coverage, LoadError, find_coverage
from worker.ops.load_markers import find_markers
from worker.ops.load_sources import read_part
from worker.ops.mirror import Copies, begin_at
from worker.ops.table_group import join_group
from worker.read_model.operations import Running
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.group_topic import Mirrored, ensure_erase_key, find_erase_key, record_mirrored
from worker.topics import TopicNames

#: Name of the topics that were created, in the position of the operation.
CREATED = "topics"


async def check_new(settings: Settings) -> None:
    """Checks that the topics of these settings are unused.

    Raises:
        LoadError: they have records, or another number of partitions.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    names = TopicNames.of(settings.topic_prefix)
    for topic in (names.events, names.bookings):
        if await topic_ops.exists(settings, topic):
            windows = await find_windows(settings.kafka_client(), topic, range(settings.partitions))
            if any(window.stop for window in windows.values()):
                raise LoadError(f"ATTENDANCE_TOPIC_PREFIX: {topic} has records: set a prefix whose topics are new")


async def prepare(
    settings: Settings,
    source: Settings,
    client: Client,
    running: Running,
    archives: Sequence[Path],
    *,
    stop: asyncio.Event,
    progress: Callable[[int], None],
) -> bool:
    """Creates the topics, and copies what only archives have; returns False if it was stopped; a second call begins anew.

    Args:
        settings: of the build: with its topic prefix, number of partitions and tables.
        source: those of the live tables.
        client: of Redis.
        running: the operation; its position gets the topics that are created.
        archives: folders, or files of them, with what the topics have deleted.
        stop: ends it early.
        progress: called with the number of archived offsets that are read.

    Raises:
        LoadError: topics and archives lack some records.
        ArchiveError, TopicsError, LogUnreadable: see `find_coverage` and `read_part`.
        SettingsConflict: the tables exist, made with other settings.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    coverage = await find_coverage(source, archives)
    coverage.check()
    created = (await topic_ops.create(settings)).created
    before = running.operation.position.get(CREATED, [])
    await running.save({**running.operation.position, CREATED: sorted({*before, *created})})
    async with open_producer(settings) as producer:
        if key := await find_erase_key(source):
            await ensure_erase_key(settings, producer, key)
        await join_group(settings, producer, client)
        await _copy_markers(settings, source, producer)
        if not await _copy_archived(settings, source, producer, coverage, stop, progress):
            return False
        # who mirrors goes on where the archives end; back, with whatever was published to the new topics
        await begin_at(settings, {tp: part.begin for tp, part in coverage.parts.items()})
        names = TopicNames.of(settings.topic_prefix)
        new = [
            TopicPartition(topic, number) for topic in (names.events, names.bookings) for number in range(settings.partitions)
        ]
        await begin_at(source, dict.fromkeys(new, 0))
        await record_mirrored(producer, settings.topic_prefix, Mirrored(source.topic_prefix, source.partitions))
    return True


async def _copy_markers(settings: Settings, source: Settings, producer: AIOKafkaProducer) -> None:
    """Gives each new partition the markers of all erased bookings: of which partition a marker is cannot be read from it."""
    markers = dict[bytes, bytes]()
    for number in range(source.partitions):
        for suffix, row in (await find_markers(source, number)).items():
            if row is not None:
                markers[suffix] = merge_markers(markers[suffix], row) if suffix in markers else row
    changelog = TopicNames.of(settings.topic_prefix, settings.tables).attendance_changelog
    for number in range(settings.partitions):
        rows = (Message(changelog, number, PARTITION_GROUP + SEPARATOR + suffix, row) for suffix, row in markers.items())
        await send_all(producer, rows)


async def _copy_archived(
    settings: Settings,
    source: Settings,
    producer: AIOKafkaProducer,
    coverage: Coverage,
    stop: asyncio.Event,
    progress: Callable[[int], None],
) -> bool:
    copies, done = Copies(source, settings), 0
    for tp, part in coverage.parts.items():
        archived = part._replace(end=min(part.begin, part.end))
        async with aclosing(read_part(source.kafka_client(), tp, archived, 0)) as chunks:
            async for fetched in chunks:
                await send_all(producer, copies.of(fetched.records))
                progress(done + fetched.end)
                if stop.is_set():
                    return False
        done += archived.end
    return True
