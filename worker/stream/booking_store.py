"""The bookings of one partition: their rows in the tables, and the most recently used ones decoded."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from uuid import uuid4

from worker.domain.booking_state import BookingState, Change, Place, apply
from worker.domain.rows import (
    APPLIED_SUFFIX,
    PARTITION_GROUP,
    PARTITION_SUFFIX,
    Applied,
    changed_rows,
    decode_applied,
    encode_applied,
    load,
)
from worker.engine.progress import moved
from worker.engine.table import Rows, Table
from worker.read_model.keys import LAYOUT_VERSION
from worker.read_model.writer import Write
from worker.stream.decode_batch import Intake
from worker.stream.group import check_settings
from worker.stream.originals import KeptRecord, overtaken
from worker.stream.projection import whole
from worker.stream.resources import Resources
from worker.stream.retry import until_done

#: Bookings that are folded before other tasks have their turn.
_FOLDED_AT_ONCE = 500
#: Bookings of a write, when everything is written.
_AT_ONCE = 200

Ends = tuple[int, int]
"""Offsets in the events and the bookings topic."""


class Changed:
    """Rows of both tables that a batch changed, by booking."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Rows] = {}
        self.references: dict[bytes, Rows] = {}

    def add(self, changes: Iterable[Change]) -> None:
        """Adds those of bookings that were not added yet."""
        for change in changes:
            group, (rows, reference) = change.state.booking_id.encode(), changed_rows(change)
            if rows:
                self.rows[group] = rows
            if reference is not None:
                self.references[group] = {b"": reference}


class Bookings:
    """Folds batches into bookings and stores them."""

    def __init__(self, number: int, resources: Resources) -> None:
        self.redelivered: Ends = (0, 0)
        """Offsets below which an earlier owner may have applied records: they are redelivered."""
        self.applied = Applied()
        """What the table says was applied."""
        self._number = number
        self._resources = resources
        self._tables = (resources.attendance, resources.bookings)
        self._cache: dict[str, BookingState] = {}

    async def open(self) -> str:
        """Completes the recovery; the partition's generation, made where it is new.

        Raises:
            SettingsConflict: other settings have shaped the tables.
        """
        for table in self._tables:
            await self._until_done("changelog", table.settle)
        attendance, shaping = self._resources.attendance, self._resources.settings.shaping()
        (rows,) = attendance.rows(self._number, [PARTITION_GROUP])
        row = rows.get(PARTITION_SUFFIX)
        if row is None:
            row = json.dumps({"generation": uuid4().hex, "layout": LAYOUT_VERSION, "settings": shaping}).encode()
            await self._flush(attendance, {PARTITION_GROUP: {PARTITION_SUFFIX: row}})
        self.applied = decode_applied(rows.get(APPLIED_SUFFIX))
        self.redelivered = self.applied.ends
        kept = json.loads(row)
        check_settings(kept["settings"], shaping)
        return str(kept["generation"])

    def __contains__(self, booking_id: str) -> bool:
        """Whether it is one of this partition that was used lately."""
        return booking_id in self._cache

    def fold(self, intake: Intake, *, again: bool, told: int) -> Iterator[list[Change]]:
        """Folds a batch, some bookings at a time, into those that it names; the changes that have an effect."""
        rules, states = self._resources.rules, self._states([*intake.events, *intake.references])
        events, references = intake.events, intake.references
        names = iter(states)
        while some := list(islice(names, _FOLDED_AT_ONCE)):
            records = [(states[name], events.get(name, ()), references.get(name, ())) for name in some]
            yield apply(records, rules, again=again, told=told)

    async def store(self, changed: Changed, applied: Applied) -> None:
        """Changelogs first, then the tables. Alerts that a session ever held open are stored before the booking record.

        Args:
            applied: what is applied with these changes.
        """
        applied = applied.merged(self.applied)
        # also where an event that counts for nothing is the newest: readers are shown its time, which never goes back
        if changed.rows or changed.references or applied.times != self.applied.times:
            # before the rows: whoever finds a row knows that what made it was applied
            row = {APPLIED_SUFFIX: encode_applied(applied)}
            await self._flush(self._resources.attendance, {PARTITION_GROUP: row, **changed.rows})
            await self._flush(self._resources.bookings, changed.references)
            self.applied = applied

    def overtaken(self, last_places: Mapping[str, Place]) -> Iterator[KeptRecord]:
        """Those that `originals.overtaken` finds in the table."""
        rows = self._resources.bookings.get(self._number, [(name.encode(), b"") for name in last_places])
        return overtaken(last_places, rows)

    async def everything(self) -> AsyncIterator[Write]:
        """All that readers see of the partition, some at a time, from what the tables hold."""
        names = self._names()
        while some := list(islice(names, _AT_ONCE)):
            write = Write()
            for _, state in self._load(some):
                whole(state, write)
            yield write
            moved()
            await asyncio.sleep(0)

    async def mend(self) -> None:
        """Writes rows again that somebody else wrote too, most likely a worker that had lost the partition."""
        client = self._resources.settings.kafka_client()
        for table in self._tables:
            if table.foreign(self._number):
                await self._until_done("changelog", table.mend, client)

    def state(self, booking_id: str) -> BookingState:
        """The booking."""
        return self._states([booking_id])[booking_id]

    def _states(self, names: Collection[str]) -> dict[str, BookingState]:
        """The bookings, those used lately from memory."""
        cache = self._cache
        # taken out and put in again, so that the first of the cache is always the one longest unused
        found = {name: cache.pop(name) for name in names if name in cache}
        if len(found) < len(names):
            found.update(self._load([name for name in names if name not in found]))
        cache.update(found)
        for name in list(islice(cache, max(0, len(cache) - self._resources.cached_bookings))):
            del cache[name]
        return found

    def _load(self, names: Collection[str]) -> Iterator[tuple[str, BookingState]]:
        attendance, bookings, rules = self._resources.attendance, self._resources.bookings, self._resources.rules
        groups = [name.encode() for name in names]
        references = bookings.get(self._number, [(group, b"") for group in groups])
        for name, rows, reference in zip(names, attendance.rows(self._number, groups), references, strict=True):
            yield name, load(name, rows, reference, rules)

    def _names(self) -> Iterator[str]:
        attendance, bookings = (table.groups(self._number) for table in self._tables)
        known = {*attendance, *bookings} - {PARTITION_GROUP}
        return (group.decode() for group in known)

    async def _flush(self, table: Table, changes: Mapping[bytes, Rows]) -> None:
        if changes:
            await self._until_done("changelog", table.flush, changes)

    async def _until_done(self, what: str, write: Callable[..., Awaitable[object]], *given: object) -> None:
        async def attempt() -> None:
            await self._resources.lease.hold()
            await write(self._resources.producer, self._number, *given)

        await until_done(what, attempt, partition=self._number)
