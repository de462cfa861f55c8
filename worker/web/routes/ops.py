"""What operators and dashboards read (contract, section 4): sessions, bookings, alerts, status; each says how fresh it is."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from schemas import ids
from schemas.alerts import AlertKind
from schemas.query.violations import Refusals, Rule
from schemas.times import format_time
from worker.read_model.freshness import TOPICS, Partition, freshness_of, troubles
from worker.read_model.reader import ListPage
from worker.web.auth import Scope
from worker.web.errors import answer, invalid, refused
from worker.web.middleware import CALLER
from worker.web.models import Accepted, AlertsAnswer, BookingAnswer, BookingsAnswer, SessionAnswer, StatusAnswer
from worker.web.permissions import PUBLISHING, check_publish
from worker.web.routes.events import BATCH, STRUCTURED, read_events
from worker.web.routing import add
from worker.web.services import parts_of

_MOST = 1000
#: What is no id is nobody's: no id holds a control character.
_NOBODY = "\0"
Limit = Annotated[int, Query(ge=1, le=_MOST, description="how many to show at most")]

ListCursor = Annotated[str | None, Query(description="`next` of a page, to go on behind it")]


def add_ops_calls(router: APIRouter) -> None:
    """Declares all of them, and the one that takes events."""
    read = Scope.READ
    # ids may hold slashes
    add(router, "GET", "/v1/sessions/{sessionId:path}", get_session, read, SessionAnswer, errors=(404,))
    add(router, "GET", "/v1/bookings/{bookingId:path}", get_booking, read, BookingAnswer, errors=(404,))
    add(router, "GET", "/v1/bookings", list_bookings, read, BookingsAnswer)
    add(router, "GET", "/v1/alerts", list_alerts, read, AlertsAnswer)
    add(router, "GET", "/v1/status", get_status, read, StatusAnswer)
    add(router, "POST", "/v1/events", publish_events, PUBLISHING, Accepted, status=202, body=_events_body())


async def get_session(request: Request, session: Annotated[str, Path(alias="sessionId")]) -> Response:
    """The tally of a session."""
    session_id = ids.session_id(session)
    found = None if session_id is None else await parts_of(request).reader.session(session_id)
    if found is None:
        raise refused(404, "SESSION_NOT_FOUND", "no booking lists this session, and nobody came")
    return answer(found)


async def get_booking(request: Request, booking: Annotated[str, Path(alias="bookingId")]) -> Response:
    """The summary of a booking."""
    booking_id = ids.booking_id(booking)
    found = None if booking_id is None else await parts_of(request).reader.booking(booking_id)
    if found is None:
        raise refused(404, "BOOKING_NOT_FOUND", "this booking lists no session and has no attendance")
    return answer(found)


async def list_bookings(
    request: Request, sort: Annotated[Literal["noShowRate"], Query()], limit: Limit = 100, cursor: ListCursor = None
) -> Response:
    """Bookings by how often nobody came, the worst first."""
    del sort  # the one there is
    _known(request, "sort", "limit", "cursor")
    return _list_answer("bookings", await parts_of(request).reader.no_shows_page(limit, cursor))


async def list_alerts(
    request: Request,
    state: Annotated[Literal["open"], Query()] = "open",
    kind: Annotated[AlertKind | None, Query()] = None,
    session: Annotated[str | None, Query(alias="sessionId")] = None,
    booking: Annotated[str | None, Query(alias="bookingId")] = None,
    limit: Limit = 100,
    cursor: ListCursor = None,
) -> Response:
    """Open mismatch alerts, newest first; all given conditions hold. With a cursor they may be left out."""
    del state  # the one there is
    _known(request, "state", "kind", "sessionId", "bookingId", "limit", "cursor")
    found = await parts_of(request).reader.alerts_page(
        kind=kind,
        session_id=None if session is None else ids.session_id(session) or _NOBODY,
        booking_id=None if booking is None else ids.booking_id(booking) or _NOBODY,
        limit=limit,
        cursor=cursor,
    )
    return _list_answer("alerts", found)


async def get_status(request: Request) -> Response:
    """Every partition: its state, how far it is, how far behind."""
    partitions = await parts_of(request).reader.status()
    rebuild = "SERVING" if all(each.state == "live" for each in partitions) else "REPAIRING"
    shown = [_partition(each) for each in partitions]
    problems = [each._asdict() for each in troubles(partitions)]
    fresh = freshness_of(partitions).document()
    return answer({"partitions": shown, "rebuild": rebuild, "problems": problems, "freshness": fresh})


async def publish_events(request: Request) -> Response:
    """Takes CloudEvents of devices that do not speak Kafka: all of them, or none."""
    parts = parts_of(request)
    events = await read_events(request, parts.bodies, parts.settings)
    await check_publish(request.scope[CALLER], [each.published for each in events], parts.reader)
    seconds = parts.settings.api_set_timeout.total_seconds()
    await parts.publisher.publish_all([(each.topic, each.booking_id, each.value) for each in events], seconds)
    return answer({"accepted": len(events)}, 202)


def _list_answer(name: str, found: ListPage) -> Response:
    return answer({name: found.items, "pagingMetadata": found.paging, "freshness": found.freshness.document()})


def _partition(each: Partition) -> dict[str, Any]:
    confirmed = [each.number_of(f"{topic}.confirmedAt") for topic in TOPICS]
    return {
        "partition": each.number,
        "state": each.state,
        "hasWorker": each.has_owner,
        "lag": each.lag,
        "eventTime": each.event_time,
        **{topic: _topic(each, topic) for topic in TOPICS},
        "writtenAt": _time(each.number_of("writtenAt")),
        "kafkaAnsweredAt": _time(min(confirmed)),
    }


def _topic(each: Partition, topic: str) -> dict[str, Any]:
    offset, end, held = (each.number_of(f"{topic}.{name}") for name in ("offset", "end", "held"))
    return {"offset": offset, "end": end, "held": held, "unreadable": each.unreadable(topic)}


def _time(ms: int) -> str | None:
    return format_time(ms * 1000) if ms else None


def _known(request: Request, *names: str) -> None:
    """Refuses parameters that a call has not, so that a filter with a slip of the pen is not taken for none."""
    refusals = Refusals()
    for name in request.query_params:
        if name not in names:
            refusals.add(name[:100], f"unknown; use {', '.join(names)}", Rule.UNKNOWN_FIELD)
        elif len(request.query_params.getlist(name)) > 1:
            refusals.add(name, "give it once", Rule.REPEATED)
    if refusals.found:
        raise invalid(refusals.found)


def _events_body() -> dict[str, Any]:
    one, many = ({"schema": {"$ref": f"#/components/schemas/{name}"}} for name in ("IncomingEvent", "IncomingBatch"))
    data = {"schema": {"type": "object", "description": "binary mode: the event's data, its attributes in ce- headers"}}
    return {"required": True, "content": {STRUCTURED: one, BATCH: many, "application/json": data}}
