"""Writes one partition's read models to Redis: batch by batch, and as a whole if they are lost or behind the table."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

import structlog
from redis import RedisError

from schemas.times import format_time, parse_time
from worker.domain.fold import NEVER
from worker.domain.rows import BOOKINGS, EVENTS, Applied, Ends
from worker.read_model.write_batch import Entries, Write
from worker.read_model.writer import Claim, Fenced, NeedsRepair, PartitionWriter, ReadModelError
from worker.stream.booking_store import Bookings
from worker.stream.device_estimates import DeviceEstimates
from worker.stream.projection import surplus_devices
from worker.stream.resources import Resources
from worker.stream.retry import until_done

log = structlog.get_logger(__name__)


#: Sources whose estimates a heartbeat writes: about a millisecond of the server's time.
_ESTIMATES_AT_ONCE = 200


class TopicEnd(NamedTuple):
    """Where a topic of a partition ends, as last confirmed by Kafka."""

    stable: int
    """The last stable offset."""
    held: int
    """Offsets after it, which open transactions hold."""
    age_ms: int
    """How long ago Kafka confirmed it."""
    unreadable: int | None
    """The offset of a record batch that cannot be read, at which the partition stops; None if there is none."""


class Projected(NamedTuple):
    """What Redis surely holds of a partition."""

    bookings_offset: int = 0
    """Booking records before this offset are projected."""
    matches_table: bool = False
    """Whether Redis holds exactly the states of the table, but for batches that are not written yet."""


class BatchWrite(NamedTuple):
    """What a batch changes in Redis."""

    write: Write
    applied: Applied
    """How far the topics are folded with this batch."""
    repairs: int
    """How many repairs were before it; a later one projects the batch from the table."""


class ReadModels:
    """Writes the read models of a partition, and tracks what they hold."""

    def __init__(
        self, number: int, resources: Resources, bookings: Bookings, generation: str, estimates: DeviceEstimates
    ) -> None:
        self.is_live = False
        """Whether the partition is claimed and its read models need no repair."""
        self.projected = Projected()
        self.batch_lock = asyncio.Lock()
        """Held from the beginning of a batch until it is in the table, so that a repair finds all of a batch or nothing."""
        self._number = number
        self._bookings = bookings
        self._estimates = estimates
        self._metrics = resources.metrics
        self._timeout = resources.settings.session_timeout.total_seconds()
        self._writer = PartitionWriter(resources.redis, resources.namespace, number, generation)
        self._applied = Applied()
        """How far the topics are folded."""
        self.fresh_at: float | None = None
        """When Redis was last known to hold everything that Kafka had, in `time.monotonic`; None: not known."""
        self._answered_at = 0.0
        self._repairs = 0

    def completed(self, at: float) -> None:
        """Notes a time of `time.monotonic` at which everything that Kafka had is written now, if Redis still has it."""
        if self.is_live:
            self.fresh_at = max(min(at, self._answered_at), self.fresh_at or 0.0)

    def begin(self, entries: Entries, applied: Applied) -> BatchWrite:
        """The write of a batch that was folded while `batch_lock` was held.

        Args:
            entries: what it changes.
            applied: how far its topic is folded with it.
        """
        self._applied = self._applied.merged(applied)
        return BatchWrite(Write(entries, _watermark(self._applied)), self._applied, self._repairs)

    async def take_ownership(self, committed: Ends) -> None:
        """Claims the partition in Redis; repairs the read models if they are missing or behind the committed offsets."""
        asked_at = 0.0

        async def attempt() -> Claim:
            nonlocal asked_at
            asked_at = monotonic()
            return await self._writer.claim()

        claim = await until_done("redis", attempt, partition=self._number)
        # of the question: this process may have been stopped before it read the answer
        self.fresh_at = asked_at - claim.fresh_age_ms / 1000 if claim.fresh_age_ms >= 0 else None
        ends = claim.events_offset, claim.bookings_offset
        claimed = [parse_time(time) if time else NEVER for time in (claim.events_time, claim.bookings_time)]
        # the table has newer times than a flushed Redis, and Redis may have newer times than the table
        times = map(max, self._bookings.applied.times, claimed)
        if claim.is_complete and _reaches(ends, committed):
            self._applied = Applied(*ends, *times)
            self.projected = Projected(ends[BOOKINGS], _reaches(ends, self._bookings.redelivered))
            # another claim is found by the first write or heartbeat; keys that are left are unlinked by the next owner
            with suppress(ReadModelError):
                await until_done("redis", self._writer.unlink_retired, partition=self._number)
                await until_done("redis", self._remove_left_devices, partition=self._number)
                stored = await until_done("redis", self._writer.estimates, partition=self._number)
                self._estimates.load(stored, self._bookings.devices.newest().__contains__)
            self.is_live = True
        else:
            self._applied = Applied(*committed, *times)
            await self.repair()

    async def _remove_left_devices(self) -> None:
        """Removes sources that an owner dropped from its table, and died before it wrote that here."""
        devices = self._bookings.devices
        if devices.is_full:
            await self._writer.apply(Write(surplus_devices(devices, await self._writer.sources())))

    async def write(self, batch: BatchWrite) -> None:
        """Writes a batch that is in the table; if Redis refuses it, repairs everything."""
        if batch.repairs != self._repairs:
            return  # a repair since then has projected it from the table
        try:
            begun = monotonic()
            await until_done("redis", lambda: self._writer.apply(batch.write), partition=self._number)
            self._metrics.observe_round_trip("redis", monotonic() - begun)
            ends = batch.applied.ends
            self.is_live = True
            matches_table = self.projected.matches_table or _reaches(ends, self._bookings.redelivered)
            self.projected = Projected(ends[BOOKINGS], matches_table)
        except NeedsRepair as error:
            log.warning("repairing", partition=self._number, reason=str(error))
            await self.repair()
        except Fenced:
            await self.reclaim()

    async def heartbeat(self, ends: Mapping[str, TopicEnd], fields: Mapping[str, Any]) -> Callable[[], Awaitable[None]] | None:
        """Writes the heartbeat: the ends of the topics by name, and further fields of the watermark.

        Returns the task that is needed if it was refused.
        """
        was_live = self.is_live
        written = dict(fields)
        for topic, end in ends.items():
            unreadable = "" if end.unreadable is None else end.unreadable
            written |= {f"{topic}.end": end.stable, f"{topic}.held": end.held, f"{topic}.unreadable": unreadable}
        asked_at = monotonic()
        ages = {topic: end.age_ms for topic, end in ends.items()}
        estimates = self._estimates.take_changed(_ESTIMATES_AT_ONCE) if self.is_live else []
        try:
            await self._writer.heartbeat(written, ages, self.fresh_at, estimates)
            self._answered_at = asked_at
        except RedisError:
            self._estimates.put_back(estimates)
            raise
        except ReadModelError as error:
            if not was_live:
                return None  # a claim or repair is under way, and finds the same
            log.warning("heartbeat refused", partition=self._number, reason=str(error))
            self.is_live = False
            return self.reclaim if isinstance(error, Fenced) else self._restore
        return None

    async def _restore(self) -> None:
        # a write may have found and repaired the same first
        if not self.is_live:
            await self.repair()

    async def reclaim(self) -> None:
        """Another worker has claimed the partition. Waits for Kafka to revoke it; if it does not, claims it again."""
        self.is_live = False
        log.warning("fenced", partition=self._number)
        await asyncio.sleep(2 * self._timeout)
        await self.repair()

    async def repair(self) -> None:
        """Projects the whole table under new keys, then switches readers to them."""
        self.is_live = False
        async with self.batch_lock:
            while not await self._repair_once():
                pass
            self._estimates.clear()
            self._repairs += 1
            self.is_live = True
            self.projected = Projected(self._applied.ends[BOOKINGS], matches_table=True)
        self._metrics.count_repair()
        log.info("repaired", partition=self._number)

    async def _repair_once(self) -> bool:
        """Returns whether the repair was completed, without another claim or a loss of data meanwhile."""
        try:
            await until_done(
                "redis",
                lambda: self._writer.repair(self._bookings.project_all(), _watermark(self._applied)),
                partition=self._number,
            )
        except NeedsRepair:
            return False
        except Fenced:
            await asyncio.sleep(1)
            return False
        return True


def _watermark(applied: Applied) -> dict[str, Any]:
    """The fields of the watermark that say how far the topics are projected."""
    fields: dict[str, Any] = {"events.offset": applied.events, "bookings.offset": applied.bookings}
    times = {"events.time": applied.events_time, "bookings.time": applied.bookings_time}
    return fields | {field: format_time(time) for field, time in times.items() if time != NEVER}


def _reaches(ends: Ends, goal: Ends) -> bool:
    return ends[EVENTS] >= goal[EVENTS] and ends[BOOKINGS] >= goal[BOOKINGS]
