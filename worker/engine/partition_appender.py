"""Appends to one topic partition, and detects foreign writes: records that another producer appended.

A partition of a changelog or of the alerts topic has one writer at a time. But a worker that was stopped between its check
and its send may still append after its successor has taken over (a zombie). Then the offset that an append gets is not the
one after the writer's last. Record batches are built by aiokafka's C builder, in a third less time than by
`BatchBuilder.append`.
"""

import asyncio
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic, time_ns
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.engine.fetching import ISOLATION, Fetches, log_end
from worker.tasks import uncancelled

Record = tuple[bytes, bytes | None]
"""(key, value); without a value the record deletes the key."""
Group = Sequence[Record]
"""Records for one record batch, which Kafka appends as a whole or not at all."""

#: A read of records that must exist fails after so long, seconds.
READ_SECONDS = 30.0
_POLL_MS = 200
_FETCH_BYTES = 4 * 1024 * 1024


class BehindOpenTransaction(Exception):
    """Records lie behind an open transaction: whether they count is decided once it is committed or aborted."""


class PartitionAppender:
    """Appends to a partition, and tracks its end. One append at a time."""

    def __init__(self, topic: str, partition: int, batch_bytes: int) -> None:
        """
        Args:
            topic: its name.
            partition: its number.
            batch_bytes: a batch near this size takes no further group. The limit that no batch exceeds is the producer's.
        """
        self.topic = topic
        self.partition = partition
        self.next_offset: int | None = None
        """The offset that the next append should get; None: not known until `check_ends`."""
        self.foreign_writes: list[range] = []
        """Offsets of foreign writes, or of an own append whose answer was lost."""
        self._enough = batch_bytes - batch_bytes // 4
        self._begun = 0
        self._ended = 0

    def take_foreign_writes(self) -> list[range]:
        """Returns the offsets of foreign writes so far, and forgets them."""
        taken, self.foreign_writes = self.foreign_writes, []
        return taken

    async def append(self, producer: AIOKafkaProducer, groups: Iterable[Group]) -> None:
        """Appends records and returns when every replica in sync has all of them.

        A group is split only if it alone is too large for a batch; its parts are then sent one after the other, to keep their
        order. Appending the same records again is harmless, since rows merge.

        Raises:
            aiokafka.errors.KafkaError: not all are (known to be) appended.
        """
        self._begun += 1
        sent: list[tuple[asyncio.Future[Any], int]] = []
        try:
            for batch, continues in pack(producer.create_batch, groups, self._enough):
                if continues:
                    await asyncio.wait([sent[-1][0]])
                    sent[-1][0].result()
                future = asyncio.ensure_future(await producer.send_batch(batch, self.topic, partition=self.partition))
                future.add_done_callback(_retrieve_error)
                sent.append((future, batch.record_count()))
            for future, _ in sent:
                with suppress(KafkaError):  # raised below, once all have ended
                    await future
        finally:
            self._ended += 1
            for future, count in sent:
                if future.done() and not future.cancelled() and future.exception() is None:
                    self._advance(future.result().offset, count)
        for future, _ in sent:
            future.result()

    def _advance(self, base: int, count: int) -> None:
        if self.next_offset is not None and base > self.next_offset:
            self.foreign_writes.append(range(self.next_offset, base))
        # less than expected if the log was truncated: then this is its end
        self.next_offset = base + count

    @property
    def at_rest(self) -> tuple[int, int | None] | None:
        """The number of appends so far and the next offset; None while an append is under way."""
        return (self._ended, self.next_offset) if self._begun == self._ended else None

    def update_end(self, end: int) -> None:
        """Takes the end that Kafka listed; no append may have been under way meanwhile."""
        # some brokers list an end that is too small
        if self.next_offset is None or end > self.next_offset:
            self._advance(end, 0)


async def check_ends(appenders: Collection[PartitionAppender], client: Mapping[str, Any]) -> None:
    """Updates the ends of idle partitions from Kafka. Records after an end that was known are foreign writes.

    A partition with an append meanwhile is skipped: the append itself finds foreign writes.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    before = {appender: state for appender in appenders if (state := appender.at_rest) is not None}
    if not before:
        return
    consumer = _consumer(client)
    try:
        await uncancelled(consumer.start())
        ends = await consumer.end_offsets([TopicPartition(appender.topic, appender.partition) for appender in before])
    finally:
        await consumer.stop()
    for appender, state in before.items():
        if appender.at_rest == state:
            appender.update_end(ends[TopicPartition(appender.topic, appender.partition)])


async def read(client: Mapping[str, Any], topic: str, partition: int, offsets: range) -> list[ConsumerRecord]:
    """The records at these offsets, as far as compaction has kept them.

    Raises:
        BehindOpenTransaction: some of them lie behind an open transaction.
        TimeoutError: they were not read within `READ_SECONDS`.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    tp, deadline = TopicPartition(topic, partition), monotonic() + READ_SECONDS
    records: list[ConsumerRecord] = []
    consumer = _consumer(client)
    try:
        await uncancelled(consumer.start())
        listed_end = (await consumer.end_offsets([tp]))[tp]
        consumer.assign([tp])
        consumer.seek(tp, offsets.start)
        fetches = Fetches(consumer)
        while not await _has_read(consumer, tp, offsets.stop, listed_end):
            if monotonic() > deadline:
                raise TimeoutError(
                    f"{topic} {partition}: the records {offsets.start} to {offsets.stop} were not fetched in time"
                )
            try:
                fetched = await fetches.take(lambda: (tp,), _POLL_MS / 1000, sys.maxsize)
            except OffsetOutOfRangeError:
                begin = (await consumer.beginning_offsets([tp]))[tp]
                if begin <= offsets.start:
                    break  # the log was truncated: what lies beyond its end will not come
                consumer.seek(tp, begin)
            else:
                records += (record for each in fetched.values() for record in each.records if record.offset < offsets.stop)
    finally:
        await consumer.stop()
    return records


async def _has_read(consumer: AIOKafkaConsumer, tp: TopicPartition, stop: int, listed_end: int) -> bool:
    end, position = log_end(consumer, tp), await consumer.position(tp)
    if end is None or position >= stop:
        return bool(position >= stop)
    if position >= end.stable and end.high > end.stable:
        raise BehindOpenTransaction(
            f"{tp.topic} {tp.partition}: an open transaction holds the offsets {end.stable} to {end.high}"
        )
    # the log may be truncated: what lies beyond its end will not come
    return bool(position >= max(end.high, listed_end))


def pack(create: Callable[[], BatchBuilder], groups: Iterable[Group], enough: int) -> list[tuple[BatchBuilder, bool]]:
    """Packs groups into closed record batches, in their order, each with whether it continues the group of the one before.

    Args:
        create: creates an empty batch, which refuses records beyond its own limit but takes any first record.
        groups: the records; groups may be empty.
        enough: a batch of this size in bytes takes no further group.
    """
    ordered, batches = list(groups), list[tuple[BatchBuilder, bool]]()
    at, now = 0, time_ns() // 1_000_000
    while at < len(ordered):
        batch = create()
        count, end, is_whole = _fill(batch, ordered[at:] if at else ordered, enough, now)
        if end == 0:
            batches += _split(create, ordered[at], now)
            end = 1
        elif not is_whole:
            # rare, since only a group larger than a quarter of a batch can be refused here
            batch = create()
            count, _, _ = _fill(batch, ordered[at : at + end], enough, now)
        if count:
            batches.append((_closed(batch, count), False))
        at += end
    return batches


def _fill(batch: BatchBuilder, groups: Sequence[Group], enough: int, now: int) -> tuple[int, int, bool]:
    """(records, whole groups, whether the batch holds nothing else); (0, 0, False): the first group does not fit."""
    append, size = batch._builder.append, batch._builder.size  # noqa: SLF001 - BatchBuilder's own costs a third more
    count, headers = 0, list[tuple[str, bytes]]()
    for done, group in enumerate(groups):
        for key, value in group:
            if append(count, now, key, value, headers) is None:
                return (count if done else 0), done, False
            count += 1
        if size() >= enough:
            return count, done + 1, True
    return count, len(groups), True


def _split(create: Callable[[], BatchBuilder], group: Group, now: int) -> list[tuple[BatchBuilder, bool]]:
    """Splits one group into as many batches as it needs."""
    batches: list[tuple[BatchBuilder, bool]] = []
    batch, count = create(), 0
    for key, value in group:
        if batch._builder.append(count, now, key, value, []) is None:  # noqa: SLF001
            batches.append((_closed(batch, count), bool(batches)))
            batch, count = create(), 0
            batch._builder.append(count, now, key, value, [])  # noqa: SLF001
        count += 1
    batches.append((_closed(batch, count), bool(batches)))
    return batches


def _closed(batch: BatchBuilder, count: int) -> BatchBuilder:
    batch._relative_offset = count  # noqa: SLF001 - its own `append` was not used
    batch.close()
    return batch


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    # a cancelled append leaves futures that nobody awaits; asyncio would log their errors
    if not future.cancelled():
        future.exception()


def _consumer(client: Mapping[str, Any]) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=ISOLATION,
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_wait_ms=_POLL_MS,
    )
