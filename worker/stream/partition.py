"""One partition of the events and bookings topics, and the way of each of its batches.

The effects of a batch go out in this order, each awaited: changelog and table; dead letters, forwards and alerts, and
beside them Redis; acknowledgement. A crash between any two of them lets the batch come again, and what it then says again
changes nothing. While one batch is said, the next is already folded and stored.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog

from schemas.alerts import AlertEvent
from schemas.events import Reason
from worker.engine.fetching import Fetched
from worker.engine.partition_appender import Undecided
from worker.read_model.writer import Write
from worker.stream import kafka_sink
from worker.stream.booking_store import Bookings, Changed
from worker.stream.dead_letters import DeadLetterCount, count_by_reason
from worker.stream.decode_batch import Intake, joined, read_bookings, read_events
from worker.stream.kafka_sink import Outgoing
from worker.stream.projection import project
from worker.stream.redis_sink import BOOKINGS, EVENTS, ReadModels, TopicEnd
from worker.stream.resources import Resources
from worker.stream.retry import until_done

log = structlog.get_logger(__name__)

#: Records of others in our logs that an open transaction holds are looked at again after so long, seconds.
UNDECIDED_SECONDS = 10.0
#: Booking records that are read before other tasks have their turn: each takes ten times as long as an event.
_READ_AT_ONCE = 500

Chore = Callable[[], Awaitable[None]]
"""What is done between two batches."""
Task = TypeVar("Task")


class Delivered(Protocol):
    """A Faust event whose value is what one poll took of a partition."""

    value: Fetched
    message: Any

    def ack(self) -> bool: ...


class Folded(NamedTuple):
    """A batch that is in changelog and table, and what is to be said of it."""

    delivered: Delivered
    outgoing: Outgoing
    dead_letters: Mapping[Reason, DeadLetterCount]
    write: Write


class Partition:
    """Owner of one partition, from its recovery to its revocation."""

    def __init__(self, number: int, resources: Resources) -> None:
        self.number = number
        self._resources = resources
        self._bookings = Bookings(number, resources)
        self._read_models: ReadModels | None = None
        self._to_fold: asyncio.Queue[Delivered | Chore] = asyncio.Queue()
        self._to_say: asyncio.Queue[Folded | Chore] = asyncio.Queue(1)
        self._alerts = asyncio.Lock()
        """Held while the alerts topic is written to."""
        self._mend_after = 0.0

    async def run(self, committed: Mapping[str, int]) -> None:
        """Works until it is cancelled.

        Args:
            committed: offsets committed for the events and the bookings topic, where there are any.
        """
        topics = self._resources.topics
        self._read_models = ReadModels(self.number, self._resources, self._bookings, await self._bookings.open())
        await self._read_models.own((committed.get(topics.events, 0), committed.get(topics.bookings, 0)))
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(_take(self._to_fold, partial(self._fold, self._read_models)))
                stages.create_task(_take(self._to_say, partial(self._say, self._read_models)))
        except ExceptionGroup as failed:
            raise _first(failed) from None

    def deliver(self, delivered: Delivered) -> None:
        """Takes a batch; the consumer bounds how many wait."""
        self._to_fold.put_nowait(delivered)

    async def beat(self, ends: Mapping[str, TopicEnd]) -> None:
        """Writes the heartbeat: the topics' ends by topic name ``events`` and ``bookings``."""
        chore = await self._read_models.beat(ends) if self._read_models else None
        if chore is not None:
            # an idle partition has no write that would find what is wrong; a busy one has
            with suppress(asyncio.QueueFull):
                self._to_say.put_nowait(chore)

    def look(self) -> None:
        """Mends between two batches what somebody else wrote to its logs."""
        if self._read_models is not None and self._has_foreign and monotonic() >= self._mend_after:
            self._to_fold.put_nowait(self._mend)

    async def _fold(self, read_models: ReadModels, delivered: Delivered) -> None:
        """Takes a batch as far as changelog and table."""
        (begin, records, end), resources = delivered.value, self._resources
        topic = EVENTS if delivered.message.topic == resources.topics.events else BOOKINGS
        again = begin < self._bookings.redelivered[topic]
        async with read_models.unsettled:
            # one partition at a time: they would only drive each other's bookings out of the processor's cache
            async with resources.folding:
                intake = await self._read(topic, records)
                write = read_models.begin(topic, end, intake.newest)
                changed = Changed()
                published: list[AlertEvent] = []
                for changes in self._bookings.fold(intake, again=again, told=read_models.told):
                    project(changes, write, published, known=read_models.is_known)
                    changed.add(changes)
                    await asyncio.sleep(0)
            outgoing = kafka_sink.outgoing(intake, published, resources.topics, self.number, resources.settings.partitions)
            # a batch may wait long for Kafka and Redis, and its records take much more memory than what came of them
            records.clear()
            last_places, dead_letters = intake.last_places, count_by_reason(intake.letters)
            del intake
            await self._bookings.store(changed, read_models.applied)
            overtaken = self._bookings.overtaken(last_places)
            outgoing.messages.extend(
                kafka_sink.append_again(resources.topics.bookings, self.number, kept) for kept in overtaken
            )
        await self._to_say.put(Folded(delivered, outgoing, dead_letters, write))

    async def _say(self, read_models: ReadModels, folded: Folded) -> None:
        """What is to be known of a stored batch, to Kafka and Redis; then acknowledges it."""
        async with asyncio.TaskGroup() as both:
            if folded.outgoing.messages or folded.outgoing.alerts:
                both.create_task(self._send(folded.outgoing))
            both.create_task(read_models.write(folded.write))
        self._resources.dead_letters.add(folded.dead_letters)
        folded.delivered.ack()
        self.look()

    async def _read(self, topic: int, records: list[Any]) -> Intake:
        if topic == EVENTS:
            rules = self._resources.rules
            return read_events(records, self._is_ours, rules.max_event_age, rules.clock_tolerance)
        parts = []
        for start in range(0, len(records), _READ_AT_ONCE):
            parts.append(read_bookings(records[start : start + _READ_AT_ONCE], self._is_ours))
            await asyncio.sleep(0)
        return joined(parts)

    def _is_ours(self, booking_id: str) -> bool:
        return booking_id in self._bookings or self._resources.partition_of(booking_id) == self.number

    async def _send(self, outgoing: Outgoing) -> None:
        resources = self._resources

        async def attempt() -> None:
            await resources.lease.hold()
            await kafka_sink.send(resources.producer, resources.alerts[self.number], outgoing)

        async with self._alerts:
            await until_done("kafka", attempt, partition=self.number)

    @property
    def _has_foreign(self) -> bool:
        resources = self._resources
        tables = (resources.attendance, resources.bookings)
        return bool(resources.alerts[self.number].foreign) or any(table.foreign(self.number) for table in tables)

    async def _mend(self) -> None:
        """Says again what a worker that had lost the partition may have said after us."""
        try:
            await self._mend_all()
            self._mend_after = 0.0
        except Undecided as held:
            # what an open transaction holds is nothing yet; work goes on meanwhile
            if not self._mend_after:
                log.info("mends later", partition=self.number, reason=str(held))
            self._mend_after = monotonic() + UNDECIDED_SECONDS

    async def _mend_all(self) -> None:
        resources = self._resources
        await self._bookings.mend()
        tail, client = resources.alerts[self.number], resources.settings.kafka_client()
        while tail.foreign:
            offsets = tail.foreign[0]

            async def attempt() -> None:
                await resources.lease.hold()
                await kafka_sink.mend(resources.producer, tail, offsets, client, self._bookings.state)  # noqa: B023

            async with self._alerts:
                await until_done("kafka", attempt, partition=self.number)
            tail.foreign.remove(offsets)


async def _take(tasks: asyncio.Queue[Task | Chore], handle: Callable[[Task], Awaitable[None]]) -> None:
    """A stage: one task after another."""
    while True:
        task = await tasks.get()
        await (task() if callable(task) else handle(task))


def _first(failed: BaseException) -> BaseException:
    """The first error in a group of them, itself where it is none."""
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed
