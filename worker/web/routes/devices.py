"""The routes of devices and of the arrivals at a session."""

from time import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from schemas import ids
from schemas.query.violations import Rule, Violation, shown
from schemas.times import parse_time
from worker.read_model.query.devices import MOST_MINUTES
from worker.web.auth import Scope
from worker.web.errors import Invalid, Refused, answer
from worker.web.models import ArrivalsAnswer, DevicesAnswer
from worker.web.routes.ops import Limit, ListCursor, check_parameters, list_answer
from worker.web.routing import add
from worker.web.services import services_of

_EXAMPLE = "2026-11-22T10:00:00Z"
_MINUTE = 60_000_000
#: Minutes before `to` that are shown where `from` is left out.
_USUAL_MINUTES = 60
_Time = Annotated[str | None, Field(json_schema_extra={"format": "date-time"})]


def add_device_routes(router: APIRouter) -> None:
    """Declares the routes of this module; before the route of a session, whose id may contain slashes."""
    add(router, "GET", "/v1/devices", list_devices, Scope.READ, DevicesAnswer)
    add(router, "GET", "/v1/sessions/{sessionId:path}/arrivals", get_arrivals, Scope.READ, ArrivalsAnswer, errors=(404,))


async def list_devices(request: Request, limit: Limit = 100, cursor: ListCursor = None) -> Response:
    """Sources of events by their newest event, the newest first; then those of which only dead letters are known."""
    check_parameters(request, "limit", "cursor")
    return list_answer("devices", await services_of(request).reader.devices_page(limit=limit, cursor=cursor))


async def get_arrivals(
    request: Request,
    session: Annotated[str, Path(alias="sessionId")],
    since: Annotated[_Time, Query(alias="from", description="the first minute; an hour before `to` where left out")] = None,
    until: Annotated[_Time, Query(alias="to", description="the end, later than the last minute; now where left out")] = None,
) -> Response:
    """The people of a session's ATTENDED attendances by the minute in which they arrived; minutes without any are left out."""
    check_parameters(request, "from", "to")
    end = int(time()) // 60 + 1 if until is None else _minute_after("to", until)
    start = end - _USUAL_MINUTES if since is None else _minute_of("from", since)
    if not 0 < end - start <= MOST_MINUTES:
        cure = f"must be earlier than to, by at most {MOST_MINUTES // 60} hours"
        raise Invalid([Violation("from", cure, Rule.OUT_OF_RANGE)])
    session_id = ids.session_id(session)
    arrivals = None if session_id is None else await services_of(request).reader.arrivals(session_id, start, end)
    if arrivals is None:
        raise Refused(404, "SESSION_NOT_FOUND", "no booking lists this session, and it has no attendance")
    return answer(arrivals)


def _minute_of(name: str, text: str) -> int:
    """The minute of a time."""
    return _time(name, text) // _MINUTE


def _minute_after(name: str, text: str) -> int:
    """The first minute that begins at a time or later."""
    return -(-_time(name, text) // _MINUTE)


def _time(name: str, text: str) -> int:
    try:
        return parse_time(text)
    except ValueError:
        cure = f"write RFC 3339 with offset, such as {_EXAMPLE}, and + as %2B; this is {shown(text)}"
        raise Invalid([Violation(name, cure, Rule.MALFORMED)]) from None
