"""The bookings of one partition: their rows in the tables, and a cache of the most recently used ones, decoded."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from time import monotonic
from types import MappingProxyType
from uuid import uuid4

from schemas.alerts import alert_id
from worker.domain.booking_state import NOWHERE, BookingState, Change, Place, apply_records
from worker.domain.devices import Devices, device_rows, devices_of
from worker.domain.erasures import Erasures, Marker, erasing_rows
from worker.domain.fold import NEVER
from worker.domain.rows import (
    APPLIED_SUFFIX,
    PARTITION_GROUP,
    PARTITION_SUFFIX,
    Applied,
    Ends,
    changed_rows,
    decode_applied,
    encode_applied,
    load,
    void_rows,
)
from worker.engine.progress import heartbeat
from worker.engine.table import SEPARATOR, Rows, Table
from worker.read_model.keys import LAYOUT_VERSION
from worker.read_model.write_batch import Entries
from worker.stream.decode_batch import DecodedBatch
from worker.stream.group import check_settings
from worker.stream.originals import NULL, KeptRecord, overtaken
from worker.stream.projection import past_alerts, project_all, project_devices
from worker.stream.resources import Resources
from worker.stream.retry import until_done

#: Bookings that are folded before other tasks get their turn.
_FOLDED_AT_ONCE = 500
#: Bookings of one part of a fill, between two batches: about 10 ms.
_FILLED_AT_ONCE = 100
#: Bookings whose entries are written together, when the whole partition is projected.
_PROJECTED_AT_ONCE = 200


class ChangedRows:
    """The rows of both tables that a batch changed, by booking, and those of its sources."""

    def __init__(self, devices: Rows = MappingProxyType({})) -> None:
        """
        Args:
            devices: rows of sources by suffix.
        """
        self.rows: dict[bytes, Rows] = {}
        self.booking_rows: dict[bytes, Rows] = {}
        self.devices = devices
        self.erasing: list[str] = []
        """Bookings that the batch erased; erased ones that are unknown now, or of which it changed a row that is void: rows of
        these are to leave."""

    def add(self, changes: Iterable[Change]) -> None:
        """Adds the rows of these changes; each booking may be added once."""
        for change in changes:
            group, (rows, reference) = change.state.booking_id.encode(), changed_rows(change)
            if rows:
                self.rows[group] = rows
            if reference is not None:
                self.booking_rows[group] = {b"": reference}
            state, before = change.state, change.before
            if state.erasure_horizon != NEVER:
                is_unknown_now = change.record is not None and state.booking is None
                # as of a late deletion, which moves the horizon of its session
                is_void = void_rows(state, [suffix for suffix, row in rows.items() if row is not None])
                if state.erasure_horizon > before.erasure_horizon or is_unknown_now or is_void:
                    self.erasing.append(state.booking_id)


class Bookings:
    """Folds batches into bookings and stores the changed rows."""

    def __init__(self, number: int, resources: Resources) -> None:
        self.redelivered: Ends = (0, 0)
        """Offsets below which records may have been applied before: a batch that begins below is a redelivery."""
        self.applied = Applied()
        """How far the topics are applied, as stored in the table."""
        self.generation = ""
        """A random id of this table, once it is open: a table that was created again has another one."""
        self._number = number
        self._resources = resources
        self._tables = (resources.attendance, resources.bookings)
        self._cache: dict[str, BookingState] = {}
        self._devices = Devices({})
        self._erasures = Erasures({}, b"")
        self.unfinished: list[str] = []
        """Erased bookings whose rows are to leave, once all that was applied before is emitted."""

    async def open(self) -> str:
        """Completes the recovery. Returns the partition's `generation`, which is created if the partition is new.

        Raises:
            SettingsConflict: the tables were made with other settings.
        """
        for table in self._tables:
            await self._until_done("changelog", table.rewrite_recovered)
        attendance, shaping = self._resources.attendance, self._resources.settings.shaping()
        (rows,) = attendance.rows(self._number, [PARTITION_GROUP])
        row = rows.get(PARTITION_SUFFIX)
        if row is None:
            row = json.dumps({"generation": uuid4().hex, "layout": LAYOUT_VERSION, "settings": shaping}).encode()
            await self._flush(attendance, {PARTITION_GROUP: {PARTITION_SUFFIX: row}})
        self._devices = Devices(devices_of(rows))
        if self._devices.left:
            await self._flush(attendance, {PARTITION_GROUP: device_rows(dict.fromkeys(self._devices.left))})
        self._erasures = Erasures(rows, self._resources.erase_key)
        self.unfinished = list(dict.fromkeys([*self._erasures.unfinished, *self._reappeared()]))
        self.applied = decode_applied(rows.get(APPLIED_SUFFIX))
        self.redelivered = self.applied.ends
        partition = json.loads(row)
        check_settings(partition["settings"], shaping)
        self.generation = str(partition["generation"])
        return self.generation

    def __contains__(self, booking_id: str) -> bool:
        """Whether the booking is cached; if so, it belongs to this partition."""
        return booking_id in self._cache

    def fold(
        self, batch: DecodedBatch, *, is_redelivery: bool, projected_offset: int, unchanged: list[str]
    ) -> Iterator[list[Change]]:
        """Folds a batch, some bookings at a time; yields the changes that have an effect.

        The arguments are those of `apply_records`.
        """
        rules, states = self._resources.rules, self._states([*batch.events, *batch.booking_records])
        events, booking_records = batch.events, batch.booking_records
        remaining = iter(states)
        while names := list(islice(remaining, _FOLDED_AT_ONCE)):
            records = [(states[name], events.get(name, ()), booking_records.get(name, ())) for name in names]
            yield apply_records(
                records, rules, is_redelivery=is_redelivery, projected_offset=projected_offset, unchanged=unchanged
            )

    @property
    def devices(self) -> Devices:
        """The sources, with the batches that were folded."""
        return self._devices

    async def store(self, changed: ChangedRows, applied: Applied, last_places: Mapping[str, Place]) -> list[KeptRecord]:
        """Writes changed rows: to each changelog, then to its table; ``attendance`` before ``bookings``.

        So the mask of alerts that a session ever opened is stored before the booking record that opened them.

        Args:
            changed: the rows.
            applied: how far the topics are applied with these rows.
            last_places: see `DecodedBatch.last_places`.

        Returns:
            The records to append again, see `originals.overtaken`.
        """
        applied = applied.merged(self.applied)
        # also if the newest event changes no row: readers see its time, which never goes back
        if changed.rows or changed.booking_rows or changed.devices or applied.times != self.applied.times:
            # first, so that rows are never stored without the offsets that cover them
            of_partition = {APPLIED_SUFFIX: encode_applied(applied), **changed.devices, **erasing_rows(changed.erasing)}
            await self._flush(self._resources.attendance, {PARTITION_GROUP: of_partition, **changed.rows})
            await self._flush(self._resources.bookings, changed.booking_rows)
            self.applied = applied
        return self.overtaken(last_places)

    def overtaken(self, last_places: Mapping[str, Place]) -> list[KeptRecord]:
        """The records to append again, see `originals.overtaken`."""
        rows = self._resources.bookings.get(self._number, [(name.encode(), b"") for name in last_places])
        kept = list(overtaken(last_places, rows))
        for name, place in last_places.items() if self._erasures else ():
            marker = self._erasures.marker(name)
            if marker is not None and marker.place[:2] > place[:2]:
                # of the record that made it unknown only the place is left
                kept.append(KeptRecord(name, marker.place, NULL))
        return kept

    def past_alerts(self, names: Collection[str]) -> list[bytes]:
        """The keys of the alerts of bookings that were open once and are not now."""
        return [
            alert_id(kind, state.booking_id, session).encode()
            for _, state in self._load(names)
            for kind, session in past_alerts(state)
        ]

    async def remove_erased(self, names: Collection[str]) -> None:
        """Removes the rows of erased bookings that their markers make void: from the changelogs, then from the tables.

        Args:
            names: bookings whose effects are emitted.
        """
        attendance, bookings = self._tables
        groups = [name.encode() for name in names]
        references = bookings.get(self._number, [(group, b"") for group in groups])
        markers: dict[bytes, bytes | None] = {}
        rows: dict[bytes, Rows] = {}
        unknown: dict[bytes, Rows] = {}
        stored = zip(groups, attendance.rows(self._number, groups), references, self._load(names), strict=True)
        for group, held, reference, (name, state) in stored:
            if state.erasure_horizon == NEVER:
                continue
            is_unknown = state.booking is None
            markers |= self._erasures.add(name, Marker(state.erasure_horizon, state.place if is_unknown else NOWHERE))
            if void := void_rows(state, held):
                rows[group] = dict.fromkeys(void)
            if is_unknown and reference is not None:
                unknown[group] = {b"": None}
        # before the rows that they make void are deleted
        await self._flush(attendance, {PARTITION_GROUP: markers} if markers else {})
        await self._flush(attendance, rows)
        await self._flush(bookings, unknown)
        await self._flush(attendance, {PARTITION_GROUP: erasing_rows(names, None)})
        for name in names:
            self._cache.pop(name, None)

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
        remaining = self._names()
        while names := list(islice(remaining, _PROJECTED_AT_ONCE)):
            entries = Entries()
            for _, state in self._load(names):
                project_all(state, entries)
            yield entries
            heartbeat()
            await asyncio.sleep(0)
        entries = Entries()
        project_devices(self._devices, entries)
        yield entries

    def parts(self) -> Iterator[Entries]:
        """The whole partition in parts, each as the tables hold it when it is taken; batches may be stored between two.

        Bookings that come meanwhile may be left out.
        """
        remaining = self._names_meanwhile()
        while names := list(islice(remaining, _FILLED_AT_ONCE)):
            entries = Entries()
            for _, state in self._load(names):
                project_all(state, entries, is_empty=False)
            yield entries
        entries = Entries()
        project_devices(self._devices, entries)
        yield entries

    async def rewrite(self) -> None:
        """Rewrites rows after foreign writes, most likely by a worker that had lost the partition."""
        client = self._resources.settings.kafka_client()
        for table in self._tables:
            if table.foreign_writes(self._number):
                await self._until_done("changelog", table.rewrite, client)

    def state(self, booking_id: str) -> BookingState:
        """The booking."""
        return self._states([booking_id])[booking_id]

    def _states(self, names: Collection[str]) -> dict[str, BookingState]:
        """The bookings, from the cache or from the tables."""
        cache = self._cache
        # removed and inserted again, so that the first of the cache is always the least recently used one
        states = {name: cache.pop(name) for name in names if name in cache}
        if len(states) < len(names):
            states.update(self._load([name for name in names if name not in states]))
        cache.update(states)
        for name in list(islice(cache, max(0, len(cache) - self._resources.cached_bookings))):
            del cache[name]
        return states

    def _load(self, names: Collection[str]) -> Iterator[tuple[str, BookingState]]:
        attendance, bookings, rules = self._resources.attendance, self._resources.bookings, self._resources.rules
        groups = [name.encode() for name in names]
        booking_rows = bookings.get(self._number, [(group, b"") for group in groups])
        for name, rows, reference in zip(names, attendance.rows(self._number, groups), booking_rows, strict=True):
            yield name, load(name, rows, reference, rules, self._erasures.marker(name))

    def _names_meanwhile(self) -> Iterator[str]:
        """Every booking, also while the tables are written; one may come twice."""
        attendance, bookings = (table.groups(self._number) for table in self._tables)
        yield from (group.decode() for group in attendance if group != PARTITION_GROUP)
        yield from (group.decode() for group in bookings)

    def _names(self) -> Iterator[str]:
        attendance, bookings = (table.groups(self._number) for table in self._tables)
        groups = {*attendance, *bookings} - {PARTITION_GROUP}
        return (group.decode() for group in groups)

    async def _flush(self, table: Table, changes: Mapping[bytes, Rows]) -> None:
        if changes:
            begun = monotonic()
            await self._until_done("changelog", table.flush, changes)
            self._resources.metrics.observe_round_trip("kafka", monotonic() - begun)

    async def _until_done(self, what: str, write: Callable[..., Awaitable[object]], *arguments: object) -> None:
        async def attempt() -> None:
            await self._resources.lease.hold()
            await write(self._resources.producer, self._number, *arguments)

        await until_done(what, attempt, partition=self._number)
