"""What a reader's questions find in the live namespace; `worker.read_model.reader` says what each is."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance
from schemas.query.list_cursor import ListCursor, encode_list_cursor
from schemas.query.request import Cursor, Filter, Page, Position, Query, QueryField, Sort, encode_cursor, position_of, project
from schemas.times import format_time
from worker.read_model.freshness import Freshness
from worker.read_model.keys import BOOKING_BUCKETS, booking_bucket
from worker.read_model.partition_reader import Live, fields_of
from worker.read_model.query.index_scan import order_by, pinned
from worker.read_model.query.planner import Planner
from worker.read_model.ranked import Place, ranked

#: Lists, as their cursors name them.
ALERTS, NO_SHOWS = "alerts", "no-shows"
_COUNTS = ("bookings", "attended", "notAttended", "notSet", "attendees", "expectedParticipants")
_WINDOW = b"window:"
#: Attendances asked for at once where a filter's denied values drop many.
_MOST_AT_ONCE = 1000


async def page(live: Live, query: Query) -> Page:
    sort = tuple(Sort(each.field, each.descending is not query.backwards) for each in query.sort)
    planner = Planner(live)
    order, after = order_by(sort, query.filter), None
    if query.position is not None:
        after = _position(query.position, query.sort, order)
    found: list[tuple[Position, Attendance]] = []
    wanted, take = query.limit + 1, query.limit + 1
    while len(found) < wanted:
        positions = await planner.select(query.filter, order, after, take)
        read = await planner.read(positions)
        found += [
            (position, each)
            for position, each in zip(positions, read, strict=True)
            # what moved since its key was read has another place, or none
            if each is not None and query.filter.matches(each) and position_of(each, order) == position
        ]
        if len(positions) < take:
            break
        after, take = positions[-1], min(2 * take, _MOST_AT_ONCE)
    return _page(query, order, found, live)


async def session(live: Live, session_id: str) -> dict[str, Any] | None:
    answers, fresh = await live.read(live.everywhere, [[("HGETALL", f"tally:{session_id}")] for _ in live.everywhere])
    tallies = [fields_of(tally) for (tally,) in answers if tally]
    if not tallies:
        return None
    counts = {name: sum(int(tally.get(name.encode(), 0)) for tally in tallies) for name in _COUNTS}
    starts, ends = _bounds(field for tally in tallies for field in tally if field.startswith(_WINDOW))
    return {"sessionId": session_id, **counts, "startsAt": starts, "endsAt": ends, "freshness": fresh.document()}


async def sessions(live: Live, limit: int) -> list[str]:
    answers, _ = await live.read(live.everywhere, [[("ZRANGE", "sessions", 0, limit - 1)] for _ in live.everywhere])
    return [name.decode() for name in sorted({name for (names,) in answers for name in names})[:limit]]


async def booking(live: Live, booking_id: str) -> dict[str, Any] | None:
    command = "HGET", f"booking:{booking_bucket(booking_id.encode())}", booking_id
    ((json,),), fresh = await live.read([live.of(booking_id)], [[command]])
    return None if json is None else {"bookingId": booking_id, **orjson.loads(json), "freshness": fresh.document()}


class ListPage(NamedTuple):
    """A page of a list, and the cursor to go on with where there are more."""

    items: list[Any]
    next: str | None
    freshness: Freshness

    @property
    def paging(self) -> dict[str, Any]:
        """As a query's page says it."""
        cursors = {} if self.next is None else {"next": self.next}
        return {"count": len(self.items), "cursors": cursors, "hasNext": self.next is not None}


async def no_shows(live: Live, limit: int, after: Place | None) -> ListPage:
    found, fresh = await ranked(live, live.everywhere, ["no-shows"], after, limit + 1, descending=False)
    commands: list[list[Any]] = [[] for _ in live.everywhere]
    for place, number in found[:limit]:
        commands[number].append(("HGET", f"booking:{booking_bucket(place.member)}", place.member))
    answers, _ = await live.read(live.everywhere, commands)
    told = [iter(each) for each in answers]
    summaries = [(place.member, next(told[number])) for place, number in found[:limit]]
    bookings = [{"bookingId": name.decode(), **orjson.loads(json)} for name, json in summaries if json is not None]
    return ListPage(bookings, _next(live, NO_SHOWS, (), found, limit), fresh)


async def alerts(live: Live, narrowed: "Narrowed", limit: int, after: Place | None) -> ListPage:
    where = live.everywhere if narrowed.booking_id is None else [live.of(narrowed.booking_id)]
    found, fresh = await ranked(live, where, narrowed.indexes, after, limit + 1, descending=True)
    shown = found[:limit]
    ids: dict[int, list[bytes]] = {number: [] for number in where}
    for place, number in shown:
        ids[number].append(place.member)
    answers, _ = await live.read(where, [[("HMGET", "alerts", *ids[number])] if ids[number] else [] for number in where])
    told = {number: iter(each[0] if each else ()) for number, each in zip(where, answers, strict=True)}
    opened: list[AlertData] = [orjson.loads(json) for _, number in shown if (json := next(told[number]))]
    return ListPage(opened, _next(live, ALERTS, narrowed, found, limit), fresh)


class Narrowed(NamedTuple):
    """Which alerts; all given conditions hold."""

    kind: str | None = None
    session_id: str | None = None
    booking_id: str | None = None

    @property
    def indexes(self) -> list[str]:
        given = ("kind", self.kind), ("session", self.session_id), ("booking", self.booking_id)
        return [f"alerts:{name}:{value}" for name, value in given if value is not None] or ["alerts:at"]


def _next(
    live: Live, name: str, conditions: tuple[str | None, ...], found: Sequence[tuple[Place, int]], limit: int
) -> str | None:
    if len(found) <= limit:
        return None
    score, member = found[limit - 1][0]
    return encode_list_cursor(ListCursor(name, tuple(conditions), score, member), live.cursor_key)


async def count_alerts(live: Live, kind: AlertKind) -> int:
    answers, _ = await live.read(live.everywhere, [[("ZCARD", f"alerts:kind:{kind}")] for _ in live.everywhere])
    return sum(count for (count,) in answers)


async def of_booking_buckets(live: Live, command: str) -> list[list[Any]]:
    commands = [(command, f"booking:{bucket}") for bucket in range(BOOKING_BUCKETS)]
    answers, _ = await live.read(live.everywhere, [commands for _ in live.everywhere])
    return answers


def _position(given: Position, sort: tuple[Sort, ...], order: tuple[Sort, ...]) -> Position:
    """A position in the order that is left of a sort."""
    values = {each.field: value for each, value in zip(sort, given.values, strict=True)}
    return Position((*(values[each.field] for each in order[:-1]), given.id), given.id)


def _page(query: Query, order: tuple[Sort, ...], found: list[tuple[Position, Attendance]], live: Live) -> Page:
    """Up to one more than the page was found, in the direction that was asked for."""
    more = len(found) > query.limit
    shown = found[: query.limit]
    if query.backwards:
        shown.reverse()
    ahead, back = (query.position is not None, more) if query.backwards else (more, query.position is not None)

    def cursor(at: int, backwards: bool) -> str:
        position, attendance = shown[at]
        known: dict[QueryField, Any] = {each.field: value for each, value in zip(order, position.values, strict=True)}
        values = tuple(_value(query.filter, field, known, attendance) for field, _ in query.sort)
        return encode_cursor(Cursor(query.filter, query.sort, Position(values, position.id), backwards), live.cursor_key)

    return Page(
        [project(attendance, query.fields) for _, attendance in shown],
        cursor(-1, False) if ahead and shown else None,
        cursor(0, True) if back and shown else None,
        ahead and bool(shown),
    )


def _value(wanted: Filter, field: QueryField, known: dict[QueryField, Any], attendance: Attendance) -> str | int:
    """What the page's order went by; a field behind the id went for nothing."""
    if field in known:
        return known[field]  # type: ignore[no-any-return]
    value = pinned(wanted, field)
    if value is not None:
        return value
    found: Any = attendance
    return str(found[field.value]) if isinstance(found[field.value], str) else found[field.value]


def _bounds(windows: Iterable[bytes]) -> tuple[str | None, str | None]:
    """Earliest start and latest end of ``window:<startMs>:<endMs>`` fields, either of which may be empty."""
    starts, ends = [], []
    for window in windows:
        start, _, end = window[len(_WINDOW) :].decode().partition(":")
        starts += [int(start)] if start else []
        ends += [int(end)] if end else []
    return tuple(format_time(t[0] * 1000) if t else None for t in (sorted(starts), sorted(ends, reverse=True)))  # type: ignore[return-value]
