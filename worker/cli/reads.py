"""The commands that read from Redis: `query`, `session`, `booking` and `alerts`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from schemas import ids
from schemas.alerts import AlertKind
from schemas.query.request import QueryError
from worker.cli import ask
from worker.cli.arguments import decode_argument, decode_optional
from worker.cli.services import service_settings
from worker.cli.show import fail, print_one, print_rows
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table; lists have one item per line")]


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


def session(session_id: str, as_json: Json = False) -> None:
    """Show the tally of a session."""
    name = _normal_id(session_id)
    tally = _read(lambda reader: reader.session(name))
    print_one(tally, f"session {session_id} not found: no booking lists it and it has no attendance", as_json)


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
    as_json: Json = False,
) -> None:
    """List open mismatch alerts, newest first."""
    ids_ = {"session_id": session_ and _normal_id(session_), "booking_id": booking_ and _normal_id(booking_)}
    rows = _read(lambda reader: reader.alerts(kind=kind, **ids_, limit=limit))
    columns = ("openedAt", "severity", "kind", "bookingId", "sessionId", "message")
    print_rows(list(rows), as_json, columns)


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
