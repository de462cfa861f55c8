"""Copies the rows of the live tables into new ones: for another layout of the read models, where the rows stay as they are."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing

from aiokafka import ConsumerRecord, TopicPartition

from worker.domain.row_codec import OtherFormat, check
from worker.domain.rows import PARTITION_GROUP, PARTITION_SUFFIX, SEPARATOR
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.table import Table
from worker.kafka import committed_offsets, open_admin
from worker.ops.coverage import LoadError
from worker.ops.load_sources import AT_ONCE, FETCH_BYTES, OnReached
from worker.settings import Settings
from worker.stream.booking_store import Bookings
from worker.stream.resources import Resources
from worker.topics import TopicNames

#: The new tables have a generation of their own.
_GENERATION = PARTITION_GROUP + SEPARATOR + PARTITION_SUFFIX


class RowCopy:
    """The source of new tables that is the live ones.

    Args:
        windows: offsets of the live changelogs of both tables, in the order of the tables.
        ends: what the live group had committed before these ended: all of it is in their rows.
    """

    def __init__(self, windows: Sequence[Mapping[TopicPartition, range]], ends: Mapping[TopicPartition, int]) -> None:
        self._windows = windows
        self.ends = ends
        """Up to where the tables then have each partition of the events and the bookings topic."""

    @property
    def total(self) -> int:
        """Offsets of the live changelogs."""
        return sum(len(window) for windows in self._windows for window in windows.values())

    async def fill(
        self, number: int, resources: Resources, bookings: Bookings, stop: asyncio.Event, on_reached: OnReached
    ) -> bool:
        """Copies a partition; returns False if it was stopped. What was copied before is read again, but not written."""
        client = resources.settings.kafka_client()
        for table, windows in zip(resources.tables, self._windows, strict=True):
            window = {tp: offsets for tp, offsets in windows.items() if tp.partition == number}
            async with aclosing(read_windows(client, window, at_once=AT_ONCE, fetch_bytes=FETCH_BYTES)) as parts:
                async for tp, fetched in parts:
                    await _merge(table, number, fetched.records, resources)
                    on_reached(tp, fetched.end - window[tp].start)
                    if stop.is_set():
                        return False
        # only now: it reads the partition's own rows
        await bookings.open()
        # the copy merges rows, and does not delete: those of erased bookings come back until here
        await bookings.remove_erased(list(dict.fromkeys([*bookings.unfinished, *bookings.erased()])))
        return True


async def find_rows(source: Settings) -> RowCopy:
    """The rows of the live tables.

    Args:
        source: settings of the live tables.

    Raises:
        aiokafka.errors.KafkaError: the broker refuses.
    """
    topics, numbers = TopicNames.of(source.topic_prefix, source.tables), range(source.partitions)
    tps = [TopicPartition(topic, number) for topic in (topics.events, topics.bookings) for number in numbers]
    # before the changelogs: rows are appended before what they come from is committed
    async with open_admin(source) as admin:
        committed = await committed_offsets(admin, source.group, tps)
    client = source.kafka_client()
    changelogs = (topics.attendance_changelog, topics.bookings_changelog)
    windows = [await find_windows(client, changelog, numbers) for changelog in changelogs]
    return RowCopy(windows, committed)


async def check_row_format(source: Settings) -> None:
    """Raises OtherFormat if the rows of the live tables have another format: they cannot be copied.

    Args:
        source: settings of the live tables.

    Raises:
        OtherFormat: they have.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    client = source.kafka_client()
    topic = TopicNames.of(source.topic_prefix, source.tables).attendance_changelog
    async with aclosing(read_windows(client, await find_windows(client, topic, range(source.partitions)))) as parts:
        async for _, fetched in parts:
            for record in fetched.records:
                if record.value and record.key != _GENERATION:
                    check(record.value[0])
                    return  # all rows have one format


async def _merge(table: Table, number: int, records: list[ConsumerRecord], resources: Resources) -> None:
    """Merges records of a live changelog into a new table."""
    copied = [record for record in records if record.key != _GENERATION]
    try:
        for record in copied:
            if record.value:
                check(record.value[0])
        changes = table.changes_by(number, copied)
    except OtherFormat:
        raise LoadError("the rows of the live tables have another format: --refold folds topics and archives again") from None
    if changes:
        await resources.until_written("changelog", number, table.flush, number, changes)
