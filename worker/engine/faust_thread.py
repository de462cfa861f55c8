"""The thread in which the Kafka client of `faust_consumer` fetches, commits and leaves its group.

Stock Faust's thread waits for ever on a Kafka that does not answer, and ends silently on some errors
(worker/engine/README.md). Here each of its calls has a limit, and each end of it is logged.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

from worker.engine.fetching import ISOLATION, ConfirmedEnd, Fetches, LogEnd, log_end, next_offset
from worker.engine.topic_metadata import assign_known_topics_only, watch_topics

log = structlog.get_logger(__name__)

#: A client that cannot reach Kafka at its start tries again after so long, seconds.
START_SECONDS = 1.0
#: How long one commit may take, seconds; then the next commit tries again. Drain and two commits fit the rebalance timeout.
COMMIT_SECONDS = 2.5
#: How long the client may take to leave its group and close, and after that its thread to end, seconds.
LEAVE_SECONDS, STOP_SECONDS = 2.5, 3.0
#: Idle consumer: a fetch is answered as soon as there is a record, or after so long, milliseconds.
FETCH_WAIT_MS = 250
#: Busy consumer: a fetch waits for so long, or for so many bytes, since a batch of four costs nearly as much as one of twenty.
LINGER_MS, LINGER_BYTES = 32, 64 * 1024
#: Kafka may take so long to answer where logs end, seconds.
END_ANSWER_SECONDS = 3.0


class ClientThread(WorkerThread):
    """Delays the end of the process by `STOP_SECONDS` at most: it may wait for the loop that waits for this thread."""

    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def stop(self) -> None:
        self.is_stopped.wait(STOP_SECONDS)


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The stock thread with Faust's own assignor, which assigns the same partition of all topics to the same worker."""

    Worker = ClientThread

    fetches: Fetches
    #: Stock Faust waits for a minute.
    shutdown_timeout = STOP_SECONDS
    _topics_watch: asyncio.Task[None] | None = None

    def _start_thread(self) -> None:
        # if a fetch is cancelled while Kafka is away, the client raises CancelledError; the stock thread then ends silently,
        # and its stop takes the whole `shutdown_timeout`. Other errors reach the app through `crash`
        try:
            super()._start_thread()
        except BaseException as error:  # noqa: BLE001 - the thread ends here
            log.info("the Kafka client's thread has ended", error=repr(error))
        finally:
            with suppress(RuntimeError):  # the app's loop is closed
                self.set_shutdown()

    async def on_start(self) -> None:
        # Kafka may be away although it was checked before; stock Faust would end the app
        is_waiting = False
        while not self.should_stop:
            try:
                await super().on_start()
                break
            except KafkaConnectionError as error:
                await self._ensure_consumer().stop()
                if not is_waiting:
                    log.warning("waiting", what="kafka", error=repr(error))
                is_waiting = True
                await self.sleep(START_SECONDS)
        if is_waiting:
            log.info("resumed", what="kafka")
        if not self.should_stop:
            consumer = self._ensure_consumer()
            assign_known_topics_only(consumer, self.app.conf.broker_session_timeout / 2)
            self._topics_watch = asyncio.create_task(watch_topics(consumer._client))  # noqa: SLF001

    async def on_thread_stop(self) -> None:
        if self._topics_watch is not None:
            self._topics_watch.cancel()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await super().on_thread_stop()
        except (asyncio.CancelledError, TimeoutError, KafkaError) as error:
            log.warning("the Kafka client was not closed cleanly", error=repr(error), seconds=LEAVE_SECONDS)

    async def stop(self) -> None:
        try:
            await super().stop()
        except TimeoutError:
            log.warning("stop step timed out", step="the Kafka client's thread", seconds=STOP_SECONDS)

    def close(self) -> None:
        """Does nothing: the thread closes its client itself.

        Stock Faust also closes it from the app's loop, if a stop meets a rebalance. That would close the connections during
        the request that leaves the group, which would never be answered.
        """

    def on_crash(self, msg: str, *fmt: Any, **_: Any) -> None:
        # the stock method prints a traceback
        log.error("the Kafka client's thread crashed", error=msg.format(*fmt))

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # for an app without Faust tables the stock method uses round robin, which would separate events from bookings
        self._assignor = self.app.assignor
        consumer._partition_assignment_strategy = [self._assignor]  # noqa: SLF001
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        consumer._isolation_level = ISOLATION  # noqa: SLF001 - Faust sets it only for transactions
        self.fetches = Fetches(consumer, are_plain=True)
        return consumer

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        assert active_partitions is not None  # which it is in apps without agents only
        # not by the stock queue of calls, which wakes both threads several times for each
        consumer = self._ensure_consumer()
        fetching = self._fetch_records(consumer, active_partitions, timeout, consumer._max_poll_records)  # noqa: SLF001
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetching, self.thread_loop))

    async def _fetch_records(
        self,
        consumer: Any,  # noqa: ARG002 - Faust's signature
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:
        if not self.consumer.flow_active:
            return {}
        return await self.fetches.take(lambda: active_partitions, timeout or 0.0, max_records or sys.maxsize)

    def log_end(self, tp: TP) -> LogEnd | None:
        """See `fetching.log_end`; from any thread."""
        return log_end(self._ensure_consumer(), tp)

    def fetched_end(self, tp: TP) -> ConfirmedEnd | None:
        """The end of an assigned partition in the last answer to a fetch; from any thread."""
        return None if self.log_end(tp) is None else self.fetches.confirmed.get(TopicPartition(*tp))

    def next_offset(self, tp: TP) -> int | None:
        """See `fetching.next_offset`; from any thread."""
        return next_offset(self._ensure_consumer(), tp)

    async def end_offsets(self, partitions: Collection[TP]) -> dict[TP, int]:
        """The last stable offsets that Kafka returns within `END_ANSWER_SECONDS`; from any thread."""
        future = asyncio.run_coroutine_threadsafe(self._end_offsets(partitions), self.thread_loop)
        return await asyncio.wrap_future(future)

    async def _end_offsets(self, partitions: Collection[TP]) -> dict[TP, int]:
        consumer, by_leader, ends = self._ensure_consumer(), defaultdict(list), {}
        for tp in partitions:
            by_leader[consumer._client.cluster.leader_for_partition(tp)].append(tp)  # noqa: SLF001

        async def ask(of_leader: list[TP]) -> None:
            # a leader that is away does not delay the answers of the others
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(END_ANSWER_SECONDS):
                    ends.update(await consumer.end_offsets(of_leader))

        await asyncio.gather(*map(ask, by_leader.values()))
        return {ensure_TP(tp): end for tp, end in ends.items()}

    async def commit(self, offsets: Any) -> bool:
        # a thread that stops answers no more calls, and may wait for the revocation that wants to commit here
        if not self.method_queue.should_stop:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * COMMIT_SECONDS):
                    return bool(await super().commit(offsets))
        return False

    async def _commit(self, offsets: Any) -> bool:
        # the client repeats a commit while Kafka is away; without a timeout that would block revocations and the stop
        with suppress(TimeoutError):
            async with asyncio.timeout(COMMIT_SECONDS):
                try:
                    return bool(await super()._commit(offsets))
                except asyncio.CancelledError:
                    # the client cancels a commit when it is closed or has left its group; nobody has cancelled this task then
                    if (task := asyncio.current_task()) is None or task.cancelling():
                        raise
        return False

    def linger(self, *, busy: bool) -> None:
        """Sets how long the next fetches wait for more records."""
        fetcher = self._ensure_consumer()._fetcher  # noqa: SLF001
        fetcher._fetch_max_wait_ms = LINGER_MS if busy else FETCH_WAIT_MS  # noqa: SLF001
        fetcher._fetch_min_bytes = LINGER_BYTES if busy else 1  # noqa: SLF001

    def add_to_current_poll(self, polled: set[TP], tp: TP) -> None:
        """Adds a partition to the poll that is under way; from any thread."""

        def wake() -> None:
            polled.add(tp)
            for waiter in list(self._ensure_consumer()._fetcher._fetch_waiters):  # noqa: SLF001
                if not waiter.done():
                    waiter.set_result(None)

        self.thread_loop.call_soon_threadsafe(wake)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Does nothing. Stock Faust logs timings per event here, and fails on a partition that is just being assigned."""
