"""Fills tables from their changelogs when partitions are assigned: in batches, to the very end, never in silence."""

from collections.abc import AsyncIterator, Iterable, Mapping
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from worker.engine.table import Table

#: Without a record or progress for so long, a recovery fails instead of waiting for ever, seconds.
STALL_SECONDS = 60.0
_POLL_MS = 200
_FETCH_WAIT_MS = 50


async def recover(tables: Iterable[Table], partitions: Iterable[int], client: Mapping[str, Any]) -> AsyncIterator[int]:
    """Reads each partition's changelogs from where its tables stand to their end; yields partitions as they are done.

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
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    await consumer.start()
    try:
        consumer.assign(list(waiting))
        for tp in waiting:
            consumer.seek(tp, by_topic[tp.topic].open(tp.partition))
        ends = await consumer.end_offsets(list(waiting))
        progress = monotonic()
        while waiting:
            if await _read(consumer, by_topic):
                progress = monotonic()
            elif monotonic() - progress > STALL_SECONDS:
                raise TimeoutError(f"no record of {min(waiting)} came for {STALL_SECONDS:.0f} s")
            done = {tp for tp in waiting if await _at_end(consumer, tp, ends[tp])}
            waiting -= done
            consumer.pause(*done)
            for partition in {tp.partition for tp in done} - {tp.partition for tp in waiting}:
                yield partition
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, tables: Mapping[str, Table]) -> bool:
    found = await consumer.getmany(timeout_ms=_POLL_MS)
    for tp, records in found.items():
        tables[tp.topic].recover(tp.partition, records)
    return bool(found)


async def _at_end(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> bool:
    # the position, not the last record seen: compaction may have taken the last one away; and the high watermark of
    # a fetch beside the listed end, because some brokers list less than there is
    highwater = consumer.highwater(tp)
    return highwater is not None and await consumer.position(tp) >= max(end, highwater)
