"""Finds a page's attendances by the indexes of all partitions: which of them, in which order; documents are asked for last.

Each partition answers about its share of a page from an index that is in the order asked for, or from one that holds few
enough (`scan.lua` decides); only partitions whose share ended before the page did are asked again. Where no index has the
order, it is cut into groups of one value of its first field (sessions, numbers, statuses), which are sorted here while they
are small, and are questions of their own where they are not. A field that the filter pins to one value orders nothing.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from schemas.attendance import Attendance, guid_bytes
from schemas.query.request import Filter, Names, Position, order_of, position_of
from worker.read_model.keys import DOC_SHIFT
from worker.read_model.partition_reader import too_much
from worker.read_model.query.index_scan import (
    BEHIND,
    FIRST,
    ID,
    NUMBER,
    SCANS,
    STATUS,
    Key,
    Order,
    Scan,
    complete,
    parts,
    passed,
    pin,
    place_behind,
    weight,
    windows,
)

#: Attendances that are read whole and sorted here.
_AT_ONCE = 200
_NUMBERED = SCANS[NUMBER, ID]
#: Units, of one to three microseconds of the server's time, that a partition spends on a call; it ends what it has begun.
BUDGET = 500
#: Units of one question. What needs more would come to nothing that others could wait for.
MOST_WORK = 2_000_000


class Source(Protocol):
    """Where a planner reads; one question to many partitions is one round trip."""

    partitions: int

    async def ask(
        self,
        script: str,
        where: Iterable[int],
        arguments: Sequence[Any],
        own: Mapping[int, Sequence[Any]] | None = None,
        weight: int = 0,
    ) -> dict[int, list[Any]]:
        """What a script answers for each partition, given arguments for all and each one's own.

        Args:
            weight: see `worker.read_model.query.index_scan.weight`.
        """

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each; those that are gone are left out."""

    async def direct(self, wanted: Filter) -> list[Attendance]:
        """Every attendance of the ids or bookings that a filter allows."""


class Planner:
    """One query's work; what it read stays at hand for the page."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._where: dict[bytes, int] = {}
        self._read: dict[bytes, Attendance] = {}
        self._looks = 0

    async def read(self, positions: Iterable[Position]) -> list[Attendance | None]:
        """The attendances at positions that `select` found; None for those that are gone."""
        ids = [guid_bytes(position.id) for position in positions]
        missing = {identity: self._where[identity] for identity in ids if identity not in self._read}
        if missing:
            self._read.update(await self._source.documents(missing))
        return [self._read.get(identity) for identity in ids]

    async def select(self, wanted: Filter, order: Order, after: Position | None, many: int) -> list[Position]:
        """The first so many positions behind one, in order; fewer only where there are no more.

        A filter's denied values are not looked at here: the caller drops what they concern, and asks for more.
        """
        if wanted.is_empty or many <= 0:
            return []
        if wanted.ids.allowed is not None or wanted.bookings.allowed is not None:
            return _sorted(await self._direct(wanted), order, after)[:many]
        first = order[0]
        if len({each.descending for each in order}) == 1:
            scan = SCANS.get(tuple(each.field for each in order))
            if scan is not None:
                edge = None if after is None else scan.key(after)
                keys = await self._scan(scan, wanted, first.descending, edge, many)
                return [scan.position(key) for key in keys]
        if first.field is STATUS:
            statuses = sorted(map(str, wanted.statuses), reverse=first.descending)
            groups = [(each, _AT_ONCE + 1) for each in statuses if after is None or not passed(each, after.values[0], first)]
            return await self._of_groups(wanted, order, after, many, groups)
        if first.field is NUMBER:
            return await self._by_number(wanted, order, after, many)
        return await self._by_name(wanted, order, after, many)

    async def _direct(self, wanted: Filter) -> list[Attendance]:
        found = [each for each in await self._source.direct(wanted) if wanted.matches(each)]
        self._read.update((guid_bytes(each["id"]), each) for each in found)
        return found

    async def _scan(self, scan: Scan, wanted: Filter, descending: bool, after: Key | None, many: int) -> list[Key]:
        """The first so many keys behind one."""
        found: list[Key] = []
        for part in parts(wanted):
            found += await self._scan_part(scan, part, descending, after, many)
        return sorted(found, reverse=descending)[:many]

    async def _scan_part(self, scan: Scan, wanted: Filter, descending: bool, after: Key | None, many: int) -> list[Key]:
        count = self._source.partitions
        sessions = None if wanted.sessions.allowed is None else sorted(wanted.sessions.allowed)
        way = -1 if descending else 1
        denied = list(wanted.sessions.denied) if scan.name == "session" else []
        names = orjson.dumps(sessions), orjson.dumps(denied)
        asked = scan.name, way, self._share(many), BUDGET, orjson.dumps(windows(wanted)), *names, DOC_SHIFT
        open_: dict[int, Key | None] = dict.fromkeys(range(count), after)
        found: list[Key] = []
        owners: dict[Key, int] = {}
        asking = set(open_)
        while asking:
            places = {number: (place_behind(scan, open_[number], wanted),) for number in asking}
            for number, segments in (await self._ask("scan", asked, places, wanted)).items():
                keys, bound = complete(scan, segments, open_[number], descending)
                keys = sorted(keys, reverse=descending)[:many]
                owners.update(dict.fromkeys(keys, number))
                found += keys
                open_[number] = bound
                if bound is None:
                    del open_[number]
            found = sorted(found, reverse=descending)[:many]
            short = len(found) < many
            asking = {
                number for number, bound in open_.items() if short or (bound > found[-1] if descending else bound < found[-1])
            }
        self._where.update((scan.identity(key), owners[key]) for key in found)
        return found

    async def _by_name(self, wanted: Filter, order: Order, after: Position | None, many: int) -> list[Position]:
        """By booking or session, then by anything: all of one name is sorted here, or is a question of its own."""
        field, descending = order[0]
        scan, begun, behind = SCANS[field, ID], *((BEHIND, FIRST) if descending else (FIRST, BEHIND))
        place = None if after is None else str(after.values[0]).encode() + b"\0" + begun
        found: list[Position] = []
        whole = False
        while not whole and len(found) < many:
            take = max(many - len(found), _AT_ONCE // 2) + 1
            keys = await self._scan(scan, wanted, descending, place, take)
            whole = len(keys) < take
            if not whole:
                last = keys[-1][:-16]
                complete_ones = [key for key in keys if key[:-16] != last]
                if not complete_ones:
                    name = last[:-1].decode()
                    found += await self._of_groups(wanted, order, after, many - len(found), [(name, _AT_ONCE + 1)])
                    place = last + behind
                    continue
                keys = complete_ones
            if keys:
                read = await self.read(map(scan.position, keys))
                found += _sorted((each for each in read if each is not None), order, after)
                place = keys[-1][:-16] + behind
        return found[:many]

    async def _by_number(self, wanted: Filter, order: Order, after: Position | None, many: int) -> list[Position]:
        """By number, then by anything that no index has."""
        found: list[Position] = []
        begin = None if after is None else int(after.values[0])
        inclusive, more = True, True
        while more and len(found) < many:
            groups, begin, more = await self._numbers(wanted, order[0].descending, begin, inclusive, many - len(found))
            inclusive = False
            found += await self._of_groups(wanted, order, after, many - len(found), groups)
        return found

    async def _of_groups(
        self, wanted: Filter, order: Order, after: Position | None, many: int, groups: Sequence[tuple[Any, int]]
    ) -> list[Position]:
        """The positions in groups, which are values of the first field with how many attendances they have at most."""
        found: list[Position] = []
        field, at = order[0].field, 0
        while at < len(groups) and len(found) < many:
            value, size = groups[at]
            values, at = [value], at + 1
            while at < len(groups) and size + groups[at][1] <= _AT_ONCE:
                values.append(groups[at][0])
                size += groups[at][1]
                at += 1
            part = pin(wanted, field, values)
            if size <= _AT_ONCE:
                keys = await self._scan(_NUMBERED, part, False, None, 2 * _AT_ONCE)
                read = await self.read(map(_NUMBERED.position, keys))
                # what has moved to another group since would stand among the wrong ones
                found += _sorted((each for each in read if each is not None and part.matches(each)), order, after)
                continue
            inner = None
            if after is not None and after.values[0] == value:
                inner = Position(after.values[1:], after.id)
            some = await self.select(part, order[1:], inner, many - len(found))
            found += [Position((value, *each.values), each.id) for each in some]
        return found[:many]

    async def _numbers(
        self, wanted: Filter, descending: bool, begin: int | None, inclusive: bool, many: int
    ) -> tuple[list[tuple[int, int]], int | None, bool]:
        """The next numbers with how many have each, the number to go on behind, and whether there may be more."""
        place = orjson.dumps(begin), int(inclusive)
        sizes: Counter[int] = Counter()
        bounds = []
        for part in parts(wanted):
            sessions = None if part.sessions.allowed is None else list(part.sessions.allowed)
            asked = orjson.dumps(windows(part)), orjson.dumps(sessions)
            call = (-1 if descending else 1, self._share(many), BUDGET, *place, *asked)
            everywhere: dict[int, Sequence[Any]] = dict.fromkeys(range(self._source.partitions), ())
            for looked, *counts in (await self._ask("numbers", call, everywhere, part)).values():
                if looked != b"":
                    bounds.append(looked)
                for number, size in zip(counts[::2], counts[1::2], strict=True):
                    sizes[number] += size
        bound = (max if descending else min)(bounds, default=None)
        known = sizes if bound is None else [each for each in sizes if (each >= bound if descending else each <= bound)]
        return [(each, sizes[each]) for each in sorted(known, reverse=descending)], bound, bound is not None

    async def _ask(
        self, script: str, asked: Sequence[Any], own: Mapping[int, Sequence[Any]], wanted: Filter
    ) -> dict[int, list[Any]]:
        self._looks += len(own)
        if self._looks * BUDGET > MOST_WORK:
            raise too_much("in this order too much would be looked at: name a booking or a session, or sort by one field")
        return await self._source.ask(script, own, asked, own, weight(wanted))

    def _share(self, many: int) -> int:
        return share(many, self._source.partitions)


def share(many: int, partitions: int) -> int:
    """How many of a page a partition is asked for: its part, and so many more that it is seldom asked again."""
    part = many / partitions
    return min(many, math.ceil(part + 2.5 * math.sqrt(part)) + 1)


async def count(source: Source, wanted: Filter) -> int:
    """How many attendances a filter matches."""
    if wanted.is_empty:
        return 0
    if wanted.ids.allowed is not None or wanted.bookings.allowed is not None:
        return sum(map(wanted.matches, await source.direct(wanted)))
    total = await _counted(source, wanted._replace(sessions=Names(wanted.sessions.allowed)))
    if wanted.sessions.denied:
        total -= await _counted(source, wanted._replace(sessions=Names(wanted.sessions.denied)))
    # of those, the ones that the filter denies by id or booking
    without = wanted._replace(ids=Names(), bookings=Names())
    refused: set[str] = set()
    for denied in (Filter(ids=Names(wanted.ids.denied)), Filter(bookings=Names(wanted.bookings.denied))):
        if not denied.is_empty:
            refused.update(each["id"] for each in await source.direct(denied) if without.matches(each))
    return total - len(refused)


async def _counted(source: Source, wanted: Filter) -> int:
    """How many, whatever ids and bookings the filter denies."""
    total = 0
    for part in parts(wanted):
        allowed = part.sessions.allowed
        asked = orjson.dumps(windows(part)), orjson.dumps(None if allowed is None else list(allowed))
        answers = await source.ask("count", range(source.partitions), asked, weight=weight(part))
        total += sum(number for (number,) in answers.values())
    return total


def _sorted(found: Iterable[Attendance], order: Order, after: Position | None) -> list[Position]:
    """Where those behind a place stand, in order."""
    key = order_of(order)
    positions = [position_of(each, order) for each in found]
    if after is not None:
        edge = key(after)
        positions = [each for each in positions if key(each) > edge]
    return sorted(positions, key=key)
