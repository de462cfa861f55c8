"""One writer's view of the end of one topic partition: what it appended, and where somebody else did.

A partition of a changelog or of the alerts topic has one writer at a time. A worker that was stopped between its check
and its send may still append after its successor (design, "Zombies"): then the offset that an append gets does not
follow on the writer's own last one. Builds record batches by aiokafka's C builder: a third less than `BatchBuilder.append`.
"""

import asyncio
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic, time_ns
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.engine.fetching import ISOLATION, Fetches, log_end

Record = tuple[bytes, bytes | None]
"""(key, value); without a value the record deletes the key."""
Group = Sequence[Record]
"""Records that lie in one record batch, which Kafka appends whole or not at all."""

#: A read of records that are known to be there fails after so long, seconds.
READ_SECONDS = 30.0
_POLL_MS = 200
_FETCH_BYTES = 4 * 1024 * 1024


class Undecided(Exception):
    """Records lie behind an open transaction: whether they count is known once it is committed or aborted."""


class Tail:
    """The end of a partition as its writer knows it. One append at a time."""

    def __init__(self, topic: str, partition: int, batch_bytes: int) -> None:
        """
        Args:
            topic: its name.
            partition: its number.
            batch_bytes: a batch is closed when it has come near this size; what no batch exceeds is the producer's limit.
        """
        self.topic = topic
        self.partition = partition
        self.next_offset: int | None = None
        """The offset that the next append should get; None: not known, `look` finds it."""
        self.foreign: list[range] = []
        """Offsets that somebody else wrote, or an append of our own whose answer was lost."""
        self._enough = batch_bytes - batch_bytes // 4
        self._begun = 0
        self._ended = 0

    def take_foreign(self) -> list[range]:
        """The foreign offsets found so far; they count as dealt with."""
        taken, self.foreign = self.foreign, []
        return taken

    async def append(self, producer: AIOKafkaProducer, groups: Iterable[Group]) -> None:
        """Appends records and returns when every replica in sync has them all.

        A group is split only where it alone is too large for a batch; its parts are then sent one after the other,
        so that what comes first in the group is there first. Appending the same again is harmless where rows merge.

        Raises:
            aiokafka.errors.KafkaError: not all are (known to be) appended.
        """
        self._begun += 1
        sent: list[tuple[asyncio.Future[Any], int]] = []
        try:
            for batch, follows in pack(producer.create_batch, groups, self._enough):
                if follows:
                    await asyncio.wait([sent[-1][0]])
                    sent[-1][0].result()
                future = asyncio.ensure_future(await producer.send_batch(batch, self.topic, partition=self.partition))
                future.add_done_callback(_look_at_error)
                sent.append((future, batch.record_count()))
            await asyncio.gather(*(future for future, _ in sent), return_exceptions=True)
        finally:
            self._ended += 1
            for future, count in sent:
                if future.done() and not future.cancelled() and future.exception() is None:
                    self._follow(future.result().offset, count)
        for future, _ in sent:
            future.result()

    def _follow(self, base: int, count: int) -> None:
        if self.next_offset is not None and base > self.next_offset:
            self.foreign.append(range(self.next_offset, base))
        # less than expected where the log was cut off: then this is its end
        self.next_offset = base + count

    @property
    def at_rest(self) -> tuple[int, int | None] | None:
        """Appends so far and the next offset; None while an append is under way."""
        return (self._ended, self.next_offset) if self._begun == self._ended else None

    def found(self, end: int) -> None:
        """The log ends there, and no append of ours was under way since `at_rest` was last asked."""
        # some brokers list less than there is
        if self.next_offset is None or end > self.next_offset:
            self._follow(end, 0)


async def look(tails: Collection[Tail], client: Mapping[str, Any]) -> None:
    """Compares the tails of idle partitions with the ends of their logs; what lies between is foreign, if it was known.

    A tail that appends meanwhile is left alone: its append finds the same.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    before = {tail: state for tail in tails if (state := tail.at_rest) is not None}
    if not before:
        return
    consumer = _consumer(client)
    try:
        await consumer.start()
        ends = await consumer.end_offsets([TopicPartition(tail.topic, tail.partition) for tail in before])
    finally:
        await consumer.stop()
    for tail, state in before.items():
        if tail.at_rest == state:
            tail.found(ends[TopicPartition(tail.topic, tail.partition)])


async def read(client: Mapping[str, Any], topic: str, partition: int, offsets: range) -> list[ConsumerRecord]:
    """The records at these offsets that compaction has left.

    Raises:
        Undecided: some of them lie behind an open transaction.
        TimeoutError: they did not come within `READ_SECONDS`.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    tp, deadline = TopicPartition(topic, partition), monotonic() + READ_SECONDS
    found: list[ConsumerRecord] = []
    consumer = _consumer(client)
    try:
        await consumer.start()
        listed = (await consumer.end_offsets([tp]))[tp]
        consumer.assign([tp])
        consumer.seek(tp, offsets.start)
        fetches = Fetches(consumer)
        while not await _has_read(consumer, tp, offsets.stop, listed):
            if monotonic() > deadline:
                raise TimeoutError(f"{topic} {partition}: the records {offsets.start} to {offsets.stop} did not come")
            try:
                fetched = await fetches.take(lambda: (tp,), _POLL_MS / 1000, sys.maxsize)
            except OffsetOutOfRangeError:
                begin = (await consumer.beginning_offsets([tp]))[tp]
                if begin <= offsets.start:
                    break  # what lies beyond the end was cut off and will not come
                consumer.seek(tp, begin)
            else:
                found += (record for each in fetched.values() for record in each.records if record.offset < offsets.stop)
    finally:
        await consumer.stop()
    return found


async def _has_read(consumer: AIOKafkaConsumer, tp: TopicPartition, stop: int, listed_end: int) -> bool:
    end, position = log_end(consumer, tp), await consumer.position(tp)
    if end is None or position >= stop:
        return bool(position >= stop)
    if position >= end.stable and end.high > end.stable:
        raise Undecided(f"{tp.topic} {tp.partition}: an open transaction holds the offsets {end.stable} to {end.high}")
    # what lies beyond the end was cut off and will not come
    return bool(position >= max(end.high, listed_end))


def pack(create: Callable[[], BatchBuilder], groups: Iterable[Group], enough: int) -> list[tuple[BatchBuilder, bool]]:
    """Closed record batches in the order of the groups, and of each whether it continues the group of the one before.

    Args:
        create: makes an empty batch, which refuses records beyond its own limit but takes any first record.
        groups: the records; no empty group is needed, none hurts.
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
            # seldom: only a group of a quarter batch can find no room when the batch had some for it
            batch = create()
            count, _, _ = _fill(batch, ordered[at : at + end], enough, now)
        if count:
            batches.append((_closed(batch, count), False))
        at += end
    return batches


def _fill(batch: BatchBuilder, groups: Sequence[Group], enough: int, now: int) -> tuple[int, int, bool]:
    """(records, whole groups, whether nothing else is) now in the batch; (0, 0, False): the first group has no room."""
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
    """A group on its own, in as many batches as it takes."""
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
    batch._relative_offset = count  # noqa: SLF001 - the records went past its own `append`
    batch.close()
    return batch


def _look_at_error(future: asyncio.Future[Any]) -> None:
    # an append that was cancelled leaves futures whose errors nobody waits for
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
