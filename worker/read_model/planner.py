"""Finds a page's attendances by the indexes of all partitions: which of them, in which order; documents are asked for last.

Each partition answers about its share of a page from an index that is in the order asked for, or from one that holds few
enough (`scan.lua` decides); only partitions whose share ended before the page did are asked again. Where no index has the
order, it is cut into groups of one value of its first field (sessions, numbers, statuses), which are sorted here while they
are small, and are questions of their own where they are not. A field that the filter pins to one value orders nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from schemas.attendance import STATUSES, Attendance
from schemas.query import Filter, Names, Position, QueryField, Sort, order_of, position_of
from worker.read_model.keys import DOC_SHIFT

Order = tuple[Sort, ...]
"""Sort fields without those that order nothing; the last is the id."""

ID, BOOKING, SESSION, STATUS, NUMBER = QueryField
#: Attendances that are read whole and sorted here.
_AT_ONCE = 200
#: Index entries that one script call looks at: a few milliseconds of the server's time.
BUDGET = 4000
_NUMBERS = 1 << 32
_SCORE = {status: code * _NUMBERS for code, status in enumerate(STATUSES)}
_CODE = {str(status): code for code, status in enumerate(STATUSES)}
_FIRST, _BEHIND = b"", b"\xff" * 17
"""Before every id, and behind."""

Key = Any
"""An index entry, so that keys compare as the order does: an id, a by-booking member, or (number, [status,] id)."""


class Source(Protocol):
    """Where a planner reads; one question to many partitions is one round trip."""

    partitions: int

    async def ask(self, script: str, calls: Mapping[int, Sequence[Any]]) -> dict[int, list[Any]]:
        """What each partition's script answers to its arguments, without the state."""

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each; those that are gone are left out."""

    async def direct(self, wanted: Filter) -> list[Attendance]:
        """Every attendance of the ids or bookings that a filter allows."""


class _Scan(NamedTuple):
    """A scan's order as `scan.lua` knows it, and how its keys are read and written."""

    name: str
    keys: Callable[[list[Any]], list[Key]]
    """Of what the script answers."""
    place: Callable[[Key, Filter], Any]
    """Where to begin behind a key, for the script."""
    key: Callable[[Position], Key]
    position: Callable[[Key], Position]
    identity: Callable[[Key], bytes]


def order_by(sort: Iterable[Sort], wanted: Filter) -> Order:
    """What is left to order by: no field that the filter pins, nothing behind the id, which ends every order."""
    found: list[Sort] = []
    last = Sort(ID)
    for last in sort:
        if last.field is ID:
            break
        if pinned(wanted, last.field) is None:
            found.append(last)
    return (*found, Sort(ID, last.descending))


def pinned(wanted: Filter, field: QueryField) -> str | int | None:
    """The one value that the filter leaves a field, None where there may be others."""
    if field is STATUS:
        return str(next(iter(wanted.statuses))) if len(wanted.statuses) == 1 else None
    if field is NUMBER:
        return wanted.numbers[0][0] if len(wanted.numbers) == 1 and wanted.numbers[0][0] == wanted.numbers[0][1] else None
    allowed = {BOOKING: wanted.bookings, SESSION: wanted.sessions}[field].allowed
    return next(iter(allowed)) if allowed is not None and len(allowed) == 1 else None


def pin(wanted: Filter, field: QueryField, values: Sequence[Any]) -> Filter:
    """The filter with one field pinned to values that it allows; numbers are a closed range of those."""
    if field is STATUS:
        return wanted._replace(statuses=frozenset(values))
    if field is SESSION:
        return wanted._replace(sessions=wanted.sessions._replace(allowed=frozenset(values), denied=frozenset()))
    low, high = min(values), max(values)
    return wanted._replace(numbers=tuple((max(low, a), min(high, b)) for a, b in wanted.numbers if a <= high and b >= low))


def windows(wanted: Filter) -> list[list[tuple[int, int]]]:
    """For each status in question, ascending, the score ranges of its numbers."""
    return [[(score + low, score + high) for low, high in wanted.numbers] for score in _scores(wanted)]


def _scores(wanted: Filter) -> list[int]:
    return sorted(_SCORE[status] for status in wanted.statuses)


class Planner:
    """One query's work; what it read stays at hand for the page."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._where: dict[bytes, int] = {}
        self._read: dict[bytes, Attendance] = {}

    async def read(self, positions: Iterable[Position]) -> list[Attendance | None]:
        """The attendances at positions that `select` found; None for those that are gone."""
        ids = [_bytes_of(position.id) for position in positions]
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
            return self._sorted(await self._direct(wanted), order, after)[:many]
        first = order[0]
        if len({each.descending for each in order}) == 1:
            scan = _SCANS.get(tuple(each.field for each in order))
            if scan is not None:
                edge = None if after is None else scan.key(after)
                keys = await self._scan(scan, wanted, first.descending, edge, many)
                return [scan.position(key) for key in keys]
        if first.field is BOOKING:
            return await self._by_booking(wanted, order, after, many)
        if first.field is STATUS:
            statuses = sorted(map(str, wanted.statuses), reverse=first.descending)
            groups = [(each, _AT_ONCE + 1) for each in statuses if after is None or not _passed(each, after.values[0], first)]
            return await self._of_groups(wanted, order, after, many, groups)
        return await self._grouped(wanted, order, after, many)

    async def _direct(self, wanted: Filter) -> list[Attendance]:
        found = [each for each in await self._source.direct(wanted) if wanted.matches(each)]
        self._read.update((_bytes_of(each["id"]), each) for each in found)
        return found

    def _sorted(self, found: Iterable[Attendance], order: Order, after: Position | None) -> list[Position]:
        key = order_of(order)
        positions = [position_of(each, order) for each in found]
        if after is not None:
            edge = key(after)
            positions = [each for each in positions if key(each) > edge]
        return sorted(positions, key=key)

    async def _scan(self, scan: _Scan, wanted: Filter, descending: bool, after: Key | None, many: int) -> list[Key]:
        """The first so many keys behind one."""
        count = self._source.partitions
        share = min(many, math.ceil(many / count + 4 * math.sqrt(many / count)) + 2)
        sessions = None if wanted.sessions.allowed is None else sorted(wanted.sessions.allowed)
        asked = orjson.dumps(windows(wanted)), orjson.dumps(sessions), DOC_SHIFT
        open_: dict[int, Key | None] = dict.fromkeys(range(count), after)
        found: list[Key] = []
        asking = set(open_)
        while asking:
            calls = {
                number: (
                    scan.name,
                    -1 if descending else 1,
                    share,
                    BUDGET,
                    orjson.dumps(None if open_[number] is None else scan.place(open_[number], wanted)),
                    *asked,
                )
                for number in asking
            }
            for number, segments in (await self._source.ask("scan", calls)).items():
                keys, bound = _complete(scan, segments, open_[number], descending)
                keys = sorted(keys, reverse=descending)[:many]
                self._where.update((scan.identity(key), number) for key in keys)
                found += keys
                open_[number] = bound
                if bound is None:
                    del open_[number]
            found = sorted(found, reverse=descending)[:many]
            short = len(found) < many
            asking = {
                number for number, bound in open_.items() if short or (bound > found[-1] if descending else bound < found[-1])
            }
        return found

    async def _by_booking(self, wanted: Filter, order: Order, after: Position | None, many: int) -> list[Position]:
        """By booking, then by anything: whole bookings are sorted here."""
        scan, descending = _SCANS[BOOKING, ID], order[0].descending
        place = None if after is None else str(after.values[0]).encode() + b"\0" + (_BEHIND if descending else _FIRST)
        found: list[Position] = []
        take = many
        while len(found) < many:
            keys = await self._scan(scan, wanted, descending, place, take)
            whole = len(keys) < take
            if not whole:
                last = keys[-1][:-16]
                keys = [key for key in keys if key[:-16] != last]
            if keys:
                read = await self.read(map(scan.position, keys))
                found += self._sorted((each for each in read if each is not None), order, after)
                place = keys[-1][:-16] + (_FIRST if descending else _BEHIND)
            else:
                take *= 2
            if whole:
                break
        return found[:many]

    async def _grouped(self, wanted: Filter, order: Order, after: Position | None, many: int) -> list[Position]:
        """By number or session, then by anything that no index has."""
        found: list[Position] = []
        begin: str | int | None = None if after is None else after.values[0]
        inclusive, more = True, True
        while more and len(found) < many:
            groups, begin, more = await self._groups(wanted, order[0], begin, inclusive, many - len(found))
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
            if size <= _AT_ONCE:
                found += self._sorted(await self._members(pin(wanted, field, values), field), order, after)
                continue
            inner = None
            if after is not None and after.values[0] == value:
                inner = Position(after.values[1:], after.id)
            some = await self.select(pin(wanted, field, values), order[1:], inner, many - len(found))
            found += [Position((value, *each.values), each.id) for each in some]
        return found[:many]

    async def _groups(
        self, wanted: Filter, first: Sort, begin: str | int | None, inclusive: bool, many: int
    ) -> tuple[list[tuple[Any, int]], Any, bool]:
        """Groups in order with their sizes, the value to go on behind, and whether there may be more."""
        allowed = wanted.sessions.allowed
        sessions = None if allowed is None else sorted(allowed, reverse=first.descending)
        if sessions is not None and first.field is SESSION and begin is not None:
            sessions = [each for each in sessions if not _passed(each, begin, first) and (inclusive or each != begin)]
        count = self._source.partitions
        share = math.ceil(many / count + 4 * math.sqrt(many / count)) + 2
        call = (
            "number" if first.field is NUMBER else "session",
            -1 if first.descending else 1,
            share,
            BUDGET // 4 if first.field is NUMBER else BUDGET,
            orjson.dumps(begin),
            int(inclusive),
            orjson.dumps(windows(wanted)),
            orjson.dumps(sessions),
        )
        sizes: dict[Any, int] = {}
        bounds = []
        read = int if first.field is NUMBER else bytes.decode
        for looked, *parts in (await self._source.ask("groups", dict.fromkeys(range(count), call))).values():
            if looked != b"":
                bounds.append(read(looked))
            for value, size in zip(parts[::2], parts[1::2], strict=True):
                sizes[read(value)] = sizes.get(read(value), 0) + size
        denied = wanted.sessions.denied if first.field is SESSION else ()
        values = sorted((value for value in sizes if value not in denied), reverse=first.descending)
        if not bounds:
            return [(value, sizes[value]) for value in values], begin, False
        bound = max(bounds) if first.descending else min(bounds)
        return [(value, sizes[value]) for value in values if value == bound or _passed(value, bound, first)], bound, True

    async def _members(self, wanted: Filter, field: QueryField) -> list[Attendance]:
        """All attendances of a few groups."""
        if field is SESSION:
            assert wanted.sessions.allowed is not None
            call = orjson.dumps(windows(wanted)), orjson.dumps(list(wanted.sessions.allowed))
            answers = await self._source.ask("members", dict.fromkeys(range(self._source.partitions), call))
            for number, sessions in answers.items():
                self._where.update((identity, number) for found in sessions for identity in found[::2])
            ids = [identity for sessions in answers.values() for found in sessions for identity in found[::2]]
        else:
            scan = _SCANS[NUMBER, ID]
            ids = [scan.identity(key) for key in await self._scan(scan, wanted, False, None, 2 * _AT_ONCE)]
        read = await self.read(Position((), _text_of(identity)) for identity in ids)
        return [each for each in read if each is not None and wanted.matches(each)]


async def count(source: Source, wanted: Filter) -> int:
    """How many attendances a filter matches."""
    if wanted.is_empty:
        return 0
    if wanted.ids.allowed is not None or wanted.bookings.allowed is not None:
        return sum(map(wanted.matches, await source.direct(wanted)))
    allowed = wanted.sessions.allowed
    asked = windows(wanted), None if allowed is None else list(allowed), list(wanted.sessions.denied)
    answers = await source.ask("count", dict.fromkeys(range(source.partitions), tuple(map(orjson.dumps, asked))))
    total: int = sum(number for (number,) in answers.values())
    # of those, the ones that the filter denies by id or booking
    without = wanted._replace(ids=Names(), bookings=Names())
    refused: set[str] = set()
    for denied in (Filter(ids=Names(wanted.ids.denied)), Filter(bookings=Names(wanted.bookings.denied))):
        if not denied.is_empty:
            refused.update(each["id"] for each in await source.direct(denied) if without.matches(each))
    return total - len(refused)


def _passed(value: Any, begin: Any, first: Sort) -> bool:
    """Whether a value comes before another in the order."""
    return bool(value > begin if first.descending else value < begin)


def _complete(scan: _Scan, segments: list[Any], after: Key | None, descending: bool) -> tuple[list[Key], Key | None]:
    """The keys behind a place up to which all of them are there, and that place; None where these are all."""
    keys: list[Key] = []
    bounds = []
    for end, *entries in segments:
        keys += scan.keys(entries)
        if end:
            bounds.append(scan.keys(end.split(b" ", 1) if scan.name == "number" else [end])[0])
    if descending:
        bound = max(bounds, default=None)
        return [key for key in keys if (after is None or key < after) and (bound is None or key >= bound)], bound
    bound = min(bounds, default=None)
    return [key for key in keys if (after is None or key > after) and (bound is None or key <= bound)], bound


def _bytes_of(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _text_of(identity: bytes) -> str:
    spelt = identity.hex()
    return f"{spelt[:8]}-{spelt[8:12]}-{spelt[12:16]}-{spelt[16:20]}-{spelt[20:]}"


def _by_id(position: Position) -> bytes:
    return _bytes_of(position.id)


def _member(position: Position) -> bytes:
    return str(position.values[0]).encode() + b"\0" + _bytes_of(position.id)


def _of_member(member: bytes) -> Position:
    spelt = _text_of(member[-16:])
    return Position((member[:-17].decode(), spelt), spelt)


def _numbered(entries: list[Any]) -> list[Key]:
    return [(int(score) % _NUMBERS, identity) for score, identity in zip(entries[::2], entries[1::2], strict=True)]


def _numbered_by_status(entries: list[Any]) -> list[Key]:
    return [
        (int(score) % _NUMBERS, int(score) // _NUMBERS, identity)
        for score, identity in zip(entries[::2], entries[1::2], strict=True)
    ]


def _of_number(key: Key) -> Position:
    spelt = _text_of(key[1])
    return Position((key[0], spelt), spelt)


def _of_number_and_status(key: Key) -> Position:
    spelt = _text_of(key[2])
    return Position((key[0], str(STATUSES[key[1]]), spelt), spelt)


def _behind_number(key: Key, wanted: Filter) -> Any:
    number, identity = key
    return {"number": [[score + number, identity.hex()] for score in _scores(wanted)]}


def _behind_number_and_status(key: Key, wanted: Filter) -> Any:
    number, status, identity = key
    places = []
    for score in _scores(wanted):
        code = score // _NUMBERS
        places.append([score + number, (identity if code == status else _BEHIND if code < status else _FIRST).hex()])
    return {"number": places}


_SCANS = {
    (ID,): _Scan(
        "id",
        list,
        lambda key, _: {"id": key.hex()},
        _by_id,
        lambda key: Position((_text_of(key),), _text_of(key)),
        bytes,
    ),
    (BOOKING, ID): _Scan(
        "booking", list, lambda key, _: {"booking": key.hex()}, _member, _of_member, lambda key: bytes(key[-16:])
    ),
    (NUMBER, ID): _Scan(
        "number",
        _numbered,
        _behind_number,
        lambda position: (position.values[0], _by_id(position)),
        _of_number,
        lambda key: bytes(key[1]),
    ),
    (NUMBER, STATUS, ID): _Scan(
        "number",
        _numbered_by_status,
        _behind_number_and_status,
        lambda position: (position.values[0], _CODE[str(position.values[1])], _by_id(position)),
        _of_number_and_status,
        lambda key: bytes(key[2]),
    ),
}
