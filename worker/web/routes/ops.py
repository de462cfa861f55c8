"""The routes of sessions, bookings, alerts and status, each with its freshness; and the route that takes events."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from schemas import ids
from schemas.alerts import AlertKind
from schemas.events import BATCH, STRUCTURED, Topic
from schemas.query.violations import Rule, Violations
from schemas.times import format_time
from worker.read_model.build_keys import describe_builds
from worker.read_model.freshness import TOPICS, Partition, find_problems, freshness_of
from worker.read_model.operations import Operation
from worker.read_model.operations_page import operations_page
from worker.read_model.reader import LARGEST_PAGE, ListPage, ReaderError
from worker.web.auth import Scope
from worker.web.errors import Invalid, Refused, answer
from worker.web.models import (
    Accepted,
    AlertsAnswer,
    BookingAnswer,
    BookingsAnswer,
    OperationsAnswer,
    SessionAnswer,
    StatusAnswer,
)
from worker.web.permissions import PUBLISHING, check_publish
from worker.web.routes.events import read_events
from worker.web.routing import DirectRoute, add
from worker.web.security import Caller
from worker.web.services import services_of

#: In place of a text that is not an id: nothing matches it, since no id holds a control character.
NO_ID = "\0"
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="largest number of items in a page")]

ListCursor = Annotated[str | None, Query(description="`next` of the previous page")]


def add_ops_routes(router: APIRouter) -> None:
    """Declares the routes of this module."""
    read = Scope.READ
    # ids may contain slashes
    session, booking = "/v1/sessions/{sessionId:path}", "/v1/bookings/{bookingId:path}"
    add(router, "GET", session, get_session, read, SessionAnswer, errors=(404,), route_class=DirectRoute)
    add(router, "GET", booking, get_booking, read, BookingAnswer, errors=(404,), route_class=DirectRoute)
    add(router, "GET", "/v1/bookings", list_bookings, read, BookingsAnswer)
    add(router, "GET", "/v1/alerts", list_alerts, read, AlertsAnswer)
    add(router, "GET", "/v1/operations", list_operations, read, OperationsAnswer)
    add(router, "GET", "/v1/status", get_status, read, StatusAnswer)
    add(router, "POST", "/v1/events", publish_events, PUBLISHING, Accepted, status=202, body=_events_body())


async def get_session(request: Request, session: Annotated[str, Path(alias="sessionId")]) -> Response:
    """The tally of a session."""
    check_parameters(request)
    session_id = ids.session_id(session)
    tally = None if session_id is None else await services_of(request).reader.session(session_id)
    if tally is None:
        raise Refused(404, "SESSION_NOT_FOUND", "no booking lists this session, and it has no attendance")
    return answer(tally)


async def get_booking(request: Request, booking: Annotated[str, Path(alias="bookingId")]) -> Response:
    """The summary of a booking."""
    check_parameters(request)
    booking_id = ids.booking_id(booking)
    summary = None if booking_id is None else await services_of(request).reader.booking(booking_id)
    if summary is None:
        raise Refused(404, "BOOKING_NOT_FOUND", "this booking lists no session and has no attendance")
    return answer(summary)


async def list_bookings(
    request: Request, sort: Annotated[Literal["noShowRate"], Query()], limit: Limit = 100, cursor: ListCursor = None
) -> Response:
    """Bookings by noShowRate, the highest first."""
    del sort  # has a single value
    check_parameters(request, "sort", "limit", "cursor")
    return list_answer("bookings", await services_of(request).reader.no_shows_page(limit, cursor))


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
    del state  # has a single value
    check_parameters(request, "state", "kind", "sessionId", "bookingId", "limit", "cursor")
    page = await services_of(request).reader.alerts_page(
        kind=kind,
        session_id=None if session is None else ids.session_id(session) or NO_ID,
        booking_id=None if booking is None else ids.booking_id(booking) or NO_ID,
        limit=limit,
        cursor=cursor,
    )
    return list_answer("alerts", page)


async def list_operations(request: Request, limit: Limit = 100, cursor: ListCursor = None) -> Response:
    """The long commands of operators that run, ran, or can be resumed, the newest first."""
    check_parameters(request, "limit", "cursor")
    services = services_of(request)
    page = await operations_page(services.client, services.settings.redis_namespace, limit, cursor)
    try:
        fresh = (await services.reader.freshness()).document()
    except ReaderError:
        # they are shown also while nothing is served: a rebuild is one of them
        fresh = {"eventTime": None, "lag": None}
    shown = [_operation(each) for each in page.items]
    return answer({"operations": shown, "pagingMetadata": page.paging, "freshness": fresh})


async def get_status(request: Request) -> Response:
    """Every partition: its state, offsets and lag; and the namespaces that workers write beside the live one."""
    check_parameters(request)
    services = services_of(request)
    partitions = await services.reader.status()
    rebuild = "SERVING" if all(each.state == "live" for each in partitions) else "REPAIRING"
    shown = [_partition(each) for each in partitions]
    problems = [each._asdict() for each in find_problems(partitions)]
    fresh = freshness_of(partitions).document()
    builds = await describe_builds(services.client, services.settings.redis_namespace)
    return answer({"partitions": shown, "rebuild": rebuild, "builds": builds, "problems": problems, "freshness": fresh})


async def publish_events(request: Request, holder: Caller) -> Response:
    """Publishes CloudEvents of devices that do not speak Kafka: all of them, or none."""
    services = services_of(request)
    events = await read_events(request, services.bodies, services.settings)
    await check_publish(holder, [each.published for each in events], services.reader)
    seconds = services.settings.api_set_timeout.total_seconds()
    topics = await services.topics.names()
    names = {Topic.EVENTS: topics.events, Topic.BOOKINGS: topics.bookings}
    await services.publisher.publish_all([(names[each.topic], each.booking_id, each.value) for each in events], seconds)
    return answer({"accepted": len(events)}, 202)


def list_answer(name: str, page: ListPage) -> Response:
    """A page of a list, its items under this name."""
    return answer({name: page.items, "pagingMetadata": page.paging, "freshness": page.freshness.document()})


def _operation(operation: Operation) -> dict[str, Any]:
    """What a dashboard needs: target, request and error may name folders, hosts and bookings."""
    document = operation.document()
    names = ("id", "command", "state", "end", "counts", "startedAt", "savedAt")
    # a position may be in files, whose paths the end does not name
    position = {name: at for name, at in operation.position.items() if name in operation.end}
    return {name: document[name] for name in names} | {"position": position}


def _partition(partition: Partition) -> dict[str, Any]:
    confirmed = [partition.number_of(f"{topic}.confirmedAt") for topic in TOPICS]
    return {
        "partition": partition.number,
        "state": partition.state,
        "hasWorker": partition.has_owner,
        "lag": partition.lag,
        "eventTime": partition.event_time,
        **{topic: _topic(partition, topic) for topic in TOPICS},
        "writtenAt": _time(partition.number_of("writtenAt")),
        "kafkaAnsweredAt": _time(min(confirmed)),
    }


def _topic(partition: Partition, topic: str) -> dict[str, Any]:
    offset, end, held = (partition.number_of(f"{topic}.{name}") for name in ("offset", "end", "held"))
    return {"offset": offset, "end": end, "held": held, "unreadable": partition.unreadable(topic)}


def _time(ms: int) -> str | None:
    return format_time(ms * 1000) if ms else None


def check_parameters(request: Request, *names: str, repeatable: Collection[str] = ()) -> None:
    """Rejects unknown parameters, so that a misspelled filter is an error and not ignored; and those that are sent twice."""
    if not request.scope["query_string"]:
        return
    violations = Violations()
    known = f"use {', '.join(names)}" if names else "this call takes none"
    for name in request.query_params:
        if name not in names:
            violations.add(name[:100], f"unknown; {known}", Rule.UNKNOWN_FIELD)
        elif name not in repeatable and len(request.query_params.getlist(name)) > 1:
            violations.add(name, "send it once", Rule.REPEATED)
    if violations.items:
        raise Invalid(violations.items)


def _events_body() -> dict[str, Any]:
    one, many = ({"schema": {"$ref": f"#/components/schemas/{name}"}} for name in ("IncomingEvent", "IncomingBatch"))
    data = {"schema": {"type": "object", "description": "binary mode: the event's data, its attributes in ce- headers"}}
    return {"required": True, "content": {STRUCTURED: one, BATCH: many, "application/json": data}}
