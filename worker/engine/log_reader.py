"""Reads windows of topics: the records at given offsets of some partitions, whatever lies between them."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from worker.engine.batch_search import MayHold
from worker.engine.fetching import ISOLATION, Fetched, Fetches, log_end
from worker.tasks import uncancelled

#: A read fails after so long without a record or other progress, seconds.
STALL_SECONDS = 60.0
_POLL_SECONDS = 0.2
_FETCH_WAIT_MS = 50
#: Bytes of a partition that are fetched at once, unless the caller says otherwise.
FETCH_BYTES = 1024 * 1024
#: Records that one poll takes at most, unless the caller says otherwise.
AT_ONCE = 5_000

Windows = Mapping[TopicPartition, range]
"""Offsets to read, by partition."""


class LogUnreadable(Exception):
    """A record batch cannot be decoded, or a broker does not send records that it has; the message names it."""


async def find_windows(
    client: Mapping[str, Any],
    topic: str,
    partitions: Collection[int],
    begin: int | None = None,
    end: int | None = None,
    *,
    by_time: bool = True,
    consumer: AIOKafkaConsumer | None = None,
) -> dict[TopicPartition, range]:
    """The offsets of a part of a topic. Its end is fixed: at most the last stable offset of now.

    Args:
        client: connection settings for aiokafka.
        begin: of the part, inclusive; None: what the log still has.
        end: exclusive; None: the last stable offset.
        by_time: whether ``begin`` and ``end`` are times (microseconds since the epoch, compared with the records'
            timestamps); otherwise they are offsets, the same in each partition.
        consumer: one of `open_consumer` for many calls; to start one takes about 0.1 s.

    Raises:
        LogUnreadable: a broker does not answer fetches for `STALL_SECONDS`.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    if consumer is None:
        async with open_consumer(client) as consumer:
            return await find_windows(client, topic, partitions, begin, end, by_time=by_time, consumer=consumer)
    tps = [TopicPartition(topic, number) for number in partitions]
    first, last = await consumer.beginning_offsets(tps), await _ends(consumer, tps)
    begins, ends = first, last
    if begin is not None:
        begins = await _offsets_at(consumer, tps, begin, last) if by_time else dict.fromkeys(tps, begin)
    if end is not None:
        ends = await _offsets_at(consumer, tps, end, last) if by_time else dict.fromkeys(tps, end)
    return {tp: range(max(first[tp], begins[tp]), max(first[tp], min(last[tp], ends[tp]))) for tp in tps}


@asynccontextmanager
async def open_consumer(client: Mapping[str, Any]) -> AsyncIterator[AIOKafkaConsumer]:
    """A started consumer, for `find_windows`."""
    consumer = _consumer(client)
    try:
        await uncancelled(consumer.start())
        yield consumer
    finally:
        await consumer.stop()


async def read_windows(
    client: Mapping[str, Any],
    windows: Windows,
    *,
    at_once: int = AT_ONCE,
    fetch_bytes: int = FETCH_BYTES,
    may_hold: MayHold | None = None,
) -> AsyncGenerator[tuple[TopicPartition, Fetched]]:
    """Reads each window to its end, a part of a partition at a time, in the order of its offsets.

    Records of aborted transactions are skipped. The offsets of the parts of a window follow on, but where the log lost
    records (retention, compaction, `kafka-delete-records`).

    Args:
        client: connection settings for aiokafka.
        windows: none may end behind the last stable offset, as those of `find_windows`.
        at_once: records of a part at most.
        fetch_bytes: bytes of a partition that are fetched, and perhaps searched, at once.
        may_hold: if given, record batches for whose bytes it returns False are left out, which is four times as fast.

    Raises:
        LogUnreadable: a record batch cannot be read, or there is no progress for `STALL_SECONDS`.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    waiting = {tp for tp, window in windows.items() if window}
    if not waiting:
        return
    consumer = _consumer(client, fetch_bytes)
    try:
        await uncancelled(consumer.start())
        consumer.assign(list(waiting))
        for tp in waiting:
            consumer.seek(tp, windows[tp].start)
        fetches, progress = Fetches(consumer, may_hold), monotonic()
        while waiting:
            try:
                fetched = await fetches.take(lambda: waiting, _POLL_SECONDS, at_once)
            except OffsetOutOfRangeError as error:
                # retention has deleted the records meanwhile
                (offsets,) = error.args
                begins = await consumer.beginning_offsets(list(offsets))
                for tp, begin in begins.items():
                    if begin <= offsets[tp]:
                        raise LogUnreadable(
                            f"{tp.topic}, partition {tp.partition}: it no longer reaches offset {offsets[tp]}: the topic was "
                            "created again, or lost records; begin again"
                        ) from None
                    consumer.seek(tp, begin)
                waiting.difference_update(tp for tp, begin in begins.items() if begin >= windows[tp].stop)
                continue
            for tp, (begin, records, end) in fetched.items():
                stop = windows[tp].stop
                kept = records if end <= stop else [record for record in records if record.offset < stop]
                yield tp, Fetched(begin, kept, min(end, stop))
                # not before: the caller may take long for a part
                progress = monotonic()
                if end >= stop:
                    waiting.discard(tp)
                    consumer.pause(tp)
            for tp, unreadable in fetches.unreadable.items():
                if tp in waiting:
                    raise LogUnreadable(
                        f"{tp.topic}, partition {tp.partition}: the record batch at offset {unreadable.offset} cannot be read "
                        f"({unreadable.reason}): delete it with kafka-delete-records, or restore it from a replica"
                    )
            if waiting and monotonic() - progress > STALL_SECONDS:
                raise LogUnreadable(_stalled(min(waiting)))
    finally:
        await consumer.stop()


async def _ends(consumer: AIOKafkaConsumer, tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """The last stable offsets: the greater of the listed one and of that in a fetch, since some brokers list too small ones."""
    listed = await consumer.end_offsets(tps)
    consumer.assign(list(tps))
    for tp, end in listed.items():
        consumer.seek(tp, end)
    deadline = monotonic() + STALL_SECONDS
    while not all(log_end(consumer, tp) for tp in tps):
        try:
            await consumer.getmany(timeout_ms=_FETCH_WAIT_MS, max_records=1)
        except TopicAuthorizationFailedError:
            raise
        except (KafkaError, ValueError):
            pass  # a record behind the listed end cannot be read: who reads it finds that
        if monotonic() > deadline:
            raise LogUnreadable(_stalled(min(tps)))
    fetched = {tp: log_end(consumer, tp) for tp in tps}
    return {tp: max(listed[tp], 0 if end is None else end.stable) for tp, end in fetched.items()}


def _stalled(tp: TopicPartition) -> str:
    return f"{tp.topic}, partition {tp.partition}: no fetch answered for {STALL_SECONDS:.0f} s: see the broker, then try again"


async def _offsets_at(
    consumer: AIOKafkaConsumer, tps: Collection[TopicPartition], micros: int, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The offsets of the first records whose timestamps are not before a time; the end where there is none."""
    # rounded up: a record of an earlier millisecond is earlier
    found = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, -(-micros // 1000))))
    return {tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in tps}


def _consumer(client: Mapping[str, Any], fetch_bytes: int = FETCH_BYTES) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=ISOLATION,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        max_partition_fetch_bytes=fetch_bytes,
    )
