"""Ends a worker that owns partitions but makes no progress, so that its supervisor starts it again.

A partition is stalled if its log has offsets before the last stable offset that are not completed, or not committed, and if
nothing of it was fetched, completed, committed or reported by its owner for a while, although Kafka answers. It is not stalled
while its owner waits for something (`progress.waiting`: Redis or Kafka is unavailable, or a recovery runs, which detects
stalls by itself), at the end of its topic, at a batch that cannot be read, while Kafka does not answer, or when the process
was stopped and has just resumed.
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
from worker.engine.progress import Progress
from worker.tasks import uncancelled

CHECK_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
#: A partition is suspected after this part of the time after which it is stalled.
SUSPECTED_PART = 0.5


class Stalled(Exception):
    """This worker makes no progress for an unknown reason. Starting it again loses nothing."""


class Observation(NamedTuple):
    """The progress of one partition at one check, in one aspect: ``completed`` or ``committed``."""

    tp: TP
    aspect: str
    position: Hashable
    """Changes with any progress."""
    timeout_factor: float
    """Multiplies the limit; 0: there is nothing to do."""


class StallTimers:
    """How long each partition and aspect has made no progress."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._unchanged: dict[tuple[TP, str], tuple[Hashable, float]] = {}
        """(position, seconds without progress) at the last check."""

    def advance(self, seconds: float, observations: Iterable[Observation]) -> list[Observation]:
        """Returns the observations without progress for too long. Partitions that are not observed are forgotten."""
        before, self._unchanged, late = self._unchanged, {}, []
        for observed in observations:
            position, unchanged = before.get((observed.tp, observed.aspect), (None, 0.0))
            not_timed = observed.timeout_factor in (0, inf)
            unchanged = 0.0 if not_timed or position != observed.position else unchanged + seconds
            self._unchanged[observed.tp, observed.aspect] = (observed.position, unchanged)
            if not not_timed and unchanged > self._limit * observed.timeout_factor:
                late.append(observed)
        return late

    def unchanged_parts(self, observations: Iterable[Observation]) -> Iterator[tuple[Observation, float]]:
        """How long each of these made no progress at the last check, as a part of its limit."""
        for observed in observations:
            _, unchanged = self._unchanged.get((observed.tp, observed.aspect), (None, 0.0))
            if observed.timeout_factor not in (0, inf):
                yield observed, unchanged / (self._limit * observed.timeout_factor)

    def restart(self, observed: Observation, part: float = 1) -> None:
        """Grants the limit once more, or this part of it."""
        self._unchanged[observed.tp, observed.aspect] = (observed.position, self._limit * (observed.timeout_factor - part))


Ends = Callable[[set[TP]], Awaitable[Mapping[TP, int] | None]]
"""The end offsets of partitions, 0 for an empty log; None while Kafka does not answer."""


class Watchdog:
    """Checks a consumer's partitions every few seconds.

    Args:
        consumer: gives the consumer; called at every check, since the app creates it late.
        ends: see `ends_of`.
        limit: how long a partition may make no progress, seconds; at least four session timeouts. Half of it is added
            once Kafka has answered.
        seeking_limit: how long it may take to position a new assignment, seconds; more than Faust's own timeout for that.
        clock: gives seconds.
    """

    def __init__(
        self,
        consumer: Callable[[], Consumer],
        ends: Ends,
        limit: float,
        seeking_limit: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.progress: dict[int, Progress] = {}
        """By partition number, the progress of its owner."""
        self._consumer = consumer
        self._ends = ends
        self._limit, self._seeking = limit, max(seeking_limit / limit, 1)
        self._timers = StallTimers(limit)
        self._suspects: set[Observation] = set()
        self._clock = clock
        self._last_check = clock()
        self._observations: list[Observation] = []

    def suspected(self, ends: Mapping[TP, int]) -> str:
        """What has made no progress for half of its limit, although its log goes on; empty: nothing.

        Args:
            ends: the last stable offsets that Kafka confirmed just now.
        """
        for observed, part in self._timers.unchanged_parts(self._observations):
            end = ends.get(observed.tp)
            if part > SUSPECTED_PART and end is not None and self._is_behind(observed, end):
                tp = observed.tp
                return f"no offset of {tp.topic} partition {tp.partition} was {observed.aspect} for {part * self._limit:.0f} s"
        return ""

    async def run(self) -> None:
        """Checks for ever.

        Raises:
            Stalled: a partition makes no progress.
        """
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Checks once; raises `Stalled`."""
        now = self._clock()
        # time during which the process was stopped does not count
        passed, self._last_check = min(now - self._last_check, 2 * CHECK_SECONDS), now
        observations = list(self._observe())
        self._observations = observations
        late = self._timers.advance(passed, observations)
        if not late:
            return
        ends = await self._ends({observed.tp for observed in late})
        self._suspects &= {*observations}
        for observed in late:
            if ends is not None and self._is_behind(observed, ends[observed.tp]):
                if observed in self._suspects:
                    raise Stalled(self._describe(observed, ends[observed.tp]))
                # Kafka may have come back a moment ago
                self._suspects.add(observed)
                self._timers.restart(observed, 0.5)
            else:
                self._suspects.discard(observed)
                self._timers.restart(observed)

    def _observe(self) -> Iterator[Observation]:
        consumer = self._consumer()
        try:
            assignment = consumer.assignment()
        except ConsumerNotStarted:
            return
        generation, positioned = consumer.app.consumer_generation_id, consumer.positioned.is_set()
        unreadable = consumer.unreadable
        for tp in assignment:
            progress = self.progress.get(tp.partition, Progress())
            offsets, committed = consumer.tracker.progress_of(tp), consumer.committed_offsets.get(tp)
            position = (generation, offsets, committed, progress.heartbeats)
            # a batch that cannot be read stops its partition until an operator deletes it
            timeout_factor = inf if tp in unreadable else progress.timeout_factor if positioned else self._seeking
            yield Observation(tp, "completed", position, timeout_factor)
            behind = (offsets.completed or 0) > max(committed or 0, offsets.began or 0)
            yield Observation(tp, "committed", (generation, committed), 1 if behind else 0)

    def _is_behind(self, observed: Observation, end: int) -> bool:
        consumer, tp = self._consumer(), observed.tp
        done = (
            consumer.committed_offsets.get(tp) if observed.aspect == "committed" else consumer.tracker.progress_of(tp).completed
        )
        return (done or 0) < end

    def _describe(self, observed: Observation, end: int) -> str:
        consumer, tp = self._consumer(), observed.tp
        _, taken, completed = consumer.tracker.progress_of(tp)
        return (
            f"stalled: no offset of {tp.topic} partition {tp.partition} was {observed.aspect} for over {self._limit:.0f} s, "
            f"although Kafka answers: end {end}, delivered {taken}, completed {completed}, "
            f"committed {consumer.committed_offsets.get(tp)}; a restarted worker continues from there"
        )


def ends_of(client: Mapping[str, Any]) -> Ends:
    """Asks Kafka for last stable offsets over a new connection each time: those of the worker may be broken.

    Args:
        client: connection settings for aiokafka.
    """

    async def ask(partitions: set[TP]) -> dict[TP, int] | None:
        consumer = AIOKafkaConsumer(**client, group_id=None, enable_auto_commit=False, isolation_level=ISOLATION)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await uncancelled(consumer.start())
                tps = [TopicPartition(*tp) for tp in partitions]
                begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        except (KafkaError, OSError, TimeoutError):
            return None
        finally:
            await consumer.stop()
        # records that retention deleted can never be completed
        return {TP(*tp): end if end > begins[tp] else 0 for tp, end in ends.items()}

    return ask
