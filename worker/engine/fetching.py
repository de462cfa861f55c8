"""Takes what a Kafka client has fetched: each partition by itself, with the offsets that each poll covers.

aiokafka's own `getmany` returns records only: a log that ends in transaction markers, in an aborted transaction or in
records that compaction removed never seems to be read to its end. And a single batch that cannot be decoded makes `getmany`
fail for all partitions, at every poll. Here a poll of a partition covers offsets, whether they hold records or not, and a
batch that cannot be read stops only its own partition.
"""

import asyncio
from collections.abc import Callable, Collection
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    NoError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from worker.engine.batch_search import MayHold, SearchedRecords
from worker.engine.header_names import TolerantRecords
from worker.engine.plain_records import make_plain, take_plain

log = structlog.get_logger(__name__)

#: Isolation level of all consumers: records of aborted transactions are skipped, those of open ones are not read yet.
ISOLATION = "read_committed"
#: A partition that stopped at a batch is fetched again after so long, seconds: the batch may have been deleted.
RETRY_SECONDS = 5.0
#: A partition whose fetch the broker refused for another reason is fetched again after so long, seconds.
REFUSED_SECONDS = 0.5
#: A broker that for so long refuses fetches, or returns no records although the log continues, stops the partition, seconds.
EMPTY_SECONDS = 10.0

#: Error codes of a fetch that the client handles itself.
_HANDLED_BY_CLIENT = {
    error.errno
    for error in (
        NoError,
        NotLeaderForPartitionError,
        OffsetOutOfRangeError,
        TopicAuthorizationFailedError,
        UnknownTopicOrPartitionError,
    )
}
#: Error codes of a broker that cannot read its own log; the last, INVALID_RECORD, has no name in the client.
_BROKEN_LOG = {CorruptRecordException.errno, UnknownError.errno, 87}
_BATCH_STOPS = (
    "a record batch cannot be read: its partition stops, the others continue; delete the records up to and including "
    "this batch (kafka-delete-records), or restore it from a replica"
)
_BROKER_REFUSES = "a broker returns no records: the partition waits, the others continue; see the broker's log"


class Fetched(NamedTuple):
    """What one poll took of one partition: the offsets [begin, end), and the records that exist there."""

    begin: int
    records: list[Any]
    end: int


class LogEnd(NamedTuple):
    """Where a partition's log ended when its broker last answered a fetch."""

    stable: int
    """The last stable offset: records before it can be read. If no transaction is open, the high watermark."""
    high: int
    """The high watermark."""


class ConfirmedEnd(NamedTuple):
    """As `LogEnd`, with a time of `time.monotonic` at which the log did not end later.

    That is the time of the question. An answer may have waited long to be read, because this process was stopped.
    """

    stable: int
    high: int
    asked_at: float


class Unreadable(NamedTuple):
    """A batch that cannot be decoded, or that no broker sends."""

    offset: int
    reason: str


class Fetches:
    """Takes the fetches of one client. Used in the client's event loop only, except `unreadable`.

    Args:
        may_hold: record batches for whose bytes it returns False are skipped; None: all are read.
        are_plain: records are as the client's decoder makes them, see `plain_records`.
    """

    def __init__(self, consumer: AIOKafkaConsumer, may_hold: MayHold | None = None, *, are_plain: bool = False) -> None:
        self._consumer = consumer
        self._failed: dict[TopicPartition, Unreadable] = {}
        self._empty_since: dict[TopicPartition, tuple[int, float]] = {}
        """The offset at which the broker refuses fetches, or returns no records although the log continues, and since when."""
        self._kept: dict[TopicPartition, bytes] = {}
        """The last fetched bytes of partitions that are read by `TolerantRecords`."""
        self.confirmed: dict[TopicPartition, ConfirmedEnd] = {}
        """By partition, its end in the last answer to a fetch. May be read in any thread."""
        self._may_hold = may_hold
        self._are_plain = are_plain
        self._to_search: dict[TopicPartition, tuple[int, bytes]] = {}
        """The offset and the bytes of the last fetch, if they are to be searched."""
        client = consumer._client  # noqa: SLF001
        self._send, client.send = client.send, self._send_and_inspect

    @property
    def unreadable(self) -> dict[TopicPartition, Unreadable]:
        """The partitions that stopped at a batch that cannot be read. May be called from any thread."""
        failed = self._failed.copy()
        return {tp: each for tp, each in failed.items() if next_offset(self._consumer, tp) == each.offset}

    async def take(
        self, partitions: Callable[[], Collection[Any]], timeout: float, max_records: int
    ) -> dict[TopicPartition, Fetched]:
        """Takes what was fetched of these partitions; waits if there is nothing yet.

        Args:
            partitions: called again after each fetch.
            timeout: how long to wait at most, seconds.
            max_records: the limit for all partitions together.

        Raises:
            aiokafka.errors.KafkaError: the client is closed, may not read the topic, or has left its group for an error.
        """
        consumer = self._consumer
        # as the client's getmany does: a member of a group that does not ask for records is taken for stalled
        if not consumer._closed:  # noqa: SLF001
            consumer._coordinator.check_errors()  # noqa: SLF001
        with consumer._fetcher._subscriptions.fetch_context():  # noqa: SLF001
            return await self._take(consumer._fetcher, partitions, timeout, max_records)  # noqa: SLF001

    async def _take(
        self, fetcher: Any, partitions: Callable[[], Collection[Any]], timeout: float, max_records: int
    ) -> dict[TopicPartition, Fetched]:
        deadline = monotonic() + timeout
        while True:
            if fetcher._closed:  # noqa: SLF001
                raise ConsumerStoppedError
            subscriptions = fetcher._subscriptions  # noqa: SLF001
            if subscriptions.reassignment_in_progress:
                await subscriptions.wait_for_assignment()
            fetched = self._take_fetched(fetcher, partitions(), max_records)
            remaining = deadline - monotonic()
            if fetched or remaining <= 0:
                return fetched
            waiter = fetcher._create_fetch_waiter()  # noqa: SLF001
            done, _ = await asyncio.wait([waiter], timeout=remaining)
            if done:
                waiter.result()
            else:
                waiter.cancel()

    async def _send_and_inspect(self, node: Any, request: Any, **options: Any) -> Any:
        asked_at = monotonic()
        response = await self._send(node, request, **options)
        if isinstance(request, FetchRequest):
            self._inspect(request, response, asked_at)
        return response

    def _inspect(self, request: Any, response: Any, asked_at: float) -> None:
        """Notes the ends of logs, and handles refused and empty fetches.

        The client would repeat a refused fetch at once, with a log line each time.
        """
        offsets = {(topic, number): offset for topic, partitions in request.topics for number, offset, _ in partitions}
        refused = set[tuple[str, int]]()
        for topic, partitions in response.topics:
            for number, code, high, stable, *_, records in partitions:
                if code not in _HANDLED_BY_CLIENT:
                    refused.add((topic, number))
                    self._refuse(TopicPartition(topic, number), offsets[topic, number], code)
                elif code == 0:
                    tp = TopicPartition(topic, number)
                    self.confirmed[tp] = ConfirmedEnd(_stable(stable, high), high, asked_at)
                    if self._kept and tp in self._kept:
                        self._kept[tp] = records
                    if self._may_hold is not None:
                        self._to_search[tp] = offsets[topic, number], records
                    self._check_empty(tp, offsets[topic, number], records, stable)
        if refused:
            response.topics = [
                (topic, [each for each in partitions if (topic, each[0]) not in refused])
                for topic, partitions in response.topics
            ]

    def _refuse(self, tp: TopicPartition, offset: int, code: int) -> None:
        fetcher = self._consumer._fetcher  # noqa: SLF001
        if next_offset(self._consumer, tp) != offset or tp in fetcher._records:  # noqa: SLF001
            return  # there was a seek meanwhile, or a revocation
        error = f"{for_code(code).__name__}, error code {code}"
        if code in _BROKEN_LOG:
            self._hold(fetcher, tp, offset, f"the broker cannot read its log: {error}")
            return
        fetcher._records[tp] = _Held(monotonic() + REFUSED_SECONDS)  # noqa: SLF001
        if tp not in self._empty_since:
            log.info("fetch refused", topic=tp.topic, partition=tp.partition, error=error)
        if self._is_stuck(tp, offset):
            self._fail(tp, offset, error, _BROKER_REFUSES)

    def _check_empty(self, tp: TopicPartition, offset: int, records: bytes, stable: int) -> None:
        if records or stable <= offset:
            if self._empty_since:
                self._empty_since.pop(tp, None)
        elif self._is_stuck(tp, offset):
            self._fail(tp, offset, f"the broker returns no records, although the last stable offset is {stable}")

    def _is_stuck(self, tp: TopicPartition, offset: int) -> bool:
        """Whether fetches at this offset have been refused or empty for `EMPTY_SECONDS`."""
        at, since = self._empty_since.get(tp, (None, 0.0))
        if at != offset:
            since = monotonic()
            self._empty_since[tp] = (offset, since)
        return monotonic() - since > EMPTY_SECONDS

    def _take_fetched(self, fetcher: Any, partitions: Collection[Any], max_records: int) -> dict[TopicPartition, Fetched]:
        taken: dict[TopicPartition, Fetched] = {}
        fetched_records = fetcher._records  # noqa: SLF001
        # errors first: what was taken before one that is raised would be lost
        for tp in sorted(fetched_records, key=lambda each: not isinstance(fetched_records[each], FetchError)):
            if tp not in partitions:
                if not fetcher._subscriptions.is_assigned(tp):  # noqa: SLF001
                    del fetcher._records[tp]  # noqa: SLF001
                continue
            fetched = self._take_one(fetcher, tp, max_records)
            if fetched is not None and fetched.end > fetched.begin:
                taken[tp] = fetched
                max_records -= len(fetched.records)
                if max_records <= 0:
                    break
        return taken

    def _take_one(self, fetcher: Any, tp: TopicPartition, max_records: int) -> Fetched | None:
        result = fetcher._records[tp]  # noqa: SLF001
        if isinstance(result, _Held):
            if monotonic() >= result.until:
                _drop(fetcher, tp)  # the client fetches it again
            return None
        if isinstance(result, FetchError):
            _drop(fetcher, tp)
            if isinstance(result._error, RecordTooLargeError):  # noqa: SLF001
                # the batch's length is wrong; the client has skipped one offset, as if it were a record
                position = fetcher._subscriptions.subscription.assignment.state_value(tp).position - 1  # noqa: SLF001
                fetcher.seek_to(tp, position)
                self._hold(fetcher, tp, position, "its length exceeds what the broker returned")
                return None
            result.check_raise()
        if not result.check_assignment(tp) or not result.has_more():
            _drop(fetcher, tp)
            return None
        return self._read(fetcher, tp, result, max_records)

    def _read(self, fetcher: Any, tp: TopicPartition, result: FetchResult, max_records: int) -> Fetched:
        source = result._partition_records  # noqa: SLF001
        begin, failed = source.next_fetch_offset, None
        records: list[Any] = []
        if isinstance(source._records, MemoryRecords):  # noqa: SLF001 - nothing is read of it yet
            self._choose_reader(tp, source)
        try:
            if self._are_plain:
                take_plain(source, records, max_records)
            else:
                records.extend(islice(source, max_records))
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises: the batch cannot be read
            failed = error
        end = source.next_fetch_offset
        result._assignment.state_value(tp).consumed_to(end)  # noqa: SLF001
        if isinstance(failed, UnicodeDecodeError) and tp not in self._kept:
            self._kept[tp] = b""
            _drop(fetcher, tp)
        elif failed is not None:
            self._kept.pop(tp, None)
            self._hold(fetcher, tp, end, str(failed) or type(failed).__name__)
        elif len(records) < max_records:
            self._kept.pop(tp, None)
            _drop(fetcher, tp)
        if end > begin and tp in self._failed and self._failed[tp].offset < end:
            del self._failed[tp]
            log.info("reading resumed", topic=tp.topic, partition=tp.partition, offset=end)
        return Fetched(begin, records, end)

    def _choose_reader(self, tp: TopicPartition, source: Any) -> None:
        """Replaces the client's reader of record batches where another does more, or takes less time."""
        reader = source._records  # noqa: SLF001
        if self._kept.get(tp):
            reader = TolerantRecords(self._kept[tp])
        elif self._may_hold is not None:
            offset, content = self._to_search.pop(tp, (None, b""))
            if offset == source.next_fetch_offset:
                reader = SearchedRecords(content, self._may_hold)
        source._records = reader  # noqa: SLF001
        if self._are_plain:
            make_plain(source)

    def _hold(self, fetcher: Any, tp: TopicPartition, offset: int, reason: str) -> None:
        """Lets the client fetch nothing of the partition for a while."""
        fetcher._records[tp] = _Held(monotonic() + RETRY_SECONDS)  # noqa: SLF001
        fetcher._notify(fetcher._wait_consume_future)  # noqa: SLF001
        self._fail(tp, offset, reason)

    def _fail(self, tp: TopicPartition, offset: int, reason: str, event: str = _BATCH_STOPS) -> None:
        before, self._failed[tp] = self._failed.get(tp), Unreadable(offset, reason)
        # one line per offset, although it is fetched repeatedly, perhaps with a different reason each time
        if before is None or before.offset != offset:
            log.error(event, topic=tp.topic, partition=tp.partition, offset=offset, reason=reason)


class _Held:
    """Takes the place of a fetch that is not taken yet, so that the client fetches no more of the partition."""

    def __init__(self, until: float) -> None:
        self.until = until

    def calculate_backoff(self) -> float:
        """0: the other partitions of the broker do not wait for this one."""
        return 0


def _drop(fetcher: Any, tp: TopicPartition) -> None:
    del fetcher._records[tp]  # noqa: SLF001
    fetcher._notify(fetcher._wait_consume_future)  # noqa: SLF001


def log_end(consumer: AIOKafkaConsumer, tp: TopicPartition) -> LogEnd | None:
    """The end of an assigned partition; None if it is not assigned, or before its first fetch is answered."""
    state = _state(consumer, tp)
    if state is None or state.highwater is None:
        return None
    return LogEnd(_stable(state.lso, state.highwater), state.highwater)


def _stable(stable: int | None, high: int) -> int:
    """The last stable offset of an answer; brokers without transactions return none, or -1."""
    return high if stable is None or stable < 0 else stable


def next_offset(consumer: AIOKafkaConsumer, tp: TopicPartition) -> int | None:
    """The offset that the client reads next; None if it has none yet, or if the partition is not assigned."""
    state = _state(consumer, tp)
    return None if state is None else state._position  # noqa: SLF001


def missing_codecs() -> list[str]:
    """Kafka's codecs that cannot be decoded here."""
    codecs = {"gzip": has_gzip, "snappy": has_snappy, "lz4": has_lz4, "zstd": has_zstd}
    return [name for name, is_available in codecs.items() if not is_available()]


def _state(consumer: AIOKafkaConsumer, tp: TopicPartition) -> Any:
    subscription = consumer._subscription.subscription  # noqa: SLF001
    assignment = subscription and subscription.assignment
    return assignment.state_value(tp) if assignment is not None and tp in assignment.tps else None
