"""The queries of `worker.read_model.reader.AttendanceReader`, which documents them, on a namespace."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance
from schemas.query.list_cursor import ListCursor, encode_list_cursor
from schemas.query.request import Cursor, Filter, Page, Position, Query, QueryField, Sort, encode_cursor, position_of, project
from worker.read_model.booking_records import unpack_summary
from worker.read_model.freshness import Freshness
from worker.read_model.keys import (
    ALERTS,
    ALERTS_AT,
    ALERTS_BOOKING,
    ALERTS_KIND,
    ALERTS_SESSION,
    BOOKING,
    BOOKING_BUCKETS,
    NO_SHOWS,
    SESSIONS,
    booking_bucket,
)
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.index_scan import order_by, pinned
from worker.read_model.query.planner import Planner
from worker.read_model.ranked import ScoredMember, ranked

INVALID_CURSOR = "is not a cursor of this list; send next of a page unchanged, or start without a cursor"
#: Lists, as their cursors name them.
ALERT_LIST, NO_SHOW_LIST = "alerts", "no-shows"
#: Maximum number of attendances that are read at once if the filter drops many of them.
_MOST_AT_ONCE = 1000


async def page(view: NamespaceView, query: Query) -> Page:
    sort = tuple(Sort(each.field, each.descending is not query.backwards) for each in query.sort)
    planner = Planner(view)
    order, after = order_by(sort, query.filter), None
    if query.position is not None:
        after = _position_in_order(query.position, query.sort, order)
    items: list[tuple[Position, Attendance]] = []
    target, take = query.limit + 1, query.limit + 1
    while len(items) < target:
        positions = await planner.select(query.filter, order, after, take)
        attendances = await planner.read(positions)
        items += [
            (position, each)
            for position, each in zip(positions, attendances, strict=True)
            # an attendance that changed after its key was read may have another position, or no longer match
            if each is not None and query.filter.matches(each) and position_of(each, order) == position
        ]
        if len(positions) < take:
            break
        after, take = positions[-1], min(2 * take, _MOST_AT_ONCE)
    return _page(query, order, items, view)


async def sessions(view: NamespaceView, limit: int) -> list[str]:
    answers, _ = await view.read(view.all_partitions, [[("ZRANGE", SESSIONS, 0, limit - 1)] for _ in view.all_partitions])
    return [name.decode() for name in sorted({name for (names,) in answers for name in names})[:limit]]


async def booking(view: NamespaceView, booking_id: str) -> dict[str, Any] | None:
    command = "HGET", f"{BOOKING}{booking_bucket(booking_id.encode())}", booking_id
    ((record,),), freshness = await view.read([view.of(booking_id)], [[command]])
    return None if record is None else {"bookingId": booking_id, **unpack_summary(record), "freshness": freshness.document()}


class ListPage(NamedTuple):
    """A page of a list, and the cursor of the next page, if there is one."""

    items: list[Any]
    next: str | None
    freshness: Freshness

    @property
    def paging(self) -> dict[str, Any]:
        """The paging information, in the format of a query's page."""
        return paging(len(self.items), self.next)


def paging(count: int, cursor: str | None) -> dict[str, Any]:
    """The paging information of a page with so many items, and the cursor of the next one, if there is one."""
    return {"count": count, "cursors": {} if cursor is None else {"next": cursor}, "hasNext": cursor is not None}


async def no_shows(view: NamespaceView, limit: int, after: ScoredMember | None) -> ListPage:
    places, freshness = await ranked(view, view.all_partitions, [NO_SHOWS], after, limit + 1, descending=False)
    commands: list[list[Any]] = [[] for _ in view.all_partitions]
    for place, number in places[:limit]:
        commands[number].append(("HGET", f"{BOOKING}{booking_bucket(place.member)}", place.member))
    answers, _ = await view.read(view.all_partitions, commands)
    replies = [iter(each) for each in answers]
    summaries = [(place.member, next(replies[number])) for place, number in places[:limit]]
    bookings = [{"bookingId": name.decode(), **unpack_summary(record)} for name, record in summaries if record is not None]
    return ListPage(bookings, _next_cursor(view, NO_SHOW_LIST, (), places, limit), freshness)


async def alerts(view: NamespaceView, conditions: "AlertConditions", limit: int, after: ScoredMember | None) -> ListPage:
    numbers = view.all_partitions if conditions.booking_id is None else [view.of(conditions.booking_id)]
    places, freshness = await ranked(view, numbers, conditions.indexes, after, limit + 1, descending=True)
    shown = places[:limit]
    ids: dict[int, list[bytes]] = {number: [] for number in numbers}
    for place, number in shown:
        ids[number].append(place.member)
    answers, _ = await view.read(numbers, [[("HMGET", ALERTS, *ids[number])] if ids[number] else [] for number in numbers])
    replies = {number: iter(each[0] if each else ()) for number, each in zip(numbers, answers, strict=True)}
    opened: list[AlertData] = [orjson.loads(json) for _, number in shown if (json := next(replies[number]))]
    return ListPage(opened, _next_cursor(view, ALERT_LIST, conditions, places, limit), freshness)


class AlertConditions(NamedTuple):
    """Conditions that an alert must meet; None: any value."""

    kind: str | None = None
    session_id: str | None = None
    booking_id: str | None = None

    @property
    def indexes(self) -> list[str]:
        conditions = (ALERTS_KIND, self.kind), (ALERTS_SESSION, self.session_id), (ALERTS_BOOKING, self.booking_id)
        return [index + value for index, value in conditions if value is not None] or [ALERTS_AT]


def _next_cursor(
    view: NamespaceView, name: str, conditions: tuple[str | None, ...], places: Sequence[tuple[ScoredMember, int]], limit: int
) -> str | None:
    if len(places) <= limit:
        return None
    score, member = places[limit - 1][0]
    return encode_list_cursor(ListCursor(name, tuple(conditions), score, member), view.cursor_key)


async def count_alerts(view: NamespaceView, kind: AlertKind) -> int:
    answers, _ = await view.read(view.all_partitions, [[("ZCARD", f"{ALERTS_KIND}{kind}")] for _ in view.all_partitions])
    return sum(count for (count,) in answers)


async def read_booking_buckets(view: NamespaceView, command: str) -> list[list[Any]]:
    commands = [(command, f"{BOOKING}{bucket}") for bucket in range(BOOKING_BUCKETS)]
    answers, _ = await view.read(view.all_partitions, [commands for _ in view.all_partitions])
    return answers


def _position_in_order(position: Position, sort: tuple[Sort, ...], order: tuple[Sort, ...]) -> Position:
    """Converts a position in a sort to one in the order that `order_by` made of it."""
    values = {each.field: value for each, value in zip(sort, position.values, strict=True)}
    return Position((*(values[each.field] for each in order[:-1]), position.id), position.id)


def _page(query: Query, order: tuple[Sort, ...], items: list[tuple[Position, Attendance]], view: NamespaceView) -> Page:
    """The page of a query.

    Args:
        items: in the direction of paging, one more than the page has if there are more.
    """
    more = len(items) > query.limit
    shown = items[: query.limit]
    if query.backwards:
        shown.reverse()
    has_next, has_previous = (query.position is not None, more) if query.backwards else (more, query.position is not None)

    def cursor(at: int, backwards: bool) -> str:
        position, attendance = shown[at]
        by_field: dict[QueryField, Any] = {each.field: value for each, value in zip(order, position.values, strict=True)}
        values = tuple(_value(query.filter, field, by_field, attendance) for field, _ in query.sort)
        return encode_cursor(Cursor(query.filter, query.sort, Position(values, position.id), backwards), view.cursor_key)

    return Page(
        [project(attendance, query.fields) for _, attendance in shown],
        cursor(-1, False) if has_next and shown else None,
        cursor(0, True) if has_previous and shown else None,
        has_next and bool(shown),
    )


def _value(filter_: Filter, field: QueryField, by_field: dict[QueryField, Any], attendance: Attendance) -> str | int:
    """The value of a sort field for a cursor: from the position, the filter, or, for a field after the id, the attendance."""
    if field in by_field:
        return by_field[field]  # type: ignore[no-any-return]
    value = pinned(filter_, field)
    if value is not None:
        return value
    fields: Any = attendance
    return str(fields[field.value]) if isinstance(fields[field.value], str) else fields[field.value]
