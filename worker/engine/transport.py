"""A Faust transport that hands over one message per (partition, poll) and commits exactly what was completed.

Stock Faust makes two tasks per record, counts a gap in offsets as acknowledged, and throws acknowledgements away before
the last commit of a rebalance (design, "The engine"). Here a Faust message carries the list of raw records of one poll;
a batch is committed when it and everything before it in its partition was acknowledged.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import faust
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery, ServiceStopped
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ack_lock
from mode.utils.futures import notify

#: URL scheme of this transport; `register` must have been called.
SCHEME = "batchkafka"
#: Unacknowledged batches of one partition at which no more of it is fetched.
MAX_IN_FLIGHT = 2
#: How long the batches in flight may take when partitions are given up, seconds; less than the rebalance timeout.
DRAIN_SECONDS = 5.0
#: A fetch is answered at once when there is something; this only bounds how long an empty one waits, milliseconds.
FETCH_WAIT_MS = 250


def register() -> None:
    """Makes ``batchkafka://`` known to Faust."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


@dataclass(slots=True)
class Batch:
    """A batch that was handed over: the offsets [first, next) of one partition."""

    first: int
    next: int
    done: bool = False


class RawSchema(faust.Schema[Any, Any]):
    """Passes records through as they are; the agent decodes."""

    def compile(self, app: Any, **_: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Any, **_: Any) -> Any:
            return create_event(message.key, message.value, message.headers or None, message)

        return decode


class Ledger:
    """Which batches of which partitions are in flight, and up to where everything is done."""

    def __init__(self) -> None:
        self._batches: dict[TP, deque[Batch]] = defaultdict(deque)
        self._expected: dict[TP, int] = {}
        self._jumped: dict[TP, tuple[int, int]] = {}
        self.completed: dict[TP, int] = {}
        """Committable offsets: the end of the completed head of each partition."""

    def restart(self, committed: dict[TP, int]) -> None:
        """Forgets everything; partitions go on from these offsets."""
        self._batches.clear()
        self._jumped.clear()
        self.completed.clear()
        self._expected = dict(committed)

    def take(self, tp: TP, records: list[Any]) -> list[Any] | int:
        """Those of the records that are new, now in flight; or the offset to seek back to, because one is missing.

        A jump that repeats after seeking back is the log's own (compaction, transaction markers), and is accepted.
        """
        expected = self._expected.get(tp)
        if expected is not None:
            if records[0].offset < expected:
                records = [record for record in records if record.offset >= expected]
                if not records:
                    return records
            first = records[0].offset
            if first > expected and self._jumped.get(tp) != (expected, first):
                self._jumped[tp] = (expected, first)
                return expected
        end = records[-1].offset + 1
        self._expected[tp] = end
        self._batches[tp].append(Batch(records[0].offset, end))
        return records

    def complete(self, tp: TP, end: int) -> bool:
        """Marks the batch that ends there as done; False for one that is not in flight."""
        batches = self._batches[tp]
        batch = next((each for each in batches if each.next == end), None)
        if batch is None:
            return False
        batch.done = True
        while batches and batches[0].done:
            self.completed[tp] = batches.popleft().next
        return True

    def saturated(self) -> set[TP]:
        """Partitions with as many batches in flight as are allowed."""
        return {tp for tp, batches in self._batches.items() if len(batches) >= MAX_IN_FLIGHT}


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The stock thread, but with Faust's own assignor, which gives equal partition numbers to one worker."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # the stock method takes round robin for an app without Faust tables, which would part events from bookings
        self._assignor = self.app.assignor
        consumer._partition_assignment_strategy = [self._assignor]  # noqa: SLF001
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Stock Faust logs per-event timings here, and fails on a partition that is just being assigned."""


class Consumer(driver.Consumer):
    """Hands over batches and commits what was completed, nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self.committed: dict[TP, int] = {}
        """Where the partitions of the present assignment began, once `positioned`."""
        self.positioned = asyncio.Event()
        self._room = asyncio.Event()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        wanted = (active_partitions or set()) - self.ledger.saturated()
        if not wanted:
            self._room.clear()
            await self.wait_first(self._room.wait(), self.suspend_flow.wait(), timeout=timeout)
            return {}
        return await super()._getmany(wanted, timeout)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self._seek_back_to_committed()
            return
        for partition, found in records.items():
            tp = ensure_TP(partition)
            if not self.flow_active or generation != self.app.consumer_generation_id:
                return
            if not found or not (active is None or tp in active):
                continue
            taken = self.ledger.take(tp, found)
            if isinstance(taken, int):
                self.log.warning("%s: offset %d is missing before %d, seeking back", tp, taken, found[0].offset)
                await self._seek(tp, taken)
            elif taken:
                message: Any = self._to_message(tp, taken[-1])
                message.value = taken
                yield tp, message

    async def _seek_back_to_committed(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - as stock Faust does: the recovery seeks again before flow resumes
            self.log.warning("seeking to the committed offsets failed: %r", error)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        self.committed = {tp: offset for tp, offset in self._committed_offset.items() if offset}
        self.ledger.restart(self.committed)
        self.positioned.set()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Stock Faust counts a gap in offsets as acknowledged; here the ledger knows."""

    def ack(self, message: Any) -> bool:
        """Completes the batch a message stands for; False where it is of an earlier assignment."""
        with ack_lock:
            self._unacked_messages.discard(message)
            message.acked = True
            notify(self._waiting_for_ack)
            self._room.set()
            if message.generation_id != self.app.consumer_generation_id:
                return False
            return self.ledger.complete(message.tp, message.offset + 1)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in list(self.ledger.completed) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.ledger.completed.get(tp)

    async def wait_empty(self) -> None:
        """Waits for the batches in flight, but not for ever; what is given up is not committed."""
        end = monotonic() + DRAIN_SECONDS
        while self._unacked_messages and monotonic() < end:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        if self._unacked_messages:
            self.log.warning("gave up on %d batches in flight; they come again", len(self._unacked_messages))
        if not await self.commit():
            # False also when it only waited for a commit that began before the last acknowledgement
            await self.commit()

    async def drain(self) -> None:
        """Takes no more, lets the batches in flight end, commits."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await self.wait_empty()
        self._unacked_messages.clear()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # drain and commit first: the stock method begins by dropping what was acknowledged since the last commit
        await self.drain()
        self.positioned.clear()
        await super().on_partitions_revoked(revoked)
        self.ledger.restart({})

    def verify_event_path(self, now: float, tp: TP) -> None:
        """See ``ConsumerThread.verify_event_path``."""


class Transport(driver.Transport):
    """aiokafka with the batch consumer."""

    Consumer = Consumer


class SafeRecovery(Recovery):
    """Faust's recovery, which here only seeks and resumes the streams: this engine's tables recover by themselves."""

    async def _resume_streams(self, generation_id: int = 0) -> None:
        # records fetched between resume and seek would be handed over, then cleared: keep the flow closed until then
        self.app.consumer.stop_flow()
        self.app.flow_control.suspend()
        await super()._resume_streams(generation_id)

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        try:
            await super()._wait(coro, timeout)
        except ServiceStopped:
            if self.should_stop or self.crashed:
                raise
            # a step that timed out ends the stock recovery without a word, and the worker idles for ever
            raise TimeoutError("a step of the recovery took too long") from None


class SafeTableManager(TableManager):
    """Starts at once, with the safe recovery."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
