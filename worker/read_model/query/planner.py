"""Plans a query: selects the positions of a page from the indexes of all partitions, then reads their documents.

Each partition returns its share of the page, from an index in the requested order or from one with few matching entries (the
scan script chooses). Partitions whose share ends before the page does are called again. If no index has the order, the result
is grouped by the values of its first field (booking, session, number, status): small groups are read and sorted in this
process, and each large group is selected by the remaining fields. A field that the filter pins to one value is dropped from
the order.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from schemas.attendance import Attendance, guid_bytes
from schemas.query.request import Filter, Names, Position, order_of, position_of
from worker.read_model.errors import TooMuchWork
from worker.read_model.keys import DOC_SHIFT
from worker.read_model.lua_scripts import COUNT, NUMBERS, SCAN_BY
from worker.read_model.query.index_scan import (
    AFTER_ALL,
    BEFORE_ALL,
    ID,
    NUMBER,
    SCANS,
    STATUS,
    Key,
    Order,
    Scan,
    complete_keys,
    encode_place,
    is_before,
    pin,
    score_ranges,
    split_filter,
    weight,
)
from worker.redis.scripts import Script

#: Attendances that are read and sorted in this process at once.
_AT_ONCE = 200
_BY_NUMBER = SCANS[NUMBER, ID]
#: Cost limit of a partition in one call, in units of 1 to 3 µs of the server's time; a step that was started is finished.
BUDGET = 500
#: Cost limit of a query, in the same units.
MOST_WORK = 2_000_000


class Source(Protocol):
    """What a planner reads from; `NamespaceView` implements it. A call to several partitions is one round trip."""

    partitions: int

    async def ask(
        self,
        script: Script,
        numbers: Iterable[int],
        arguments: Sequence[Any],
        extra: Mapping[int, Sequence[Any]] | None = None,
        weight: int = 0,
    ) -> dict[int, list[Any]]:
        """The answer of a script for each partition.

        Args:
            extra: further arguments of each partition.
            weight: see `worker.read_model.query.index_scan.weight`.
        """

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each. Those that no longer exist are omitted."""

    async def fetch_by_keys(self, filter_: Filter) -> list[Attendance]:
        """Every attendance of the bookings, otherwise of the ids, that a filter names."""


class Planner:
    """Plans one query. Caches the attendances that it reads for sorting."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._partition_of: dict[bytes, int] = {}
        self._attendances: dict[bytes, Attendance] = {}
        self._partition_calls = 0

    async def read(self, positions: Iterable[Position]) -> list[Attendance | None]:
        """The attendances at positions from `select`; None for those that no longer exist."""
        ids = [guid_bytes(position.id) for position in positions]
        missing = {identity: self._partition_of[identity] for identity in ids if identity not in self._attendances}
        if missing:
            self._attendances.update(await self._source.documents(missing))
        return [self._attendances.get(identity) for identity in ids]

    async def select(self, filter_: Filter, order: Order, after: Position | None, limit: int) -> list[Position]:
        """The first ``limit`` positions after a position, in order; fewer only if there are no more.

        Excluded values of the filter may be ignored: the caller filters the attendances, and selects more if it needs to.
        """
        if filter_.is_empty or limit <= 0:
            return []
        if filter_.ids.allowed is not None or filter_.bookings.allowed is not None:
            return _positions(await self._fetch_by_keys(filter_), order, after)[:limit]
        first = order[0]
        if len({each.descending for each in order}) == 1:
            scan = SCANS.get(tuple(each.field for each in order))
            if scan is not None:
                edge = None if after is None else scan.key(after)
                keys = await self._scan(scan, filter_, first.descending, edge, limit)
                return [scan.position(key) for key in keys]
        if first.field is STATUS:
            statuses = sorted(map(str, filter_.statuses), reverse=first.descending)
            groups = [(each, _AT_ONCE + 1) for each in statuses if after is None or not is_before(each, after.values[0], first)]
            return await self._select_groups(filter_, order, after, limit, groups)
        if first.field is NUMBER:
            return await self._select_by_number(filter_, order, after, limit)
        return await self._select_by_name(filter_, order, after, limit)

    async def _fetch_by_keys(self, filter_: Filter) -> list[Attendance]:
        matching = [each for each in await self._source.fetch_by_keys(filter_) if filter_.matches(each)]
        self._attendances.update((guid_bytes(each["id"]), each) for each in matching)
        return matching

    async def _scan(self, scan: Scan, filter_: Filter, descending: bool, after: Key | None, limit: int) -> list[Key]:
        """The first ``limit`` keys after a key."""
        keys: list[Key] = []
        for part in split_filter(filter_):
            keys += await self._scan_part(scan, part, descending, after, limit)
        return sorted(keys, reverse=descending)[:limit]

    async def _scan_part(self, scan: Scan, filter_: Filter, descending: bool, after: Key | None, limit: int) -> list[Key]:
        count = self._source.partitions
        sessions = None if filter_.sessions.allowed is None else sorted(filter_.sessions.allowed)
        direction = -1 if descending else 1
        denied = list(filter_.sessions.denied) if scan.name == "session" else []
        names = orjson.dumps(sessions), orjson.dumps(denied)
        arguments = scan.name, direction, self._share(limit), BUDGET, orjson.dumps(score_ranges(filter_)), *names, DOC_SHIFT
        # partitions that have more keys, with the place to continue after
        open_: dict[int, Key | None] = dict.fromkeys(range(count), after)
        merged: list[Key] = []
        owners: dict[Key, int] = {}
        waiting = set(open_)
        while waiting:
            places = {number: (encode_place(scan, open_[number], filter_, number, count),) for number in waiting}
            for number, segments in (await self._ask(SCAN_BY[scan.name], arguments, places, filter_)).items():
                keys, bound = complete_keys(scan, segments, open_[number], descending)
                # while a booking becomes large, its attendances are in its record and in the index
                keys = sorted(set(keys), reverse=descending)[:limit]
                owners.update(dict.fromkeys(keys, number))
                merged += keys
                open_[number] = bound
                if bound is None:
                    del open_[number]
            merged = sorted(merged, reverse=descending)[:limit]
            is_short = len(merged) < limit
            waiting = {
                number
                for number, bound in open_.items()
                if is_short or (bound > merged[-1] if descending else bound < merged[-1])
            }
        self._partition_of.update((scan.identity(key), owners[key]) for key in merged)
        return merged

    async def _select_by_name(self, filter_: Filter, order: Order, after: Position | None, limit: int) -> list[Position]:
        """By booking or session, then by other fields. Sorts the attendances of a name here, or selects them as a group."""
        field, descending = order[0]
        scan, first_id, last_id = SCANS[field, ID], *((AFTER_ALL, BEFORE_ALL) if descending else (BEFORE_ALL, AFTER_ALL))
        place = None if after is None else str(after.values[0]).encode() + b"\0" + first_id
        positions: list[Position] = []
        is_last = False
        while not is_last and len(positions) < limit:
            take = max(limit - len(positions), _AT_ONCE // 2) + 1
            keys = await self._scan(scan, filter_, descending, place, take)
            is_last = len(keys) < take
            if not is_last:
                # the last name may have more keys than were read
                last = keys[-1][:-16]
                complete = [key for key in keys if key[:-16] != last]
                if not complete:
                    name = last[:-1].decode()
                    positions += await self._select_groups(
                        filter_, order, after, limit - len(positions), [(name, _AT_ONCE + 1)]
                    )
                    place = last + last_id
                    continue
                keys = complete
            if keys:
                attendances = await self.read(map(scan.position, keys))
                positions += _positions((each for each in attendances if each is not None), order, after)
                place = keys[-1][:-16] + last_id
        return positions[:limit]

    async def _select_by_number(self, filter_: Filter, order: Order, after: Position | None, limit: int) -> list[Position]:
        """By number, then by fields for which there is no index."""
        positions: list[Position] = []
        start = None if after is None else int(after.values[0])
        inclusive, more = True, True
        while more and len(positions) < limit:
            groups, start, more = await self._next_numbers(
                filter_, order[0].descending, start, inclusive, limit - len(positions)
            )
            inclusive = False
            positions += await self._select_groups(filter_, order, after, limit - len(positions), groups)
        return positions

    async def _select_groups(
        self, filter_: Filter, order: Order, after: Position | None, limit: int, groups: Sequence[tuple[Any, int]]
    ) -> list[Position]:
        """The first ``limit`` positions of groups: values of the first field, each with its maximum number of attendances."""
        positions: list[Position] = []
        field, at = order[0].field, 0
        while at < len(groups) and len(positions) < limit:
            value, size = groups[at]
            values, at = [value], at + 1
            while at < len(groups) and size + groups[at][1] <= _AT_ONCE:
                values.append(groups[at][0])
                size += groups[at][1]
                at += 1
            part = pin(filter_, field, values)
            if size <= _AT_ONCE:
                keys = await self._scan(_BY_NUMBER, part, False, None, 2 * _AT_ONCE)
                attendances = await self.read(map(_BY_NUMBER.position, keys))
                # an attendance that changed after the scan may belong to another group now
                positions += _positions((each for each in attendances if each is not None and part.matches(each)), order, after)
                continue
            inner_after = None
            if after is not None and after.values[0] == value:
                inner_after = Position(after.values[1:], after.id)
            inner = await self.select(part, order[1:], inner_after, limit - len(positions))
            positions += [Position((value, *each.values), each.id) for each in inner]
        return positions[:limit]

    async def _next_numbers(
        self, filter_: Filter, descending: bool, start: int | None, inclusive: bool, limit: int
    ) -> tuple[list[tuple[int, int]], int | None, bool]:
        """The next numbers with their counts, the number to continue after, and whether there may be more."""
        place = orjson.dumps(start), int(inclusive)
        sizes: Counter[int] = Counter()
        bounds = []
        for part in split_filter(filter_):
            sessions = None if part.sessions.allowed is None else list(part.sessions.allowed)
            entries = orjson.dumps(score_ranges(part)), orjson.dumps(sessions)
            arguments = (-1 if descending else 1, self._share(limit), BUDGET, *place, *entries)
            all_partitions: dict[int, Sequence[Any]] = dict.fromkeys(range(self._source.partitions), ())
            for end, *counts in (await self._ask(NUMBERS, arguments, all_partitions, part)).values():
                if end != b"":
                    bounds.append(end)
                for number, size in zip(counts[::2], counts[1::2], strict=True):
                    sizes[number] += size
        bound = (max if descending else min)(bounds, default=None)
        # after the bound, some partitions have not returned their counts
        complete = sizes if bound is None else [each for each in sizes if (each >= bound if descending else each <= bound)]
        return [(each, sizes[each]) for each in sorted(complete, reverse=descending)], bound, bound is not None

    async def _ask(
        self, script: Script, arguments: Sequence[Any], extra: Mapping[int, Sequence[Any]], filter_: Filter
    ) -> dict[int, list[Any]]:
        self._partition_calls += len(extra)
        if self._partition_calls * BUDGET > MOST_WORK:
            raise TooMuchWork(
                "too many attendances to scan in this order: filter by a booking or a session, or sort by one field"
            )
        return await self._source.ask(script, extra, arguments, extra, weight(filter_))

    def _share(self, limit: int) -> int:
        return share(limit, self._source.partitions)


def share(limit: int, partitions: int) -> int:
    """How many items of a page are requested from each partition: the mean plus 2.5 sigma, so that a second call is rare."""
    mean = limit / partitions
    return min(limit, math.ceil(mean + 2.5 * math.sqrt(mean)) + 1)


async def count(source: Source, filter_: Filter) -> int:
    """The number of attendances that match a filter."""
    if filter_.is_empty:
        return 0
    if filter_.ids.allowed is not None or filter_.bookings.allowed is not None:
        return sum(map(filter_.matches, await source.fetch_by_keys(filter_)))
    total = await _count_entries(source, filter_._replace(sessions=Names(filter_.sessions.allowed)))
    if filter_.sessions.denied:
        total -= await _count_entries(source, filter_._replace(sessions=Names(filter_.sessions.denied)))
    # subtract those that the filter excludes by id or booking
    without_names = filter_._replace(ids=Names(), bookings=Names())
    excluded: set[str] = set()
    for denied in (Filter(ids=Names(filter_.ids.denied)), Filter(bookings=Names(filter_.bookings.denied))):
        if not denied.is_empty:
            excluded.update(each["id"] for each in await source.fetch_by_keys(denied) if without_names.matches(each))
    return total - len(excluded)


async def _count_entries(source: Source, filter_: Filter) -> int:
    """The number of matching index entries; ignores excluded ids and bookings."""
    total = 0
    for part in split_filter(filter_):
        allowed = part.sessions.allowed
        arguments = orjson.dumps(score_ranges(part)), orjson.dumps(None if allowed is None else list(allowed))
        answers = await source.ask(COUNT, range(source.partitions), arguments, weight=weight(part))
        total += sum(number for (number,) in answers.values())
    return total


def _positions(attendances: Iterable[Attendance], order: Order, after: Position | None) -> list[Position]:
    """The positions of attendances in an order, sorted; only those after ``after``."""
    key = order_of(order)
    positions = [position_of(each, order) for each in attendances]
    if after is not None:
        edge = key(after)
        positions = [each for each in positions if key(each) > edge]
    return sorted(positions, key=key)
