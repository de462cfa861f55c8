"""The bookings of one partition: their rows in the tables, and the core that folds them."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from time import monotonic
from typing import Any
from uuid import uuid4

from worker.domain.booking_state import NOWHERE, BookingState, Place
from worker.domain.devices import Devices, device_rows, devices_of
from worker.domain.erasures import Erasures, Marker, erasing_rows
from worker.domain.fold import NEVER
from worker.domain.rows import APPLIED_SUFFIX, PARTITION_GROUP, PARTITION_SUFFIX, Applied, Ends, load, void_rows
from worker.engine.partition_appender import Group
from worker.engine.progress import heartbeat
from worker.engine.table import SEPARATOR, Rows, Table, records_of
from worker.read_model.keys import LAYOUT_VERSION
from worker.read_model.write_batch import Entries
from worker.stream.core import Changes, CoreOptions, StoredBooking
from worker.stream.decode_batch import Contents
from worker.stream.group import check_settings
from worker.stream.originals import NULL, KeptRecord, overtaken
from worker.stream.projection import past_alerts, project_all
from worker.stream.resources import Resources

#: Bookings of one part of a fill, between two batches: about 10 ms.
_FILLED_AT_ONCE = 100
#: Bookings whose entries are written together, when the whole partition is projected.
_PROJECTED_AT_ONCE = 200


class Bookings:
    """Folds batches into bookings and stores the changed rows."""

    def __init__(self, number: int, resources: Resources) -> None:
        self.redelivered: Ends = (0, 0)
        """Offsets below which records may have been applied before: a batch that begins below is a redelivery."""
        self.applied = Applied()
        """How far the topics are applied, as stored in the table."""
        self.generation = ""
        """A random id of this table, once it is open: a table that was created again has another one."""
        self.devices = Devices({})
        """The sources, with the batches that were folded."""
        self._number = number
        self._resources = resources
        self._tables = resources.tables
        partitions, rules = resources.settings.partitions, resources.rules
        options = CoreOptions(number, partitions, rules, lambda: resources.cached_bookings, asyncio.to_thread)
        self._core = resources.core.create(options)
        self._erasures = Erasures({}, b"")
        self.unfinished: list[str] = []
        """Erased bookings whose rows are to leave, once all that was applied before is emitted."""

    async def open(self) -> None:
        """Completes the recovery. A new partition gets its `generation`.

        Raises:
            SettingsConflict: the tables were made with other settings.
        """
        for table in self._tables:
            await self._resources.until_written("changelog", self._number, table.rewrite_recovered, self._number)
        attendance, shaping = self._resources.attendance, self._resources.settings.shaping()
        (rows,) = attendance.rows(self._number, [PARTITION_GROUP])
        row = rows.get(PARTITION_SUFFIX)
        if row is None:
            row = json.dumps({"generation": uuid4().hex, "layout": LAYOUT_VERSION, "settings": shaping}).encode()
            await self._flush(attendance, {PARTITION_GROUP: {PARTITION_SUFFIX: row}})
        self.devices = Devices(devices_of(rows))
        if self.devices.left:
            await self._flush(attendance, {PARTITION_GROUP: device_rows(dict.fromkeys(self.devices.left))})
        self._erasures = Erasures(rows, self._resources.erase_key)
        self.unfinished = list(dict.fromkeys([*self._erasures.unfinished, *self._reappeared()]))
        self.applied = Applied.decode(rows.get(APPLIED_SUFFIX))
        self.redelivered = self.applied.ends
        partition = json.loads(row)
        check_settings(partition["settings"], shaping)
        self.generation = str(partition["generation"])

    async def decode(self, topic: int, records: Sequence[Any]) -> Contents:
        """Begins a batch, see `Core.decode`."""
        return await self._core.decode(topic, records)

    async def fold(self, contents: Contents, *, is_redelivery: bool, is_known: bool, projected_offset: int) -> Changes:
        """Folds the batch that was decoded last; the arguments are those of `Core.apply`."""
        if contents.missing:
            self._core.load(self._stored(contents.missing))
        return await self._core.apply(is_redelivery=is_redelivery, is_known=is_known, projected_offset=projected_offset)

    async def store(
        self, changes: Changes, devices: Rows, applied: Applied, last_places: Mapping[str, Place]
    ) -> list[KeptRecord]:
        """Writes changed rows: to each changelog, then to its table; ``attendance`` before ``bookings``.

        So the mask of alerts that a session ever opened is stored before the booking record that opened them.

        Args:
            changes: of the batch.
            devices: the changed rows of sources, by suffix.
            applied: how far the topics are applied with these rows.
            last_places: see `Contents.last_places`.

        Returns:
            The records to append again, see `originals.overtaken`.
        """
        applied = applied.merged(self.applied)
        # also if the newest event changes no row: readers see its time, which never goes back
        if changes.rows or changes.booking_rows or devices or applied.times != self.applied.times:
            of_partition = {APPLIED_SUFFIX: applied.encode(), **devices, **erasing_rows(changes.erasing)}
            # first, so that rows are never stored without the offsets that cover them
            groups = [records_of(PARTITION_GROUP, of_partition), *changes.rows]
            await self._flush_groups(self._resources.attendance, groups)
            await self._flush_groups(self._resources.bookings, changes.booking_rows)
            self.applied = applied
        return self.overtaken(last_places, changes.booking_rows)

    def overtaken(self, last_places: Mapping[str, Place], written: Sequence[Group] = ()) -> list[KeptRecord]:
        """The records to append again, see `originals.overtaken`.

        Args:
            last_places: see `Contents.last_places`.
            written: rows of ``bookings`` that were written since; the others are read.
        """
        rows = dict(chain.from_iterable(written))
        others = [(group, b"") for name in last_places if (group := name.encode()) + SEPARATOR not in rows]
        for (group, _), row in zip(others, self._resources.bookings.get(self._number, others), strict=True):
            rows[group + SEPARATOR] = row
        kept = list(overtaken(last_places, (rows[name.encode() + SEPARATOR] for name in last_places)))
        for name, place in last_places.items() if self._erasures else ():
            marker = self._erasures.marker(name)
            if marker is not None and marker.place[:2] > place[:2]:
                # of the record that made it unknown only the place is left
                kept.append(KeptRecord(name, marker.place, NULL))
        return kept

    def past_alerts(self, names: Collection[str]) -> list[bytes]:
        """The keys of the alerts of bookings that were open once and are not now."""
        return [key for state in self._load(names) for key in past_alerts(state)]

    async def remove_erased(self, names: Collection[str]) -> None:
        """Removes the rows of erased bookings that their markers make void: from the changelogs, then from the tables.

        Args:
            names: bookings whose effects are emitted.
        """
        attendance, bookings = self._tables
        markers: dict[bytes, bytes | None] = {}
        rows: dict[bytes, Rows] = {}
        unknown: dict[bytes, Rows] = {}
        for name, held, reference, marker in self._stored(names):
            state = load(name, held, reference, self._resources.rules, marker)
            if state.erasure_horizon == NEVER:
                continue
            is_unknown = state.booking is None
            markers |= self._erasures.add(name, Marker(state.erasure_horizon, state.place if is_unknown else NOWHERE))
            rows[name.encode()] = dict.fromkeys(void_rows(state, held))
            if is_unknown and reference is not None:
                unknown[name.encode()] = {b"": None}
        # before the rows that they make void are deleted
        await self._flush(attendance, {PARTITION_GROUP: markers} if markers else {})
        await self._flush(attendance, rows)
        await self._flush(bookings, unknown)
        await self._flush(attendance, {PARTITION_GROUP: erasing_rows(names, None)})
        self._core.forget(names)

    def erased(self) -> Iterator[str]:
        """Every erased booking that has rows."""
        return (name for name in self._names() if self._erasures.marker(name) is not None) if self._erasures else iter(())

    def _reappeared(self) -> Iterator[str]:
        """Erased bookings whose rows a recovery brought back: it merges records, and does not delete."""
        for table in self._tables:
            deleted = table.take_deleted(self._number)
            for group in {key.partition(SEPARATOR)[0] for key in deleted} if self._erasures else ():
                if group != PARTITION_GROUP and self._erasures.marker(group.decode()) is not None:
                    yield group.decode()

    async def project_all(self) -> AsyncIterator[Entries]:
        """Projects the whole partition from the tables, some bookings at a time."""
        for entries in self._projected(self._names(), _PROJECTED_AT_ONCE, is_empty=True):
            yield entries
            heartbeat()
            await asyncio.sleep(0)

    def parts(self) -> Iterator[Entries]:
        """The whole partition in parts, each as the tables hold it when it is taken; batches may be stored between two.

        Bookings that come meanwhile may be left out.
        """
        return self._projected(self._names_meanwhile(), _FILLED_AT_ONCE, is_empty=False)

    def _projected(self, names: Iterator[str], at_once: int, *, is_empty: bool) -> Iterator[Entries]:
        """All of these bookings, some at a time, then the sources; see `projection.project_all`."""
        while some := list(islice(names, at_once)):
            entries = Entries()
            for state in self._load(some):
                project_all(state, entries, is_empty=is_empty)
            yield entries
        entries = Entries()
        for source, newest in self.devices.newest().items():
            entries.device(source, newest)
        yield entries

    async def rewrite(self) -> None:
        """Rewrites rows after foreign writes, most likely by a worker that had lost the partition."""
        client = self._resources.settings.kafka_client()
        for table in self._tables:
            if table.foreign_writes(self._number):
                await self._resources.until_written("changelog", self._number, table.rewrite, self._number, client)

    def state(self, booking_id: str) -> BookingState:
        """The booking, as the tables hold it."""
        (state,) = self._load([booking_id])
        return state

    def _load(self, names: Collection[str]) -> Iterator[BookingState]:
        for name, rows, reference, marker in self._stored(names):
            yield load(name, rows, reference, self._resources.rules, marker)

    def _stored(self, names: Collection[str]) -> Iterator[StoredBooking]:
        attendance, bookings = self._tables
        groups = [name.encode() for name in names]
        references = bookings.get(self._number, [(group, b"") for group in groups])
        for name, rows, reference in zip(names, attendance.rows(self._number, groups), references, strict=True):
            yield StoredBooking(name, rows, reference, self._erasures.marker(name))

    def _names_meanwhile(self) -> Iterator[str]:
        """Every booking, also while the tables are written; one may come twice."""
        groups = chain.from_iterable([table.groups(self._number) for table in self._tables])
        return (group.decode() for group in groups if group != PARTITION_GROUP)

    def _names(self) -> Iterator[str]:
        return iter({*self._names_meanwhile()})

    async def _flush(self, table: Table, changes: Mapping[bytes, Rows]) -> None:
        await self._flush_groups(table, [records_of(group, rows) for group, rows in changes.items() if rows])

    async def _flush_groups(self, table: Table, groups: Sequence[Group]) -> None:
        if groups:
            begun = monotonic()
            await self._resources.until_written("changelog", self._number, table.flush_groups, self._number, groups)
            self._resources.metrics.observe_round_trip("kafka", monotonic() - begun)
