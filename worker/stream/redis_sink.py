"""What one partition keeps in Redis: claimed, written batch by batch, and filled again where it is lost or behind."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import structlog

from schemas.times import format_time, parse_time
from worker.domain.fold import NEVER
from worker.domain.rows import Applied
from worker.read_model.writer import Fenced, NeedsRepair, PartitionWriter, ReadModelError, Write
from worker.stream.booking_store import Bookings, Ends
from worker.stream.resources import Resources
from worker.stream.retry import until_done

log = structlog.get_logger(__name__)

#: Topics of a partition, in the order of `Ends`.
EVENTS, BOOKINGS = range(2)
_NAMES = ("events", "bookings")


class TopicEnd(NamedTuple):
    """Where a topic of a partition ends, as Kafka confirmed it last."""

    stable: int
    """The last stable offset."""
    held: int
    """Offsets behind it, which open transactions hold."""
    age_ms: int
    """How long ago Kafka confirmed it."""
    unreadable: int | None
    """The offset of a batch that cannot be read, at which the partition stands; None where there is none."""


class ReadModels:
    """The writer of a partition's read models, and what it knows of what they hold."""

    def __init__(self, number: int, resources: Resources, bookings: Bookings, generation: str) -> None:
        self.is_live = False
        """Whether they are up to the table."""
        self.is_known = False
        """Whether Redis holds just what the table came to before the batch at hand."""
        self.told = 0
        """Up to which offset of the bookings topic they surely go."""
        self.unsettled = asyncio.Lock()
        """Held from the begin of a batch until it is in the table, so that what fills them has all of a batch or nothing."""
        self._number = number
        self._bookings = bookings
        self._timeout = resources.settings.session_timeout.total_seconds()
        self._writer = PartitionWriter(resources.redis, resources.namespace, number, generation)
        self._marks: dict[str, Any] = {}
        """Of the batch that was begun last."""
        self._fills = 0
        self._times = Applied().times

    @property
    def ends(self) -> Ends:
        """Up to where the topics are folded."""
        return _ends(self._marks)

    @property
    def applied(self) -> Applied:
        """What is folded."""
        return Applied(*self.ends, *self._times)

    def begin(self, topic: int, end: int, newest: int | None) -> Write:
        """What is to be written of the batch that ends there; ``newest`` is its newest time, see `Intake.newest`."""
        self._marks[f"{_NAMES[topic]}.offset"] = max(end, self.ends[topic])
        if newest is not None:
            times = list(self._times)
            times[topic] = newest
            self._advance(times)
        return Write(dict(self._marks), self._fills)

    async def own(self, committed: Ends) -> None:
        """Becomes the writer; fills them from the table where they are missing or behind what was committed."""
        claim = await until_done("redis", self._writer.claim, partition=self._number)
        ends = claim.events_offset, claim.bookings_offset
        # a Redis that was flushed knows less than the table, and one whose worker died before its next write may know more
        self._advance(self._bookings.applied.times)
        self._advance([parse_time(time) if time else NEVER for time in (claim.events_time, claim.bookings_time)])
        if claim.sound and _reaches(ends, committed):
            self._begin(ends)
            self.told = ends[BOOKINGS]
            self.is_known = _reaches(ends, self._bookings.redelivered)
            # another claim meanwhile is for the first write or heartbeat to find; what is left over waits for the next owner
            with suppress(ReadModelError):
                await until_done("redis", self._writer.tidy, partition=self._number)
            self.is_live = True
        else:
            self._begin(committed)
            await self.repair()

    async def write(self, write: Write) -> None:
        """Writes a batch that is in the table; where that is refused, everything."""
        if write.follows != self._fills:
            return  # it was in the table when they were filled since
        try:
            await until_done("redis", lambda: self._writer.apply(write), partition=self._number)
            ends = _ends(write.marks)
            self.is_live = True
            self.is_known = self.is_known or _reaches(ends, self._bookings.redelivered)
            self.told = ends[BOOKINGS]
        except NeedsRepair as error:
            log.warning("repairing", partition=self._number, reason=str(error))
            await self.repair()
        except Fenced:
            await self.reclaim()

    async def beat(self, ends: Mapping[str, TopicEnd]) -> Callable[[], Awaitable[None]] | None:
        """Writes the heartbeat: the topics' ends by their names; what is to be done where it was refused."""
        was_live = self.is_live
        marks: dict[str, Any] = {}
        for topic, end in ends.items():
            unreadable = "" if end.unreadable is None else end.unreadable
            marks |= {f"{topic}.end": end.stable, f"{topic}.held": end.held, f"{topic}.unreadable": unreadable}
        try:
            await self._writer.beat(marks, {topic: end.age_ms for topic, end in ends.items()})
        except ReadModelError as error:
            if not was_live:
                return None  # it is being claimed or filled, which finds the same
            log.warning("refused", partition=self._number, reason=str(error))
            self.is_live = False
            return self.reclaim if isinstance(error, Fenced) else self._restore
        return None

    async def _restore(self) -> None:
        # the write of a batch that came first has found and repaired the same
        if not self.is_live:
            await self.repair()

    async def reclaim(self) -> None:
        """Another worker has claimed the partition: most likely Kafka is about to say so. If it does not, it is ours."""
        self.is_live = False
        log.warning("fenced", partition=self._number)
        await asyncio.sleep(2 * self._timeout)
        await self.repair()

    async def repair(self) -> None:
        """Fills everything from the table, under new keys."""
        self.is_live = False
        async with self.unsettled:
            while not await self._fill():
                pass
            self._fills += 1
            self.is_live = self.is_known = True
            self.told = self.ends[BOOKINGS]
        log.info("filled", partition=self._number)

    async def _fill(self) -> bool:
        """Whether nobody came between."""
        try:
            await until_done(
                "redis",
                lambda: self._writer.repair(self._bookings.everything(), self._marks),
                partition=self._number,
            )
        except NeedsRepair:
            return False
        except Fenced:
            await asyncio.sleep(1)
            return False
        return True

    def _begin(self, ends: Ends) -> None:
        self._marks = {f"{name}.offset": end for name, end in zip(_NAMES, ends, strict=True)}
        self._advance(self._times)

    def _advance(self, times: Sequence[int]) -> None:
        """Times never go back."""
        events, bookings = map(max, self._times, times)
        self._times = events, bookings
        known = {f"{name}.time": time for name, time in zip(_NAMES, self._times, strict=True) if time != NEVER}
        self._marks |= {field: format_time(time) for field, time in known.items()}


def _ends(marks: Mapping[str, Any]) -> Ends:
    return marks["events.offset"], marks["bookings.offset"]


def _reaches(ends: Ends, goal: Ends) -> bool:
    return ends[EVENTS] >= goal[EVENTS] and ends[BOOKINGS] >= goal[BOOKINGS]
