"""A Faust transport that delivers one message per poll and commits exactly what was completed.

Stock Faust creates two tasks per record, counts a gap in offsets as acknowledged, and drops acknowledgements before the last
commit of a rebalance (worker/engine/README.md). Here a Faust message carries the raw records of one poll: a batch of each
partition (`Consumer.batches` takes it apart), since Faust's way from the consumer to the agent costs as much as to fold ten
events. A batch is committed once it and all batches before it in its partition are acknowledged. It covers offsets, not only
records: also those of transaction markers, aborted transactions and records that compaction removed. It may hold no record at
all, so that progress follows the position of the client and not the last record.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import faust
import structlog
from aiokafka import ConsumerRecord
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalStateError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from faust.exceptions import ConsumerNotStarted
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ack_lock
from mode.utils.futures import notify

from worker.engine.faust_thread import END_ANSWER_SECONDS, ConsumerThread
from worker.engine.fetching import ConfirmedEnd, Fetched, LogEnd, Unreadable
from worker.engine.offset_tracker import OffsetTracker

log = structlog.get_logger(__name__)

#: Errors of Kafka for a worker that it will never admit to the group.
REFUSALS = (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    TopicAuthorizationFailedError,
)

#: URL scheme of this transport; `register` must have been called.
SCHEME = "batchkafka"
#: How long to wait for batches in flight when partitions are revoked, seconds; less than the rebalance timeout.
DRAIN_SECONDS = 5.0
#: How long to wait for batches in flight when the worker stops, seconds.
LAST_DRAIN_SECONDS = 4.0
#: How long Kafka may take to answer where a log begins, seconds; the next poll asks again.
LOG_START_SECONDS = 5.0
#: Kafka is asked for a log end that no fetch has confirmed for so long, seconds.
END_AGE_SECONDS = 0.6


def register() -> None:
    """Registers ``batchkafka://`` with Faust."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


class RawSchema(faust.Schema[Any, Any]):
    """Passes records on unchanged; the agent decodes them."""

    def compile(self, app: Any, **_: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Any, **_: Any) -> Any:
            return create_event(message.key, message.value, message.headers or None, message)

        return decode


@dataclass(slots=True, eq=False)
class Batch:
    """What one poll took of one partition."""

    value: Fetched
    message: Any
    """Faust's message of it, with topic, partition and generation; its offset is the last one of the batch."""
    _consumer: "Consumer"

    def ack(self) -> bool:
        """Completes the batch; False if it is of an earlier assignment."""
        return self._consumer.ack(self.message)


class OffsetRegression(Exception):
    """A topic ends before an offset that was already read: it was created again, or lost records. No retry helps."""


class Consumer(driver.Consumer):
    """Delivers batches and commits exactly those that were completed."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.tracker = OffsetTracker()
        self.start_offsets: dict[TP, int] = {}
        """The offsets from which the partitions of this assignment were started, once `positioned`."""
        self.committed_offsets: dict[TP, int] = {}
        """The offsets that Kafka has as committed, by this consumer or before it."""
        self.commits = {"committed": 0, "failed": 0}
        """How many commits Kafka has, and how many failed or had no answer in time."""
        self.on_poll: Callable[[Iterable[int]], None] | None = None
        """Takes the numbers of the partitions of a poll, before `batches` returns the first of their batches."""
        self.positioned = asyncio.Event()
        self._asked_ends: dict[TP, ConfirmedEnd] = {}
        self._room = asyncio.Event()
        self._polled: set[TP] = set()
        self._needs_seek: set[TP] = set()
        """Partitions whose client position may differ from the offset tracker's."""
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def sleep(self, n: Any) -> None:
        # Faust's fetcher sleeps for zero seconds before each poll; the stock method makes a task for that too
        await (super().sleep(n) if n else asyncio.sleep(0))

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        # an earlier poll may have dropped all records; without a further one the offset tracker would find no gap
        while self._needs_seek:
            tp = self._needs_seek.pop()
            with suppress(IllegalStateError):  # it was revoked meanwhile
                await self._seek(tp, self.tracker.progress_of(tp).taken or 0)
        self._polled = (active_partitions or set()) - self.tracker.saturated()
        if not self._polled:
            self._room.clear()
            await self.wait_first(self._room.wait(), self.suspend_flow.wait(), timeout=timeout)
            return {}
        records = await super()._getmany(self._polled, timeout)
        self._thread.linger(busy=bool(records))
        return records

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        batches: list[Any] = []
        for tp, fetched in self._with_moved(records):
            if not (active is None or tp in active):
                continue
            log_start = await self._log_start(tp) if self.tracker.misses(tp, fetched) else 0
            # the offset tracker later finds a gap for what is not delivered now; stock Faust seeks back here, in the middle of
            # a rebalance, and would make the tracker forget the batches that the rebalance waits for
            if not self.flow_active or generation != self.app.consumer_generation_id:
                break
            taken = await self._take(tp, fetched, log_start)
            if taken is not None:
                batches.append(self._batch_message(tp, taken))
        if batches:
            first = batches[0]
            yield first.tp, self._message(first.tp, first.offset, batches)

    def batches(self, event: Any) -> Iterator[Batch]:
        """The batches that an event of the agent's stream carries, to be acknowledged each by itself."""
        # the event itself is never acknowledged
        self._unacked_messages.discard(event.message)
        messages = event.value
        if self.on_poll is not None:
            self.on_poll({message.partition for message in messages})
        for message in messages:
            self._unacked_messages.add(message)
            yield Batch(message.value, message, self)

    def _with_moved(self, records: Mapping[Any, Any]) -> Iterator[tuple[TP, Fetched]]:
        """What was fetched, and the polled partitions without records whose client position is not the expected one."""
        polled = {ensure_TP(partition): fetched for partition, fetched in records.items()}
        yield from polled.items()
        for tp in self._polled - polled.keys():
            position, expected = self._thread.next_offset(tp), self.tracker.progress_of(tp).taken
            if position is not None and expected is not None and position != expected:
                yield tp, Fetched(position, [], position)

    async def _take(self, tp: TP, fetched: Fetched, log_start: int) -> Fetched | None:
        """The batch to deliver; None if nothing is new, or if records are missing and it seeks back to them."""
        misses = self.tracker.misses(tp, fetched)
        taken = self.tracker.take(tp, fetched, log_start)
        if isinstance(taken, int):
            log.warning("records are missing, seeking back", topic=tp.topic, partition=tp.partition, offset=taken)
            with suppress(IllegalStateError):  # it was revoked meanwhile
                await self._seek(tp, taken)
            return None
        if taken is None:
            self._check_end(tp)
        elif misses:
            log.warning(
                "records were deleted before they were read, continuing after them",
                topic=tp.topic,
                partition=tp.partition,
                first=taken.begin,
                end=fetched.begin,
                count=fetched.begin - taken.begin,
            )
        return taken

    async def _log_start(self, tp: TP) -> int:
        """The offset at which the log begins; 0 if Kafka does not answer."""
        with suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(LOG_START_SECONDS):
                starts = await self._thread.earliest_offsets(tp)
                return int(starts[tp])
        return 0

    def _batch_message(self, tp: TP, batch: Fetched) -> Any:
        return self._message(tp, batch.end - 1, batch)

    def _message(self, tp: TP, offset: int, value: Any) -> Any:
        return self._to_message(tp, ConsumerRecord(tp.topic, tp.partition, offset, None, None, None, value, None, 0, 0, ()))

    @property
    def unreadable(self) -> Mapping[TP, Unreadable]:
        """The partitions that stopped at a batch that cannot be read."""
        return {ensure_TP(tp): unreadable for tp, unreadable in self._thread.fetches.unreadable.items()}

    @property
    def refusal(self) -> KafkaError | None:
        """Why Kafka does not admit this worker to the group; the client would raise it only at a fetch, which comes later."""
        try:
            client = self._thread._ensure_consumer()  # noqa: SLF001
        except ConsumerNotStarted:
            return None
        # before it subscribes, a client has a coordinator of another class
        error = client._coordinator and getattr(client._coordinator, "_pending_exception", None)  # noqa: SLF001
        return error if isinstance(error, REFUSALS) else None

    def log_end(self, tp: TP) -> LogEnd | None:
        """The end of a partition's log; None if it is not known."""
        return self._thread.log_end(tp)

    def confirmed_end(self, tp: TP) -> ConfirmedEnd | None:
        """The end of a partition's log that Kafka confirmed last, by a fetch or for `confirm_ends`."""
        ends = [end for end in (self._thread.fetched_end(tp), self._asked_ends.get(tp)) if end is not None]
        return max(ends, key=lambda end: end.asked_at, default=None)

    async def confirm_ends(self) -> None:
        """Asks Kafka for log ends that no fetch has confirmed recently; gives up after some seconds.

        Nothing is fetched of a partition with the maximum of batches in flight, or whose next batch cannot be read.
        """
        ends = {tp: self.confirmed_end(tp) for tp in self.assignment()}
        old = [tp for tp, end in ends.items() if end is None or monotonic() - end.asked_at > END_AGE_SECONDS]
        if not old:
            return
        asked_at = monotonic()
        with suppress(TimeoutError):  # a thread that stops does not answer
            async with asyncio.timeout(END_ANSWER_SECONDS + 1):
                for tp, stable in (await self._thread.end_offsets(old)).items():
                    # an end never goes back: a fetch may know a later one, and the embedded broker lists one that is too small
                    end = self.confirmed_end(tp) or LogEnd(stable, stable)
                    self._asked_ends[tp] = ConfirmedEnd(max(stable, end.stable), max(stable, end.high), asked_at)

    def _check_end(self, tp: TP) -> None:
        """Records were redelivered: harmless, unless the log now ends before what was already read."""
        end, expected = self.log_end(tp), self.tracker.progress_of(tp).taken
        if end is not None and expected is not None and end.high < expected:
            raise OffsetRegression(
                f"{tp.topic} partition {tp.partition} ends at offset {end.high}, but was read up to {expected} before: the "
                "topic was recreated or has lost records; start under a new topic prefix, or delete the consumer group"
            )

    async def _seek(self, partition: TP, offset: int) -> None:
        # in the client's thread; stock Faust changes the client's state from another thread
        async def seek() -> None:
            self._thread.seek(partition, offset)

        await self._thread.call_thread(seek)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        assigned = self.assignment()
        start_offsets = {tp: offset for tp, offset in self._committed_offset.items() if offset and tp in assigned}
        self.start_offsets = start_offsets
        self.committed_offsets = dict(start_offsets)
        # without a committed offset from 0, not from the client's position, which a poll since the assignment may have moved
        # by records that were dropped. If the log begins later than at 0, `getmany` asks Kafka where
        self.tracker.restart({**dict.fromkeys(assigned, 0), **start_offsets})
        self._needs_seek = set(assigned)
        self.positioned.set()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Does nothing. Stock Faust counts a gap in offsets as acknowledged; here the offset tracker covers all offsets."""

    def on_buffer_full(self, tp: TP) -> None:
        """Does nothing. Stock Faust stops fetching here, and may never resume if its queues are cleared meanwhile."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See ``on_buffer_full``; the offset tracker limits the batches in flight."""

    def ack(self, message: Any) -> bool:
        """Completes the batch of a message; False if it is of an earlier assignment."""
        with ack_lock:
            self._unacked_messages.discard(message)
            message.acked = True
            notify(self._waiting_for_ack)
            if message.generation_id != self.app.consumer_generation_id:
                return False
            tp = message.tp
            completed = self.tracker.complete(tp, message.offset + 1)
            self._room.set()
            if self._polled and tp not in self._polled and tp in self._active_partitions and self.tracker.has_room(tp):
                self._thread.add_to_current_poll(self._polled, tp)
            return completed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in list(self.tracker.completed) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.tracker.completed.get(tp)

    def _should_commit(self, tp: TP, offset: int) -> bool:
        # stock Faust counts an attempt as committed; the last batch before a pause might stay uncommitted
        return offset > self.committed_offsets.get(tp, 0)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        generation = self.app.consumer_generation_id
        done = bool(await super()._commit(offsets))
        self.commits["committed" if done else "failed"] += 1
        if done and generation == self.app.consumer_generation_id:
            self.committed_offsets.update(offsets)
        return done

    async def wait_empty(self) -> None:
        """Waits for the batches in flight, up to `DRAIN_SECONDS`; the others are not committed."""
        await self._wait_empty(DRAIN_SECONDS)

    async def _wait_empty(self, seconds: float) -> None:
        end = monotonic() + seconds
        while self._unacked_messages and monotonic() < end:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        if self._unacked_messages:
            log.warning("batches in flight were given up, they will be redelivered", batches=len(self._unacked_messages))
        if not await self.commit():
            # also False if it only waited for a commit that began before the last acknowledgement
            await self.commit()

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Stops the flow, waits for the batches in flight, commits."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await self._wait_empty(seconds)
        self._unacked_messages.clear()

    async def drain_for_good(self) -> None:
        """The last drain before a stop: leaves nothing to wait for or to commit, which Faust would try twice more."""
        try:
            await self.drain(LAST_DRAIN_SECONDS)
        finally:
            self._unacked_messages.clear()
            self.tracker.restart({})

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # drain and commit first: the stock method begins by dropping acknowledgements since the last commit
        await self.drain()
        self.positioned.clear()
        await super().on_partitions_revoked(revoked)
        self.tracker.restart({})
        self._asked_ends.clear()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """See ``ConsumerThread.verify_event_path``."""


class Transport(driver.Transport):
    """The aiokafka transport with the consumer of this module."""

    Consumer = Consumer
