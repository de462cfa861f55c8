"""Writes one partition's read models in one namespace: batch by batch, and as a whole if they are lost or behind the table.

The live namespace is *repaired*: nothing is folded until it is whole again, since readers wait for it. A build beside it is
*filled* in parts, between two batches: the parts pass both stages of the partition as batches do, so that a part never undoes a
batch that was folded after it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any, NamedTuple

import structlog

from schemas.times import format_time, parse_time
from worker.domain.fold import NEVER
from worker.domain.rows import BOOKINGS, EVENTS, Applied, Ends
from worker.read_model.write_batch import Entries, EstimateChange, Write
from worker.read_model.writer import Claim, Dropped, Fenced, NeedsRepair, PartitionWriter, ReadModelError
from worker.stream.booking_store import Bookings
from worker.stream.device_estimates import DeviceEstimates
from worker.stream.projection import surplus_devices
from worker.stream.resources import Resources
from worker.stream.retry import until_done
from worker.stream.targets import Target, read_targets

log = structlog.get_logger(__name__)


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
    """Writes the read models of a partition in one namespace, and tracks what they hold.

    Args:
        bookings: are open.
        batch_lock: held from the beginning of a batch until it is in the table: a repair finds all of a batch, or nothing.
        target: the namespace.
    """

    def __init__(
        self,
        number: int,
        resources: Resources,
        bookings: Bookings,
        estimates: DeviceEstimates,
        batch_lock: asyncio.Lock,
        target: Target,
    ) -> None:
        self.target = target
        self.is_live = False
        """Whether the partition is claimed and its read models need no repair."""
        self.is_filling = False
        """Whether the parts of a build are being written."""
        self.projected = Projected()
        self._batch_lock = batch_lock
        self._number = number
        self._bookings = bookings
        self._estimates = estimates
        self._metrics = resources.metrics
        self._timeout = resources.settings.session_timeout.total_seconds()
        self._read_targets = lambda: read_targets(resources.settings, resources.redis)
        made = resources.core.make_commands
        self._writer = PartitionWriter(resources.redis, target.namespace, number, bookings.generation, made)
        self._fill_after = 0.0
        """When a build may be filled, in `time.monotonic`; infinite: it was dropped."""
        self._applied = Applied()
        """How far the topics are folded."""
        self._written = Applied()
        """How far they are written."""
        self.fresh_at: float | None = None
        """When Redis was last known to hold everything that Kafka had, in `time.monotonic`; None: not known."""
        self._answered_at = 0.0
        self._repairs = 0

    def completed(self, at: float) -> None:
        """Notes a time of `time.monotonic` at which everything that Kafka had is written now, if Redis still has it."""
        if self.is_live:
            self.fresh_at = max(min(at, self._answered_at), self.fresh_at or 0.0)

    @property
    def lacks_data(self) -> bool:
        """Whether this is the live namespace and was not filled."""
        return self.target.is_live and not self.is_live and not self.is_filling

    @property
    def needs_fill(self) -> bool:
        """Whether this is a build that is neither whole nor being filled."""
        return not (self.target.is_live or self.is_live or self.is_filling) and monotonic() >= self._fill_after

    async def read_handover(self) -> str:
        """The consumer group from which this namespace has still to take over what is sent to Kafka; empty: none."""
        return await until_done("redis", self._writer.read_handover, partition=self._number)

    async def end_handover(self) -> None:
        """All that the other group may not have sent is sent."""
        await until_done("redis", self._writer.end_handover, partition=self._number)

    def begin(self, entries: Entries, applied: Applied) -> BatchWrite:
        """The write of a batch that was folded while the batch lock was held.

        Args:
            entries: what it changes.
            applied: how far its topic is folded with it.
        """
        self._applied = self._applied.merged(applied)
        return BatchWrite(Write(entries, watermark_fields(self._applied)), self._applied, self._repairs)

    async def take_ownership(self, committed: Ends) -> None:
        """Claims the partition in Redis; repairs the read models if they are missing or behind the committed offsets.

        A build is not repaired: `needs_fill` says so.
        """
        asked_at = 0.0

        async def attempt() -> Claim:
            nonlocal asked_at
            asked_at = monotonic()
            return await self._writer.claim(self.target.build)

        try:
            claim = await until_done("redis", attempt, partition=self._number)
        except Dropped:
            self._fill_after = inf
            return
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
            return
        self._applied = Applied(*committed, *times)
        if self.target.is_live:
            await self.repair()

    async def _remove_left_devices(self) -> None:
        """Removes sources that an owner dropped from its table, and died before it wrote that here."""
        devices = self._bookings.devices
        if devices.is_full:
            await self._writer.apply(Write(surplus_devices(devices, await self._writer.sources())))

    async def write(self, batch: BatchWrite) -> None:
        """Writes a batch that is in the table; if Redis refuses it, repairs everything."""
        if batch.repairs != self._repairs or not (self.target.is_live or self.is_live or self.is_filling):
            return  # a repair since then has projected it from the table, or a fill will
        try:
            begun = monotonic()
            await until_done("redis", lambda: self._writer.apply(batch.write), partition=self._number)
            self._metrics.observe_round_trip("redis", monotonic() - begun)
            ends = batch.applied.ends
            self._written = self._written.merged(batch.applied)
            if self.is_filling:
                return
            self.is_live = True
            matches_table = self.projected.matches_table or _reaches(ends, self._bookings.redelivered)
            self.projected = Projected(ends[BOOKINGS], matches_table)
        except ReadModelError as error:
            if not self.target.is_live:
                self._lose(error)
            elif isinstance(error, Fenced):
                await self.reclaim()
            else:
                log.warning("repairing", partition=self._number, reason=str(error))
                await self.repair()

    async def heartbeat(
        self, fields: Mapping[str, Any], ages_ms: Mapping[str, int], estimates: Sequence[EstimateChange]
    ) -> Callable[[], Awaitable[None]] | None:
        """Writes the heartbeat; the arguments are those of `PartitionWriter.heartbeat`.

        Returns the task that is needed if it was refused.
        """
        was_live = self.is_live
        if not (self.target.is_live or was_live or self.is_filling):
            return None
        asked_at = monotonic()
        try:
            await self._writer.heartbeat(fields, ages_ms, self.fresh_at, estimates if was_live else ())
            self._answered_at = asked_at
        except ReadModelError as error:
            if not self.target.is_live:
                self._lose(error)
                return None
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

    async def begin_fill(self, applied: Applied) -> None:
        """Begins to fill a build: new keys, to which batches are written too from now on.

        Args:
            applied: how far the topics are folded with all batches that were emitted before.
        """
        self.is_live, self.projected = False, Projected()
        self._applied = self._written = applied.merged(self._applied)

        async def begin() -> None:
            await self._writer.claim(self.target.build)
            await self._writer.begin_repair()

        if await self._written_to_build(begin):
            self.is_filling = True
            log.info("filling", partition=self._number, namespace=self.target.namespace)

    async def fill(self, entries: Entries) -> None:
        """Writes a part of a build, as it was read from the table between the batches before and after it."""
        if self.is_filling:
            await self._written_to_build(partial(self._writer.apply, Write(entries)))

    async def end_fill(self) -> None:
        """All parts are written: the build is whole."""
        ending = partial(self._writer.end_repair, watermark_fields(self._written))
        if self.is_filling and await self._written_to_build(ending):
            self.is_filling, self.is_live = False, True
            self.projected = Projected(self._written.bookings, matches_table=True)
            self._estimates.take_all_again()
            log.info("filled", partition=self._number, namespace=self.target.namespace)

    async def _written_to_build(self, write: Callable[[], Awaitable[None]]) -> bool:
        """Writes to a build; False: it is lost."""
        try:
            await until_done("redis", write, partition=self._number)
        except ReadModelError as error:
            self._lose(error)
            return False
        return True

    def _lose(self, error: ReadModelError) -> None:
        """A build is not what this writer wrote, or is not its own any more: it is filled again, if it is still registered."""
        if self.is_live or self.is_filling:
            log.warning("build lost", partition=self._number, namespace=self.target.namespace, reason=str(error))
        self.is_live = self.is_filling = False
        # another owner: Kafka revokes the partition in this time
        wait = inf if isinstance(error, Dropped) else 2 * self._timeout if isinstance(error, Fenced) else 0.0
        self._fill_after = monotonic() + wait

    async def repair(self) -> None:
        """Projects the whole table under new keys, then switches readers to them."""
        self.is_live = False
        async with self._batch_lock:
            while self.target in await until_done("redis", self._read_targets, partition=self._number):
                if await self._repair_once():
                    break
            else:
                return  # another namespace became live: what becomes of this one follows from the next heartbeat
            self._estimates.clear()
            self._repairs += 1
            self.is_live = True
            self.projected = Projected(self._applied.ends[BOOKINGS], matches_table=True)
        self._metrics.count_repair()
        log.info("repaired", partition=self._number)

    async def _repair_once(self) -> bool:
        """Returns whether the repair was completed, without another claim or a loss of data meanwhile."""
        fields = watermark_fields(self._applied)
        try:
            await until_done("redis", lambda: self._writer.repair(self._bookings.project_all(), fields), partition=self._number)
        except NeedsRepair:
            return False
        except Fenced:
            await asyncio.sleep(1)
            return False
        return True


def watermark_fields(applied: Applied) -> dict[str, Any]:
    """The fields of the watermark that say how far the topics are projected."""
    fields: dict[str, Any] = {"events.offset": applied.events, "bookings.offset": applied.bookings}
    times = {"events.time": applied.events_time, "bookings.time": applied.bookings_time}
    return fields | {field: format_time(time) for field, time in times.items() if time != NEVER}


def _reaches(ends: Ends, goal: Ends) -> bool:
    return ends[EVENTS] >= goal[EVENTS] and ends[BOOKINGS] >= goal[BOOKINGS]
