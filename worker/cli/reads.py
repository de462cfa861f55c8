"""The commands that read from Redis: `query`, `session`, `sessions`, `booking` and `alerts`."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from schemas import ids
from schemas.alerts import AlertKind
from schemas.query.request import QueryError
from schemas.times import parse_time
from worker.cli import ask
from worker.cli.arguments import decode_argument, decode_optional
from worker.cli.services import service_settings
from worker.cli.show import fail, print_one, print_rows
from worker.read_model.query.roster import RosterState
from worker.read_model.reader import LARGEST_PAGE, AttendanceReader, ListPage
from worker.redis.client import create_redis

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table; lists have one item per line")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="cursor that an earlier call printed: continue after it")]


class Order(StrEnum):
    """The orders of a session's bookings."""

    BOOKING_ID = "bookingId"
    STATUS = "status"


def query(
    id_: Annotated[str | None, typer.Option("--id", help="one attendance by its id")] = None,
    booking: Annotated[str | None, typer.Option("--booking", help="only of this booking")] = None,
    session: Annotated[str | None, typer.Option("--session", help="only of this session")] = None,
    status: Annotated[str | None, typer.Option("--status", help="ATTENDED, NOT_ATTENDED or NOT_SET")] = None,
    filter_: Annotated[str | None, typer.Option("--filter", help="JSON as in a request of the API")] = None,
    sort: Annotated[list[str] | None, typer.Option("--sort", help="FIELD or FIELD:desc, up to two")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="largest number of attendances to list; without it all")] = None,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="cursor that an earlier query with --limit printed: continue after it")
    ] = None,
    as_json: Json = False,
) -> None:
    """List attendances by filters: all that match, or --limit of them."""
    id_, booking, session, status = map(decode_optional, (id_, booking, session, status))
    sort_ = tuple(map(decode_argument, sort or ()))
    question = ask.Question(id_, booking, session, status, decode_optional(filter_), sort_, limit, decode_optional(cursor))
    if not question.is_restricted:
        raise typer.BadParameter("give a filter or --limit")
    try:
        answer = _read(lambda reader: ask.ask(reader, question))
    except QueryError as error:
        raise typer.BadParameter(str(error)) from None
    if id_ is not None and not answer.attendances:
        fail(f"no attendance has the id {id_}")
    print_rows(answer.attendances, as_json)
    if answer.cursor is not None:
        print(f"more attendances match: --cursor {answer.cursor}", file=sys.stderr)


def session(
    session_id: str,
    as_roster: Annotated[bool, typer.Option("--roster", help="its bookings, those without attendance too")] = False,
    states: Annotated[
        list[RosterState] | None, typer.Option("--state", help="bookings in this state, or one of several")
    ] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="bookings whose id begins so")] = None,
    has_alerts: Annotated[bool, typer.Option("--alerts", help="bookings with an open alert at the session")] = False,
    order: Annotated[Order | None, typer.Option("--order", help="of the bookings; without it bookingId")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="largest number of bookings; without it 100")] = None,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """Show the tally of a session, or its bookings."""
    name = _normal_id(session_id)
    missing = f"session {session_id} not found: no booking lists it and it has no attendance"
    if not as_roster:
        options = {
            "--state": states,
            "--prefix": prefix,
            "--alerts": has_alerts,
            "--order": order,
            "--limit": limit,
            "--cursor": cursor,
        }
        if given := [option for option, value in options.items() if value]:
            raise typer.BadParameter(f"{', '.join(given)}: only with --roster")
        print_one(_read(lambda reader: reader.session(name)), missing, as_json)
        return
    beginning = decode_argument(prefix or "")
    conditions = {
        "states": states or (),
        "prefix": ids.booking_id(beginning) or beginning,
        "alerts": "open" if has_alerts else None,
        "order": order and order.value,
    }

    async def page(reader: AttendanceReader, size: int, start: str | None) -> ListPage:
        found = await reader.roster_page(name, limit=size, cursor=start, **conditions)  # type: ignore[arg-type]
        if found is None:
            fail(missing)
        return found

    found = _read_pages(page, limit or 100, cursor)
    shown = [{**each, **(each["attendance"] or {})} for each in found.items]
    columns = ("bookingId", "state", "numberOfAttendees", "expectedParticipants", "updatedDate", "source")
    _print_page("bookings", found, as_json, columns, shown)


def sessions(
    from_: Annotated[str | None, typer.Option("--from", metavar="TIME", help="that start then or later")] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TIME", help="that start before")] = None,
    is_running: Annotated[
        bool, typer.Option("--running", help="that have started, at --from or within the last day, and not ended")
    ] = False,
    is_descending: Annotated[bool, typer.Option("--latest-first", help="in the order of their starts reversed")] = False,
    limit: Annotated[int, typer.Option(min=1)] = 100,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """List the tallies of sessions by their start; those without a start come last."""
    conditions: dict[str, int | None] = {"starts_from": _time("--from", from_), "starts_before": _time("--before", before)}
    if is_running and cursor is not None:
        raise typer.BadParameter("--running: leave it out with --cursor, which goes on with the sessions that ran then")
    if is_running:
        now = time.time_ns() // 1000
        conditions["ends_after"] = now
        # those that ended long ago would all be looked at
        conditions["starts_from"] = now - 86_400_000_000 if from_ is None else conditions["starts_from"]
        conditions["starts_before"] = min(now + 1, conditions["starts_before"] or now + 1)
    found = _read_pages(
        lambda reader, size, start: reader.sessions_page(
            **conditions, descending=is_descending or None, limit=size, cursor=start
        ),
        limit,
        cursor,
    )
    counts = ("bookings", "attended", "notAttended", "notSet", "attendees", "expectedParticipants")
    _print_page("sessions", found, as_json, ("startsAt", "endsAt", "sessionId", *counts))


def booking(booking_id: str, as_json: Json = False) -> None:
    """Show the summary of a booking."""
    name = _normal_id(booking_id)
    summary = _read(lambda reader: reader.booking(name))
    print_one(summary, f"booking {booking_id} not found: it lists no session and has no attendance", as_json)


def alerts(
    kind: Annotated[AlertKind | None, typer.Option(help="only of this kind")] = None,
    session_: Annotated[str | None, typer.Option("--session", help="only of this session")] = None,
    booking_: Annotated[str | None, typer.Option("--booking", help="only of this booking")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 100,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """List open mismatch alerts, newest first."""
    ids_ = {"session_id": session_ and _normal_id(session_), "booking_id": booking_ and _normal_id(booking_)}
    found = _read_pages(
        lambda reader, size, start: reader.alerts_page(kind=kind, **ids_, limit=size, cursor=start), limit, cursor
    )
    _print_page("alerts", found, as_json, ("openedAt", "severity", "kind", "bookingId", "sessionId", "message"))


def _read_pages(
    page: Callable[[AttendanceReader, int, str | None], Awaitable[ListPage]], limit: int, cursor: str | None
) -> ListPage:
    """So many items of a list, from as many of its pages as that takes.

    Args:
        page: reads a page, given the reader, the largest number of items, and the cursor.
    """

    async def read(reader: AttendanceReader) -> ListPage:
        start, items = decode_optional(cursor), list[Any]()
        while True:
            found = await page(reader, min(limit - len(items), LARGEST_PAGE), start)
            items += found.items
            start = found.next
            if start is None or len(items) == limit:
                return found._replace(items=items)

    try:
        return _read(read)
    except QueryError as error:
        raise typer.BadParameter(str(error)) from None


def _print_page(
    name: str, page: ListPage, as_json: bool, columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Prints the items, in a table as these rows."""
    print_rows(page.items if as_json or rows is None else list(rows), as_json, columns)
    if page.next is not None:
        print(f"more {name} follow: --cursor {page.next}", file=sys.stderr)


def _time(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(decode_argument(text))
    except ValueError:
        raise typer.BadParameter(f"{option}: write RFC 3339 with offset, such as 2026-11-22T10:00:00Z") from None


def _normal_id(text: str) -> str:
    """A bookingId or sessionId in normal form."""
    name = decode_argument(text)
    # a text that is not an id is looked up unchanged, and nothing has it
    return ids.session_id(name) or name


def _read(read: Callable[[AttendanceReader], Awaitable[T]]) -> T:
    settings = service_settings()

    async def reading() -> T:
        client = create_redis(settings)
        try:
            return await read(AttendanceReader(client, settings.redis_namespace))
        finally:
            await client.aclose()

    return asyncio.run(reading())
