"""A Faust transport that hands over one message per (partition, poll) and commits exactly what was completed.

Stock Faust makes two tasks per record, counts a gap in offsets as acknowledged, and throws acknowledgements away before
the last commit of a rebalance (design, "The engine"). Here a Faust message carries the list of raw records of one poll;
a batch is committed when it and everything before it in its partition was acknowledged. A batch covers offsets, not only
records: transaction markers, aborted transactions and records that compaction removed belong to one too, which may hold no
record at all, so that progress follows the position of the client and not the last record.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import suppress
from time import monotonic, time
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
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from faust.exceptions import ConsumerNotStarted
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ack_lock
from mode.threads import WorkerThread
from mode.utils.futures import notify

from worker.engine.fetching import ISOLATION, Fetched, Fetches, LogEnd, Unreadable, log_end, next_offset
from worker.engine.offset_tracker import Ledger

log = structlog.get_logger(__name__)

#: What Kafka answers to a worker that it will never take into the group.
REFUSALS = (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    TopicAuthorizationFailedError,
)

#: URL scheme of this transport; `register` must have been called.
SCHEME = "batchkafka"
#: A client that finds no Kafka at its start tries again after so long, seconds.
START_SECONDS = 1.0
#: How long the batches in flight may take when partitions are given up, seconds; less than the rebalance timeout.
DRAIN_SECONDS = 5.0
#: How long one commit may take before it is given up and tried again with the next; drain and two of them fit the
#: rebalance timeout.
COMMIT_SECONDS = 2.5
#: How long the batches in flight may take when the worker stops, seconds.
LAST_DRAIN_SECONDS = 4.0
#: How long the client may take to leave its group and close, and then its thread to end, seconds.
LEAVE_SECONDS, STOP_SECONDS = 2.5, 3.0
#: A fetch of an idle consumer is answered at once when there is something, or after so long, milliseconds.
FETCH_WAIT_MS = 250
#: One of a busy consumer collects for so long, or until there is so much: a batch of four costs nearly what one of twenty does.
LINGER_MS, LINGER_BYTES = 25, 64 * 1024
#: How long Kafka may take to answer where a log begins, seconds; then it is asked again at the next poll.
LOG_START_SECONDS = 5.0
#: A log's end that no fetch has confirmed for so long is asked for, and how long Kafka may take to answer, seconds.
END_AGE_SECONDS, END_ANSWER_SECONDS = 0.6, 3.0


def register() -> None:
    """Makes ``batchkafka://`` known to Faust."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


class RawSchema(faust.Schema[Any, Any]):
    """Passes records through as they are; the agent decodes."""

    def compile(self, app: Any, **_: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Any, **_: Any) -> Any:
            return create_event(message.key, message.value, message.headers or None, message)

        return decode


class LogWentBack(Exception):
    """A topic holds less than was read of it already: it was made anew, or lost records. No retry helps."""


class ClientThread(WorkerThread):
    """Keeps the process from ending for some seconds at most: it may wait for the very loop that waits for its end."""

    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def stop(self) -> None:
        self.is_stopped.wait(STOP_SECONDS)


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The stock thread, but with Faust's own assignor, which gives equal partition numbers to one worker."""

    Worker = ClientThread

    fetches: Fetches
    #: Stock Faust waits for a minute.
    shutdown_timeout = STOP_SECONDS

    def _start_thread(self) -> None:
        # a fetch that is cancelled while Kafka is away lets its CancelledError out of the client; the stock thread then ends
        # without a word, and whoever stops it waits until `shutdown_timeout`. The app knows of other errors by `crash`
        try:
            super()._start_thread()
        except BaseException as error:  # noqa: BLE001 - it is the end of the thread
            log.info("the Kafka client's thread has ended", error=repr(error))
        finally:
            with suppress(RuntimeError):  # the app's loop is closed
                self.set_shutdown()

    async def on_start(self) -> None:
        # Kafka may go away between any check before and this one, and Faust ends the app then
        waits = False
        while not self.should_stop:
            try:
                await super().on_start()
                break
            except KafkaConnectionError as error:
                await self._ensure_consumer().stop()
                if not waits:
                    log.warning("waiting", what="kafka", error=repr(error))
                waits = True
                await self.sleep(START_SECONDS)
        if waits:
            log.info("goes on", what="kafka")

    async def on_thread_stop(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await super().on_thread_stop()
        except (asyncio.CancelledError, TimeoutError, KafkaError) as error:
            log.warning("the Kafka client was not closed in order", error=repr(error), seconds=LEAVE_SECONDS)

    async def stop(self) -> None:
        try:
            await super().stop()
        except TimeoutError:
            log.warning("stopping without waiting any longer", waited_for="the Kafka client's thread", seconds=STOP_SECONDS)

    def close(self) -> None:
        """The thread closes its own client. Stock Faust closes it from the app's loop too, in a stop that meets a rebalance.

        That takes the connections away from under the request that leaves the group, which then is never answered.
        """

    def on_crash(self, msg: str, *fmt: Any, **_: Any) -> None:
        # the stock method prints a traceback
        log.error("the Kafka client's thread crashed", error=msg.format(*fmt))

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # the stock method takes round robin for an app without Faust tables, which would part events from bookings
        self._assignor = self.app.assignor
        consumer._partition_assignment_strategy = [self._assignor]  # noqa: SLF001
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        consumer._isolation_level = ISOLATION  # noqa: SLF001 - Faust takes this one in transactions alone
        self.fetches = Fetches(consumer)
        return consumer

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float | None = None, max_records: int | None = None
    ) -> Any:
        if not self.consumer.flow_active:
            return {}
        # Faust goes around the client's own getmany, which would say here that the client is no longer in the group
        if not consumer._closed:  # noqa: SLF001
            consumer._coordinator.check_errors()  # noqa: SLF001
        with consumer._fetcher._subscriptions.fetch_context():  # noqa: SLF001
            return await self.fetches.take(lambda: active_partitions, timeout or 0.0, max_records or sys.maxsize)

    def log_end(self, tp: TP) -> LogEnd | None:
        """See `fetching.log_end`; from any thread."""
        return log_end(self._ensure_consumer(), tp)

    def next_offset(self, tp: TP) -> int | None:
        """See `fetching.next_offset`; from any thread."""
        return next_offset(self._ensure_consumer(), tp)

    async def end_offsets(self, partitions: Collection[TP]) -> dict[TP, int]:
        """The last stable offsets that Kafka answers within `END_ANSWER_SECONDS`; from any thread."""
        asked = asyncio.run_coroutine_threadsafe(self._end_offsets(partitions), self.thread_loop)
        return await asyncio.wrap_future(asked)

    async def _end_offsets(self, partitions: Collection[TP]) -> dict[TP, int]:
        consumer, by_leader, found = self._ensure_consumer(), defaultdict(list), {}
        for tp in partitions:
            by_leader[consumer._client.cluster.leader_for_partition(tp)].append(tp)  # noqa: SLF001

        async def ask(led: list[TP]) -> None:
            # one leader that is away does not keep the others' answers back
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(END_ANSWER_SECONDS):
                    found.update(await consumer.end_offsets(led))

        await asyncio.gather(*map(ask, by_leader.values()))
        return {ensure_TP(tp): end for tp, end in found.items()}

    async def commit(self, offsets: Any) -> bool:
        # a thread that ends answers no more calls, and may be waiting for the very revocation that wants to commit
        if not self.method_queue.should_stop:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * COMMIT_SECONDS):
                    return bool(await super().commit(offsets))
        return False

    async def _commit(self, offsets: Any) -> bool:
        # the client repeats a commit for as long as Kafka is away, and nothing could be revoked or stopped meanwhile
        with suppress(TimeoutError):
            async with asyncio.timeout(COMMIT_SECONDS):
                return bool(await super()._commit(offsets))
        return False

    def linger(self, *, busy: bool) -> None:
        """Says how long the coming fetches may wait for more to come."""
        fetcher = self._ensure_consumer()._fetcher  # noqa: SLF001
        fetcher._fetch_max_wait_ms = LINGER_MS if busy else FETCH_WAIT_MS  # noqa: SLF001
        fetcher._fetch_min_bytes = LINGER_BYTES if busy else 1  # noqa: SLF001

    def admit(self, polled: set[TP], tp: TP) -> None:
        """Lets the poll that is under way answer with one more partition; from any thread."""

        def wake() -> None:
            polled.add(tp)
            for waiter in list(self._ensure_consumer()._fetcher._fetch_waiters):  # noqa: SLF001
                if not waiter.done():
                    waiter.set_result(None)

        self.thread_loop.call_soon_threadsafe(wake)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Stock Faust logs per-event timings here, and fails on a partition that is just being assigned."""


class Consumer(driver.Consumer):
    """Hands over batches and commits what was completed, nothing else."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self.committed: dict[TP, int] = {}
        """Where the partitions of the present assignment began, once `positioned`."""
        self.stored: dict[TP, int] = {}
        """What Kafka is known to have as committed, by this consumer or before it."""
        self.positioned = asyncio.Event()
        self._asked_ends: dict[TP, LogEnd] = {}
        self._room = asyncio.Event()
        self._polled: set[TP] = set()
        self._astray: set[TP] = set()
        """Partitions whose client may stand elsewhere than their ledger."""
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        # a poll of before may have dropped all there is, and without a further record the ledger would miss nothing
        while self._astray:
            tp = self._astray.pop()
            with suppress(IllegalStateError):  # it was revoked meanwhile
                await self._seek(tp, self.ledger.standing(tp).taken or 0)
        self._polled = (active_partitions or set()) - self.ledger.saturated()
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
        for tp, fetched in self._with_moved(records):
            if not (active is None or tp in active):
                continue
            log_start = await self._log_start(tp) if self.ledger.misses(tp, fetched) else 0
            # what is not handed over now is missed by the ledger later; stock Faust seeks back here, in the middle of
            # a rebalance, and would make the ledger forget the batches that the rebalance waits for
            if not self.flow_active or generation != self.app.consumer_generation_id:
                return
            taken = await self._take(tp, fetched, log_start)
            if taken is not None:
                yield tp, self._batch_message(tp, taken)

    def _with_moved(self, records: Mapping[Any, Any]) -> Iterator[tuple[TP, Fetched]]:
        """What was fetched, and the polled partitions whose client stands elsewhere although nothing came."""
        polled = {ensure_TP(partition): fetched for partition, fetched in records.items()}
        yield from polled.items()
        for tp in self._polled - polled.keys():
            stands, expected = self._thread.next_offset(tp), self.ledger.standing(tp).taken
            if stands is not None and expected is not None and stands != expected:
                yield tp, Fetched(stands, [], stands)

    async def _take(self, tp: TP, fetched: Fetched, log_start: int) -> Fetched | None:
        """The batch to hand over; None where nothing is new, or where something is missing and was sought."""
        misses = self.ledger.misses(tp, fetched)
        taken = self.ledger.take(tp, fetched, log_start)
        if isinstance(taken, int):
            log.warning("records are missing, seeking back", topic=tp.topic, partition=tp.partition, offset=taken)
            with suppress(IllegalStateError):  # it was revoked meanwhile
                await self._seek(tp, taken)
            return None
        if taken is None:
            self._check_end(tp)
        elif misses:
            log.warning(
                "records were deleted before they were read, going on behind them",
                topic=tp.topic,
                partition=tp.partition,
                first=taken.begin,
                end=fetched.begin,
                count=fetched.begin - taken.begin,
            )
        return taken

    async def _log_start(self, tp: TP) -> int:
        """The offset at which the log begins; 0 where Kafka does not say."""
        with suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(LOG_START_SECONDS):
                starts = await self._thread.earliest_offsets(tp)
                return int(starts[tp])
        return 0

    def _batch_message(self, tp: TP, batch: Fetched) -> Any:
        stands_for = ConsumerRecord(tp.topic, tp.partition, batch.end - 1, None, None, None, batch, None, 0, 0, ())
        return self._to_message(tp, stands_for)

    @property
    def unreadable(self) -> Mapping[TP, Unreadable]:
        """Partitions that stand at a batch which cannot be read."""
        return {ensure_TP(tp): found for tp, found in self._thread.fetches.unreadable.items()}

    @property
    def refusal(self) -> KafkaError | None:
        """Why Kafka does not take this worker into the group; the client would say so only to a fetch, which comes after."""
        try:
            client = self._thread._ensure_consumer()  # noqa: SLF001
        except ConsumerNotStarted:
            return None
        # a client that has not subscribed yet has a coordinator of another kind
        error = client._coordinator and getattr(client._coordinator, "_pending_exception", None)  # noqa: SLF001
        return error if isinstance(error, REFUSALS) else None

    def log_end(self, tp: TP) -> LogEnd | None:
        """Where a partition's log ends; None where that is not known."""
        return self._thread.log_end(tp)

    def confirmed_end(self, tp: TP) -> LogEnd | None:
        """The end of a partition's log as Kafka confirmed it last, by a fetch or where `confirm_ends` asked."""
        known = [end for end in (self.log_end(tp), self._asked_ends.get(tp)) if end is not None]
        return max(known, key=lambda end: end.answered, default=None)

    async def confirm_ends(self) -> None:
        """Asks Kafka for the ends that no fetch has confirmed lately; gives up after some seconds.

        Nothing is fetched of a partition with as many batches in flight as are allowed, or whose next batch cannot be read.
        """
        known = {tp: self.confirmed_end(tp) for tp in self.assignment()}
        old = [tp for tp, end in known.items() if end is None or time() - end.answered > END_AGE_SECONDS]
        if not old:
            return
        with suppress(TimeoutError):  # a thread that ends answers nothing
            async with asyncio.timeout(END_ANSWER_SECONDS + 1):
                for tp, stable in (await self._thread.end_offsets(old)).items():
                    # an end does not go back: a fetch may know more by now, and the embedded broker answers less than there is
                    end = self.confirmed_end(tp) or LogEnd(stable, stable, 0)
                    self._asked_ends[tp] = LogEnd(max(stable, end.stable), max(stable, end.high), time())

    def _check_end(self, tp: TP) -> None:
        """Records came again. That is harmless, unless it is because there is nothing behind them."""
        end, expected = self.log_end(tp), self.ledger.standing(tp).taken
        if end is not None and expected is not None and end.high < expected:
            raise LogWentBack(
                f"{tp.topic} partition {tp.partition} ends at offset {end.high}, and was read up to {expected} before: the "
                "topic was made anew or has lost records; start under a new topic prefix, or delete the consumer group"
            )

    async def _seek(self, partition: TP, offset: int) -> None:
        # in the client's thread; stock Faust changes the client's state under its feet
        async def seek() -> None:
            self._thread.seek(partition, offset)

        await self._thread.call_thread(seek)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        assigned = self.assignment()
        committed = {tp: offset for tp, offset in self._committed_offset.items() if offset and tp in assigned}
        self.committed = committed
        self.stored = dict(committed)
        # where nothing is committed not from the client's position: a poll since the assignment may have moved it, by
        # records that were dropped. Where the log begins later than at 0, the ledger asks where
        self.ledger.restart({**dict.fromkeys(assigned, 0), **committed})
        self._astray = set(assigned)
        self.positioned.set()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Stock Faust counts a gap in offsets as acknowledged; here the ledger knows."""

    def on_buffer_full(self, tp: TP) -> None:
        """Stock Faust stops fetching here, and may never begin again: clearing its queues drops who would tell it to."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See ``on_buffer_full``; what is in flight is bounded by the ledger."""

    def ack(self, message: Any) -> bool:
        """Completes the batch a message stands for; False where it is of an earlier assignment."""
        with ack_lock:
            self._unacked_messages.discard(message)
            message.acked = True
            notify(self._waiting_for_ack)
            if message.generation_id != self.app.consumer_generation_id:
                return False
            tp = message.tp
            completed = self.ledger.complete(tp, message.offset + 1)
            self._room.set()
            if self._polled and tp not in self._polled and tp in self._active_partitions and self.ledger.has_room(tp):
                self._thread.admit(self._polled, tp)
            return completed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in list(self.ledger.completed) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.ledger.completed.get(tp)

    def _should_commit(self, tp: TP, offset: int) -> bool:
        # stock Faust takes an offset for committed when it tried; the last batch before a pause would stay uncommitted
        return offset > self.stored.get(tp, 0)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        generation = self.app.consumer_generation_id
        done = bool(await super()._commit(offsets))
        if done and generation == self.app.consumer_generation_id:
            self.stored.update(offsets)
        return done

    async def wait_empty(self) -> None:
        """Waits for the batches in flight, but not for ever; what is given up is not committed."""
        await self._wait_empty(DRAIN_SECONDS)

    async def _wait_empty(self, seconds: float) -> None:
        end = monotonic() + seconds
        while self._unacked_messages and monotonic() < end:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        if self._unacked_messages:
            log.warning("batches in flight were given up, they are delivered again", batches=len(self._unacked_messages))
        if not await self.commit():
            # False also when it only waited for a commit that began before the last acknowledgement
            await self.commit()

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Takes no more, lets the batches in flight end, commits."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await self._wait_empty(seconds)
        self._unacked_messages.clear()

    async def drain_for_good(self) -> None:
        """The last drain before a stop: nothing is left to wait for or to commit afterwards, which Faust tries twice more."""
        try:
            await self.drain(LAST_DRAIN_SECONDS)
        finally:
            self._unacked_messages.clear()
            self.ledger.restart({})

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # drain and commit first: the stock method begins by dropping what was acknowledged since the last commit
        await self.drain()
        self.positioned.clear()
        await super().on_partitions_revoked(revoked)
        self.ledger.restart({})
        self._asked_ends.clear()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """See ``ConsumerThread.verify_event_path``."""


class Transport(driver.Transport):
    """aiokafka with the batch consumer."""

    Consumer = Consumer
