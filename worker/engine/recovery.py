"""Recovers tables from their changelogs when partitions are assigned: in batches, and to the end of each log."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from worker.engine.fetching import ISOLATION, Fetches, log_end
from worker.engine.progress import heartbeat
from worker.engine.table import Table, checksum
from worker.tasks import uncancelled

log = structlog.get_logger(__name__)

#: A recovery fails after so long without a record or other progress, seconds.
STALL_SECONDS = 60.0
_POLL_SECONDS = 0.2
_FETCH_WAIT_MS = 50
_FETCH_BYTES = 1024 * 1024
#: Records that are merged before other tasks get their turn.
_AT_ONCE = 5_000


@dataclass(slots=True)
class RecoveryProgress:
    """Offsets of the changelogs, of all partitions together; some have no record, after a compaction."""

    total: int = 0
    """Those to be read."""
    remaining: int = 0
    """Of these, those that are not read yet."""
    is_known: bool = False
    """Whether Kafka has answered how many there are."""


async def recover(
    tables: Iterable[Table], partitions: Iterable[int], client: Mapping[str, Any], progress: RecoveryProgress | None = None
) -> AsyncGenerator[int, None]:
    """Reads the changelogs of each partition from the tables' checkpoints to the end; yields partitions as they are recovered.

    Rows that do not belong to the changelog, because its topic was deleted and created again, are dropped first. The owner of
    a partition then calls `Table.rewrite_recovered`. For a batch that cannot be read, or rows behind an open transaction, the
    recovery waits, with one log line; other partitions are yielded meanwhile.

    Args:
        tables: each with its own changelog topic.
        partitions: partition numbers to recover.
        client: connection settings for aiokafka.
        progress: is kept up to date.

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
        isolation_level=ISOLATION,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    try:
        # inside `try`: a cancelled start must be stopped too
        await uncancelled(consumer.start())
        ends = await consumer.end_offsets(list(waiting))
        reader = _ChangelogReader(consumer, by_topic, {tp: _start(by_topic[tp.topic], tp, end) for tp, end in ends.items()})
        if progress is not None:
            reader.report(progress, ends)
        last_read = monotonic()
        while waiting:
            if await reader.read(waiting):
                last_read = monotonic()
                heartbeat()
                if progress is not None:
                    reader.report(progress, ends)
            elif all(reader.waits_for_others(tp) for tp in waiting):
                last_read = monotonic()
            elif monotonic() - last_read > STALL_SECONDS:
                raise TimeoutError(f"no record of {min(waiting)} was fetched for {STALL_SECONDS:.0f} s")
            done = {tp for tp in waiting if await reader.is_at_end(tp, ends[tp])}
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
    # the rows are of another log; or the broker lists an end that is too small, then this is only slow
    table.reset(tp.partition)
    return 0


class _ChangelogReader:
    """Reads changelogs into tables."""

    def __init__(self, consumer: AIOKafkaConsumer, tables: Mapping[str, Table], starts: dict[TopicPartition, int]) -> None:
        self._consumer = consumer
        self._tables = tables
        self._fetches = Fetches(consumer, are_plain=True)
        self._starts = starts
        # the record before the checkpoint is read too: it shows whether the rows are of this log
        self._expected = {tp: max(start - 1, 0) for tp, start in starts.items()}
        self._held: set[TopicPartition] = set()
        consumer.assign(list(starts))
        for tp, offset in self._expected.items():
            consumer.seek(tp, offset)

    def report(self, progress: RecoveryProgress, ends: Mapping[TopicPartition, int]) -> None:
        """Reports the offsets before these ends; more than before are to be read once rows turned out to be of another log."""
        progress.total = sum(max(0, end - self._starts[tp]) for tp, end in ends.items())
        progress.remaining = sum(max(0, end - max(self._expected[tp], self._starts[tp])) for tp, end in ends.items())
        progress.is_known = True

    async def read(self, waiting: set[TopicPartition]) -> bool:
        """Merges what is fetched of these; returns whether anything was."""
        fetched = await self._fetches.take(lambda: waiting, _POLL_SECONDS, sys.maxsize)
        for tp, (begin, records, end) in fetched.items():
            table, start = self._tables[tp.topic], self._starts[tp]
            self._check_begin(tp, begin)
            if records and records[0].offset < start:
                if not _matches_checkpoint(table, tp.partition, records[0]):
                    table.reset(tp.partition)
                    self._starts[tp] = self._expected[tp] = 0
                    self._consumer.seek(tp, 0)
                    continue
                records = records[1:]  # noqa: PLW2901 - without the record before the checkpoint
            self._expected[tp] = end
            for first in range(0, len(records), _AT_ONCE):
                table.recover(tp.partition, records[first : first + _AT_ONCE])
                await asyncio.sleep(0)
        return bool(fetched)

    def _check_begin(self, tp: TopicPartition, begin: int) -> None:
        first = max(self._expected[tp], self._starts[tp])
        if begin > first:
            log.warning(
                "records of a changelog were deleted before they were read: rows that only they held are lost",
                topic=tp.topic,
                partition=tp.partition,
                first=first,
                end=begin,
                count=begin - first,
            )
            self._expected[tp] = begin

    def waits_for_others(self, tp: TopicPartition) -> bool:
        """Whether the next records cannot be read, or not yet because of an open transaction."""
        return tp in self._held or tp in self._fetches.unreadable

    async def is_at_end(self, tp: TopicPartition, listed_end: int) -> bool:
        """Whether a changelog is merged to its end.

        The position decides, not the last record, which compaction may have removed. And the end is the greater of the listed
        one and of that in the answer to a fetch, because some brokers list an end that is too small.
        """
        end = log_end(self._consumer, tp)
        if end is None or await self._consumer.position(tp) < max(listed_end, end.stable):
            return False
        self._check_begin(tp, await self._consumer.position(tp))
        if end.stable < end.high:
            # rows of this table may lie behind another producer's open transaction
            if tp not in self._held:
                self._held.add(tp)
                log.warning(
                    "a changelog is held by an open transaction: waiting until it is committed or aborted",
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=end.stable,
                    held=end.high - end.stable,
                )
            return False
        self._held.discard(tp)
        return True


def _matches_checkpoint(table: Table, partition: int, record: ConsumerRecord) -> bool:
    checkpoint = table.checkpoint(partition)
    return checkpoint is not None and checksum(record.key, record.value) == checkpoint.checksum
