"""Ends a worker that holds partitions and moves nothing, so that whoever supervises it starts another.

A stall is a partition whose log has offsets before its last stable offset that are neither completed nor committed, of
which nothing was fetched, completed, committed or reported by its owner for a while, although Kafka answers. No stall: an
owner that knows what it waits for (`effort.known_wait`: Redis or Kafka away, a recovery, which watches itself), a partition
at the end of its topic or at a batch that cannot be read, a Kafka that does not answer, a process that was stopped and has
just woken up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from worker.engine.faust_consumer import Consumer
from worker.engine.fetching import ISOLATION
from worker.engine.progress import Effort

LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 10.0


class Stalled(Exception):
    """This worker moves nothing, and does not know why. Starting it again loses nothing."""


class Sight(NamedTuple):
    """What a look sees of one partition, in one respect."""

    tp: TP
    respect: str
    mark: Hashable
    """Another one than at the last look: it moved."""
    patience: float
    """Times the limit; 0: there is nothing to do."""


class Clocks:
    """For how long what has not moved."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._still: dict[tuple[TP, str], tuple[Hashable, float]] = {}

    def pass_(self, seconds: float, sights: Iterable[Sight]) -> list[Sight]:
        """The sights that have not moved for too long. What is not seen any more is forgotten."""
        before, self._still, late = self._still, {}, []
        for sight in sights:
            mark, still = before.get((sight.tp, sight.respect), (None, 0.0))
            excused = sight.patience in (0, inf)
            still = 0.0 if excused or mark != sight.mark else still + seconds
            self._still[sight.tp, sight.respect] = (sight.mark, still)
            if not excused and still > self._limit * sight.patience:
                late.append(sight)
        return late

    def restart(self, sight: Sight, part: float = 1) -> None:
        """Gives this one the full time again, or part of it."""
        self._still[sight.tp, sight.respect] = (sight.mark, self._limit * (sight.patience - part))


Ends = Callable[[set[TP]], Awaitable[Mapping[TP, int] | None]]
"""The end offsets of partitions, 0 where nothing is held any more; None while Kafka does not answer."""


class Watchdog:
    """Looks at a consumer's partitions every few seconds.

    Args:
        consumer: gives the consumer; asked at every look, since an app makes it late.
        ends: see `ends_of`.
        limit: how long a partition may stand still, seconds; at least four session timeouts. Half of that is added
            once Kafka has answered.
        seeking_limit: how long a new assignment may take to be positioned; longer than Faust's own guard of that.
        clock: seconds.
    """

    def __init__(
        self,
        consumer: Callable[[], Consumer],
        ends: Ends,
        limit: float,
        seeking_limit: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.efforts: dict[int, Effort] = {}
        """Who is at work on a partition number."""
        self._consumer = consumer
        self._ends = ends
        self._limit, self._seeking = limit, max(seeking_limit / limit, 1)
        self._clocks = Clocks(limit)
        self._suspects: set[Sight] = set()
        self._clock = clock
        self._last = clock()

    async def run(self) -> None:
        """Looks for ever.

        Raises:
            Stalled: the worker had better be started again.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """One look; raises `Stalled`."""
        now = self._clock()
        # the time that a process was stopped for is not time that it had
        passed, self._last = min(now - self._last, 2 * LOOK_SECONDS), now
        sights = list(self._sights())
        late = self._clocks.pass_(passed, sights)
        if not late:
            return
        ends = await self._ends({sight.tp for sight in late})
        self._suspects &= {*sights}
        for sight in late:
            if ends is not None and self._is_behind(sight, ends[sight.tp]):
                if sight in self._suspects:
                    raise Stalled(self._describe(sight, ends[sight.tp]))
                # Kafka may have come back a moment ago
                self._suspects.add(sight)
                self._clocks.restart(sight, 0.5)
            else:
                self._suspects.discard(sight)
                self._clocks.restart(sight)

    def _sights(self) -> Iterator[Sight]:
        consumer = self._consumer()
        try:
            assignment = consumer.assignment()
        except ConsumerNotStarted:
            return
        generation, positioned = consumer.app.consumer_generation_id, consumer.positioned.is_set()
        unreadable = consumer.unreadable
        for tp in assignment:
            effort = self.efforts.get(tp.partition, Effort())
            standing, stored = consumer.ledger.standing(tp), consumer.stored.get(tp)
            mark = (generation, standing, stored, effort.moves)
            # a batch that cannot be read stops its partition until an operator deletes it
            patience = inf if tp in unreadable else effort.patience if positioned else self._seeking
            yield Sight(tp, "completed", mark, patience)
            behind = (standing.completed or 0) > max(stored or 0, standing.began or 0)
            yield Sight(tp, "committed", (generation, stored), 1 if behind else 0)

    def _is_behind(self, sight: Sight, end: int) -> bool:
        consumer, tp = self._consumer(), sight.tp
        done = consumer.stored.get(tp) if sight.respect == "committed" else consumer.ledger.standing(tp).completed
        return (done or 0) < end

    def _describe(self, sight: Sight, end: int) -> str:
        consumer, tp = self._consumer(), sight.tp
        _, taken, completed = consumer.ledger.standing(tp)
        return (
            f"stalled: nothing of {tp.topic} partition {tp.partition} was {sight.respect} for {self._limit:.0f} s and "
            f"more, though Kafka answers: it ends at {end}, handed over {taken}, completed {completed}, "
            f"committed {consumer.stored.get(tp)}; a new start goes on from there"
        )


def ends_of(client: Mapping[str, Any]) -> Ends:
    """Asks Kafka for last stable offsets, by a connection of its own: the worker's may be what is broken.

    Args:
        client: connection settings for aiokafka.
    """

    async def ask(partitions: set[TP]) -> dict[TP, int] | None:
        consumer = AIOKafkaConsumer(**client, group_id=None, enable_auto_commit=False, isolation_level=ISOLATION)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await consumer.start()
                asked = [TopicPartition(*tp) for tp in partitions]
                begins, ends = await consumer.beginning_offsets(asked), await consumer.end_offsets(asked)
        except (KafkaError, OSError, TimeoutError):
            return None
        finally:
            await consumer.stop()
        # what retention deleted can never be completed
        return {TP(*tp): end if end > begins[tp] else 0 for tp, end in ends.items()}

    return ask
