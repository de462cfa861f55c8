"""Fills tables from their changelogs when partitions are assigned: in batches, to the very end, never in silence."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from worker.engine.effort import moved
from worker.engine.table import Table, checksum

#: Without a record or progress for so long, a recovery fails instead of waiting for ever, seconds.
STALL_SECONDS = 60.0
_POLL_MS = 200
_FETCH_WAIT_MS = 50
_FETCH_BYTES = 1024 * 1024
#: Records that are merged before others of the process get their turn.
_AT_ONCE = 5_000


async def recover(tables: Iterable[Table], partitions: Iterable[int], client: Mapping[str, Any]) -> AsyncIterator[int]:
    """Reads each partition's changelogs from where its tables stand to their end; yields partitions as they are done.

    Rows that are not the changelog's, because its topic was made again, are dropped first. Whoever owns the partition
    then calls `Table.settle`.

    Args:
        tables: tables of one changelog topic each.
        partitions: partition numbers to recover.
        client: connection settings for aiokafka.

    Raises:
        TimeoutError: no progress for `STALL_SECONDS`.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    by_topic = {table.changelog: table for table in tables}
    waiting = {TopicPartition(topic, p) for topic in by_topic for p in partitions}
    consumer = AIOKafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(list(waiting))
        starts = {tp: _start(by_topic[tp.topic], tp, end) for tp, end in ends.items()}
        consumer.assign(list(waiting))
        for tp, start in starts.items():
            # the record before is read too, to see that it is the one the rows know
            consumer.seek(tp, max(start - 1, 0))
        progress = monotonic()
        while waiting:
            if await _read(consumer, by_topic, starts):
                progress = monotonic()
                moved()
            elif monotonic() - progress > STALL_SECONDS:
                raise TimeoutError(f"no record of {min(waiting)} came for {STALL_SECONDS:.0f} s")
            done = {tp for tp in waiting if await _at_end(consumer, tp, ends[tp])}
            waiting -= done
            consumer.pause(*done)
            for tp in done:
                by_topic[tp.topic].recovered(tp.partition, await consumer.position(tp))
            for partition in {tp.partition for tp in done} - {tp.partition for tp in waiting}:
                yield partition
    finally:
        await consumer.stop()


def _start(table: Table, tp: TopicPartition, end: int) -> int:
    start = table.open(tp.partition)
    if start <= end:
        return start
    # some brokers list less than there is; then this is only slow
    table.reset(tp.partition)
    return 0


async def _read(consumer: AIOKafkaConsumer, tables: Mapping[str, Table], starts: dict[TopicPartition, int]) -> bool:
    found = await consumer.getmany(timeout_ms=_POLL_MS)
    for tp, records in found.items():
        table, new = tables[tp.topic], records
        if records[0].offset < starts[tp]:
            if not _is_known(table, tp.partition, records[0]):
                table.reset(tp.partition)
                starts[tp] = 0
                consumer.seek(tp, 0)
                continue
            new = records[1:]
        for first in range(0, len(new), _AT_ONCE):
            table.recover(tp.partition, new[first : first + _AT_ONCE])
            await asyncio.sleep(0)
    return bool(found)


def _is_known(table: Table, partition: int, record: ConsumerRecord) -> bool:
    mark = table.mark(partition)
    return mark is not None and checksum(record.key, record.value) == mark.checksum


async def _at_end(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> bool:
    # the position, not the last record seen: compaction may have taken the last one away; and the high watermark of
    # a fetch beside the listed end, because some brokers list less than there is
    highwater = consumer.highwater(tp)
    return highwater is not None and await consumer.position(tp) >= max(end, highwater)
