"""The routes of sessions by start and of the bookings of a session, page by page."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from schemas import ids
from schemas.query.violations import Rule, Violation, shown
from schemas.times import parse_time
from worker.read_model.query.roster import RosterOrder, RosterState
from worker.web.auth import Scope
from worker.web.errors import Invalid, Refused
from worker.web.models import RosterAnswer, SessionsAnswer
from worker.web.routes.ops import NO_ID, Limit, ListCursor, check_parameters, list_answer
from worker.web.routing import add
from worker.web.services import services_of

#: Sessions that one request names.
MOST_NAMED = 100
_EXAMPLE = "2026-11-22T10:00:00Z"
_Time = Annotated[str | None, Field(json_schema_extra={"format": "date-time"})]
_Names = Annotated[list[str], Query(alias="sessionId", max_length=MOST_NAMED, description="only these, on one page")]
_States = Annotated[list[RosterState], Query(alias="state", max_length=len(RosterState), description="one of these")]
_Prefix = Annotated[str, Query(max_length=ids.MAX_BOOKING_ID, description="what the bookingId begins with")]
_TIMES = ("startsFrom", "startsBefore", "endsAfter", "endsBefore")


def add_session_routes(router: APIRouter) -> None:
    """Declares the routes of this module; before the route of a session, whose id may contain slashes."""
    add(router, "GET", "/v1/sessions", list_sessions, Scope.READ, SessionsAnswer)
    roster = "/v1/sessions/{sessionId:path}/bookings"
    add(router, "GET", roster, list_session_bookings, Scope.READ, RosterAnswer, errors=(404,))


async def list_sessions(
    request: Request,
    starts_from: Annotated[_Time, Query(alias="startsFrom", description="the start, or later")] = None,
    starts_before: Annotated[_Time, Query(alias="startsBefore", description="before this start")] = None,
    ends_after: Annotated[_Time, Query(alias="endsAfter", description="ends later than this")] = None,
    ends_before: Annotated[_Time, Query(alias="endsBefore", description="ends before this")] = None,
    order: Annotated[Literal["ASC", "DESC"] | None, Query(description="by start; ASC where it is left out")] = None,
    names: _Names = [],  # noqa: B006 - FastAPI copies it
    limit: Limit = 100,
    cursor: ListCursor = None,
) -> Response:
    """Sessions by their earliest start; all given conditions hold. With a cursor they may be left out."""
    check_parameters(request, *_TIMES, "order", "sessionId", "limit", "cursor", repeatable=("sessionId",))
    times = dict(zip(_TIMES, (starts_from, starts_before, ends_after, ends_before), strict=True))
    bounds = _bounds(times)
    reader, descending = services_of(request).reader, None if order is None else order == "DESC"
    if not names:
        return list_answer("sessions", await reader.sessions_page(**bounds, descending=descending, limit=limit, cursor=cursor))
    if refused := [name for name in ("limit", "cursor") if name in request.query_params]:
        text = "leave it out where sessionId is given: all of these sessions are on one page"
        raise Invalid(Violation(name, text, Rule.UNKNOWN_FIELD) for name in refused)
    wanted = [name for each in names if (name := ids.session_id(each)) is not None]
    return list_answer("sessions", await reader.named_sessions(wanted, **bounds, descending=bool(descending)))


async def list_session_bookings(
    request: Request,
    session: Annotated[str, Path(alias="sessionId")],
    order: Annotated[RosterOrder | None, Query(description="bookingId where it is left out")] = None,
    states: _States = [],  # noqa: B006
    prefix: _Prefix = "",
    alerts: Annotated[Literal["open"] | None, Query(description="with an open alert at the session")] = None,
    limit: Limit = 100,
    cursor: ListCursor = None,
) -> Response:
    """The bookings of a session, those without attendance included. With a cursor the conditions may be left out."""
    check_parameters(request, "order", "state", "prefix", "alerts", "limit", "cursor", repeatable=("state",))
    beginning = prefix and (ids.booking_id(prefix) or NO_ID)
    session_id = ids.session_id(session)
    page = None
    if session_id is not None:
        page = await services_of(request).reader.roster_page(
            session_id, order=order, states=states, prefix=beginning, alerts=alerts, limit=limit, cursor=cursor
        )
    if page is None:
        raise Refused(404, "SESSION_NOT_FOUND", "no booking lists this session, and it has no attendance")
    return list_answer("bookings", page)


def _bounds(times: Mapping[str, str | None]) -> dict[str, Any]:
    """The conditions on times, as the reader takes them."""
    bounds, violations = dict[str, int | None](), list[Violation]()
    fields = ("starts_from", "starts_before", "ends_after", "ends_before")
    for field, (name, text) in zip(fields, times.items(), strict=True):
        try:
            bounds[field] = None if text is None else parse_time(text)
        except ValueError:
            cure = f"write RFC 3339 with offset, such as {_EXAMPLE}, and + as %2B; this is {shown(text)}"
            violations.append(Violation(name, cure, Rule.MALFORMED))
    if violations:
        raise Invalid(violations)
    return bounds
