"""The Attendance API's calls (contract, section 4): get, query, count, set, delete, and both in bulk."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from schemas.attendance import Attendance, attendance_id, guid
from schemas.events import EventType
from schemas.query.request import document as page_document
from schemas.query.request import parse_filter
from schemas.query.violations import Refusals, Rule
from worker.web.auth import Scope
from worker.web.commands import Change
from worker.web.errors import ApiError, answer, problem_of, refused
from worker.web.models import AttendanceAnswer, BulkAnswer, CountAnswer, Nothing, QueryAnswer
from worker.web.requests import attendance_guid, read_flag, read_ids, read_set, read_sets
from worker.web.routing import add, json_body
from worker.web.services import Parts, parts_of

_ONE = "/bookings/v2/attendance"
_BULK = "/bookings/v2/bulk/attendance"
AttendanceId = Annotated[str, Path(alias="id", description="an attendance's id, a GUID")]


def add_attendance_calls(router: APIRouter) -> None:
    """Declares all of them."""
    read, manage = Scope.READ, Scope.MANAGE
    add(router, "GET", _ONE + "/{id}", get_attendance, read, AttendanceAnswer, errors=(404,))
    add(router, "POST", f"{_ONE}/query", query_attendance, read, QueryAnswer, body=json_body("QueryRequest"))
    add(router, "POST", f"{_ONE}/count", count_attendance, read, CountAnswer, body=json_body("CountRequest"))
    add(router, "POST", f"{_ONE}/set", set_attendance, manage, AttendanceAnswer, body=json_body("SetRequest"), errors=(409,))
    add(router, "POST", f"{_BULK}/set", bulk_set_attendance, manage, BulkAnswer, body=json_body("BulkSetRequest"))
    add(router, "POST", f"{_BULK}/delete", bulk_delete_attendance, manage, BulkAnswer, body=json_body("BulkDeleteRequest"))
    add(router, "DELETE", _ONE + "/{id}", delete_attendance, manage, Nothing, errors=(404, 409))


async def get_attendance(request: Request, attendance: AttendanceId) -> Response:
    """The attendance with this id."""
    wanted = attendance_guid(attendance)
    found = None if wanted is None else await parts_of(request).reader.get(wanted)
    if found is None:
        raise _not_found(attendance)
    return answer({"attendance": found})


async def query_attendance(request: Request) -> Response:
    """A page of attendances: any filters and sorts, with cursors both ways."""
    parts = parts_of(request)
    document = _only(await parts.bodies.document(request), "query")
    query = await parts.reader.parse(document.get("query"), first_filter_only=parts.settings.query_first_filter_only)
    return answer(page_document(await parts.reader.query(query)))


async def count_attendance(request: Request) -> Response:
    """How many attendances a filter matches."""
    parts = parts_of(request)
    document = _only(await parts.bodies.document(request), "filter")
    wanted = parse_filter(document.get("filter"), first_filter_only=parts.settings.query_first_filter_only)
    return answer({"count": await parts.reader.count(wanted)})


async def set_attendance(request: Request) -> Response:
    """Sets one attendance, contradictions included, and shows it once it has been applied."""
    parts = parts_of(request)
    change = read_set(await parts.bodies.document(request))
    (done,) = await parts.changes.carry_out([change])
    if isinstance(done, ApiError):
        raise done
    return answer({"attendance": done})


async def bulk_set_attendance(request: Request) -> Response:
    """Sets up to 100 attendances; of several entries for the same one the last wins."""
    parts = parts_of(request)
    document = await parts.bodies.document(request)
    entire = read_flag(document, "returnFullEntity")
    changes = read_sets(document)
    done = await parts.changes.carry_out(changes)
    ids = [guid(attendance_id(change.booking_id, change.session_id)) for change in changes]
    return _bulk_answer(ids, done, entire=entire)


async def delete_attendance(request: Request, attendance: AttendanceId) -> Response:
    """Deletes an attendance; a later event makes it anew."""
    parts = parts_of(request)
    (change,) = await _deletions(parts, [attendance])
    if isinstance(change, ApiError):
        raise change
    (done,) = await parts.changes.carry_out([change])
    if isinstance(done, ApiError):
        raise done
    return answer({})


async def bulk_delete_attendance(request: Request) -> Response:
    """Deletes up to 100 attendances."""
    parts = parts_of(request)
    ids = read_ids(await parts.bodies.document(request))
    changes = await _deletions(parts, ids)
    carried = iter(await parts.changes.carry_out([each for each in changes if isinstance(each, Change)]))
    done = [next(carried) if isinstance(each, Change) else each for each in changes]
    return _bulk_answer(ids, done, entire=False)


async def _deletions(parts: Parts, ids: Sequence[str]) -> list[Change | ApiError]:
    """What to delete, or why that cannot be."""
    changes: list[Change | ApiError] = []
    for each in ids:
        wanted = attendance_guid(each)
        try:
            found = None if wanted is None else await parts.reader.get(wanted)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            changes.append(problem)
            continue
        if found is None:
            changes.append(_not_found(each))
        else:
            changes.append(Change(EventType.DELETED, found["bookingId"], found["sessionId"], {}))
    return changes


def _bulk_answer(ids: Sequence[str], done: Sequence[Attendance | ApiError | None], *, entire: bool) -> Response:
    """What came of each; where nothing came of any because a service is away, its error."""
    failed = [each for each in done if isinstance(each, ApiError)]
    if len(failed) == len(done) and all(each.status == 503 for each in failed):
        raise failed[0]
    results: list[dict[str, Any]] = []
    for index, (identity, each) in enumerate(zip(ids, done, strict=True)):
        metadata: dict[str, Any] = {"id": identity, "originalIndex": index, "success": not isinstance(each, ApiError)}
        if isinstance(each, ApiError):
            metadata["error"] = each.application_error
        result: dict[str, Any] = {"itemMetadata": metadata}
        if entire and each is not None and not isinstance(each, ApiError):
            result["item"] = each
        results.append(result)
    totals = {"totalSuccesses": len(done) - len(failed), "totalFailures": len(failed), "undetailedFailures": 0}
    return answer({"results": results, "bulkActionMetadata": totals})


def _only(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The request, if it holds nothing but this: a filter in the wrong place would ask for everything."""
    refusals = Refusals()
    for key in document:
        if key != name:
            refusals.add(key[:100], f"unknown; the request has {name} alone", Rule.UNKNOWN_FIELD)
    refusals.settle()
    return document


def _not_found(identity: str) -> ApiError:
    return refused(404, "ATTENDANCE_NOT_FOUND", "no attendance has this id", {"id": identity[:100]})
