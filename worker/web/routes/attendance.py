"""The routes of attendances: get, query, count, set, delete, bulk set and bulk delete."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from schemas.attendance import Attendance, attendance_id, guid
from schemas.events import EventType
from schemas.query.request import document as page_document
from schemas.query.request import parse_filter
from schemas.query.violations import Rule, Violations
from worker.web.auth import Scope
from worker.web.commands import Command
from worker.web.errors import ApiError, Refused, answer, problem_of
from worker.web.models import AttendanceAnswer, BulkAnswer, CountAnswer, Nothing, QueryAnswer
from worker.web.requests import attendance_guid, read_flag, read_ids, read_set, read_sets
from worker.web.routing import DirectRoute, add, json_body
from worker.web.services import Services, services_of

_ONE = "/bookings/v2/attendance"
_BULK = "/bookings/v2/bulk/attendance"
AttendanceId = Annotated[str, Path(alias="id", description="an attendance's id, a GUID")]


def add_attendance_routes(router: APIRouter) -> None:
    """Declares the routes of this module."""
    read, manage = Scope.READ, Scope.MANAGE
    add(router, "GET", _ONE + "/{id}", get_attendance, read, AttendanceAnswer, errors=(404,), route_class=DirectRoute)
    query, count = json_body("QueryRequest"), json_body("CountRequest")
    add(router, "POST", f"{_ONE}/query", query_attendance, read, QueryAnswer, body=query, route_class=DirectRoute)
    add(router, "POST", f"{_ONE}/count", count_attendance, read, CountAnswer, body=count, route_class=DirectRoute)
    add(router, "POST", f"{_ONE}/set", set_attendance, manage, AttendanceAnswer, body=json_body("SetRequest"), errors=(409,))
    add(router, "POST", f"{_BULK}/set", bulk_set_attendance, manage, BulkAnswer, body=json_body("BulkSetRequest"))
    add(router, "POST", f"{_BULK}/delete", bulk_delete_attendance, manage, BulkAnswer, body=json_body("BulkDeleteRequest"))
    add(router, "DELETE", _ONE + "/{id}", delete_attendance, manage, Nothing, errors=(404, 409))


async def get_attendance(request: Request, attendance: AttendanceId) -> Response:
    """The attendance with this id."""
    normalised = attendance_guid(attendance)
    document = None if normalised is None else await services_of(request).reader.get(normalised)
    if document is None:
        raise _not_found(attendance)
    return answer({"attendance": document})


async def query_attendance(request: Request) -> Response:
    """A page of attendances: any filters and sorts, with cursors both ways."""
    services = services_of(request)
    document = _only(await services.bodies.document(request), "query")
    query = await services.reader.parse(document.get("query"), first_filter_only=services.settings.query_first_filter_only)
    return answer(page_document(await services.reader.query(query)))


async def count_attendance(request: Request) -> Response:
    """How many attendances a filter matches."""
    services = services_of(request)
    document = _only(await services.bodies.document(request), "filter")
    filter_ = parse_filter(document.get("filter"), first_filter_only=services.settings.query_first_filter_only)
    return answer({"count": await services.reader.count(filter_)})


async def set_attendance(request: Request) -> Response:
    """Sets one attendance, contradictions included, and returns it once it has been applied."""
    services = services_of(request)
    command = read_set(await services.bodies.document(request))
    (result,) = await services.commands.execute([command])
    if isinstance(result, ApiError):
        raise result
    return answer({"attendance": result})


async def bulk_set_attendance(request: Request) -> Response:
    """Sets up to 100 attendances; of several entries for the same one the last wins."""
    services = services_of(request)
    document = await services.bodies.document(request)
    full = read_flag(document, "returnFullEntity")
    commands = read_sets(document)
    results = await services.commands.execute(commands)
    ids = [guid(attendance_id(command.booking_id, command.session_id)) for command in commands]
    return _bulk_answer(ids, results, full=full)


async def delete_attendance(request: Request, attendance: AttendanceId) -> Response:
    """Deletes an attendance; a later event creates it again."""
    services = services_of(request)
    (command,) = await _deletions(services, [attendance])
    if isinstance(command, ApiError):
        raise command
    (result,) = await services.commands.execute([command])
    if isinstance(result, ApiError):
        raise result
    return answer({})


async def bulk_delete_attendance(request: Request) -> Response:
    """Deletes up to 100 attendances."""
    services = services_of(request)
    ids = read_ids(await services.bodies.document(request))
    deletions = await _deletions(services, ids)
    executed = iter(await services.commands.execute([each for each in deletions if isinstance(each, Command)]))
    results = [next(executed) if isinstance(each, Command) else each for each in deletions]
    return _bulk_answer(ids, results, full=False)


async def _deletions(services: Services, ids: Sequence[str]) -> list[Command | ApiError]:
    """The command that deletes each attendance, or the error why it cannot be deleted."""
    deletions: list[Command | ApiError] = []
    for text in ids:
        normalised = attendance_guid(text)
        try:
            attendance = None if normalised is None else await services.reader.get(normalised)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            deletions.append(problem)
            continue
        if attendance is None:
            deletions.append(_not_found(text))
        else:
            deletions.append(Command(EventType.DELETED, attendance["bookingId"], attendance["sessionId"], {}))
    return deletions


def _bulk_answer(ids: Sequence[str], results: Sequence[Attendance | ApiError | None], *, full: bool) -> Response:
    """The response with the result of each entry. Raises the first error if all entries failed for an unavailable service."""
    failed = [result for result in results if isinstance(result, ApiError)]
    if len(failed) == len(results) and all(error.status == 503 for error in failed):
        raise failed[0]
    entries: list[dict[str, Any]] = []
    for index, (identity, result) in enumerate(zip(ids, results, strict=True)):
        metadata: dict[str, Any] = {"id": identity, "originalIndex": index, "success": not isinstance(result, ApiError)}
        if isinstance(result, ApiError):
            metadata["error"] = result.application_error
        entry: dict[str, Any] = {"itemMetadata": metadata}
        if full and result is not None and not isinstance(result, ApiError):
            entry["item"] = result
        entries.append(entry)
    totals = {"totalSuccesses": len(results) - len(failed), "totalFailures": len(failed), "undetailedFailures": 0}
    return answer({"results": entries, "bulkActionMetadata": totals})


def _only(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Checks that the request has no other key: an ignored filter in the wrong place would match everything."""
    violations = Violations()
    for key in document:
        if key != name:
            violations.add(key[:100], f"unknown; the request has only {name}", Rule.UNKNOWN_FIELD)
    violations.raise_if_any()
    return document


def _not_found(identity: str) -> ApiError:
    return Refused(404, "ATTENDANCE_NOT_FOUND", "no attendance has this id", {"id": identity[:100]})
