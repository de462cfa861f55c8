"""The route of an attendance's history: the only one that reads Kafka, so requests take turns."""

import asyncio
from time import monotonic
from typing import Annotated, Any

from aiokafka.errors import KafkaError
from fastapi import APIRouter, Path, Query, Request, Response

from schemas import ids
from schemas.attendance import attendance_id, guid
from schemas.query.violations import Rule, Violations
from worker.history.errors import HistoryError, TooManyEvents
from worker.history.explain import Explainer, Pace, Subject, is_unknown
from worker.web.auth import Scope
from worker.web.errors import Refused, Unavailable, answer
from worker.web.history_turns import Busy
from worker.web.models import HistoryAnswer
from worker.web.permissions import Holder
from worker.web.requests import attendance_guid
from worker.web.routes.ops import check_parameters
from worker.web.routing import add
from worker.web.security import Caller
from worker.web.services import Services, services_of

#: Events that a response has at most.
MOST_EVENTS = 5_000
#: Other requests wait for so much work: at most about 20 ms, where each record is of the booking.
_PACE = Pace(records=500, fetch_bytes=128 * 1024)
#: Left of the time of a request for its answer, seconds.
_ANSWER_SECONDS = 1.0
#: The share of the time of a request in which it waits for its turn.
_WAITING_SHARE = 0.25
_LATER = {"retry-after": "30"}
_COMMAND = "`attendance explain BOOKING SESSION` has no limit"


def add_history_routes(router: APIRouter) -> None:
    """Declares the route of this module."""
    add(router, "GET", "/v1/attendance/{id}/history", get_history, Scope.READ, HistoryAnswer, errors=(404,))


async def get_history(
    request: Request,
    holder: Caller,
    attendance: Annotated[str, Path(alias="id", description="an attendance's id, a GUID")],
    booking: Annotated[str | None, Query(alias="bookingId", description="with sessionId: of one that is deleted")] = None,
    session: Annotated[str | None, Query(alias="sessionId")] = None,
) -> Response:
    """Every event of an attendance that the topic holds, why it counts or not, and what that comes to."""
    check_parameters(request, "bookingId", "sessionId")
    return answer(await read_history(services_of(request), holder, attendance, booking, session))


async def read_history(
    services: Services, holder: Holder, attendance: str, booking: str | None, session: str | None
) -> dict[str, Any]:
    """The document of a history, when it is the turn of its reader.

    Raises:
        ApiError: it cannot be read, or there is none.
    """
    subject = await _subject(services, attendance, booking, session)
    seconds = services.settings.api_request_timeout.total_seconds()
    until = monotonic() + max(seconds / 2, seconds - _ANSWER_SECONDS)
    try:
        async with services.histories.take(holder.name, seconds * _WAITING_SHARE):
            document = await _explain(services, subject, until - monotonic())
    except Busy:
        description = "another history is being read: retry, or run `attendance explain`"
        raise Refused(429, "HISTORY_BUSY", description, headers={"retry-after": "5"}) from None
    if is_unknown(document):
        raise _not_found(attendance)
    return document


async def _subject(services: Services, attendance: str, booking: str | None, session: str | None) -> Subject:
    """The attendance by the ids of the request, else as Redis has it."""
    if booking is None and session is None:
        normalised = attendance_guid(attendance)
        found = None if normalised is None else await services.reader.get(normalised)
        if found is None:
            raise _not_found(attendance)
        return Subject(found["bookingId"], found["sessionId"])
    violations = Violations()
    booking_id = ids.booking_id(booking or "")
    session_id = ids.session_id(session or "")
    for name, text, normalised in (("bookingId", booking, booking_id), ("sessionId", session, session_id)):
        if text is None:
            violations.add(name, "is missing; send bookingId and sessionId, or neither", Rule.REQUIRED)
        elif normalised is None:
            violations.add(name, f"is not a {name}", Rule.MALFORMED)
    violations.raise_if_any()
    assert booking_id is not None
    assert session_id is not None
    identity = guid(attendance_id(booking_id, session_id))
    if attendance_guid(attendance) != identity:
        violations.add("id", f"is not the attendance of this booking and session, which is {identity}", Rule.UNKNOWN_VALUE)
    violations.raise_if_any()
    return Subject(booking_id, session_id)


async def _explain(services: Services, subject: Subject, seconds: float) -> dict[str, Any]:
    explainer = Explainer(services.settings, services.reader, subject, _ignore, pace=_PACE, most_events=MOST_EVENTS)
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await explainer.explain()
    except TimeoutError:
        if not timeout.expired():
            raise
        description = f"the events cannot be read within {seconds:.0f} s; {_COMMAND}"
        raise Refused(503, "HISTORY_TOO_LONG", description, headers=_LATER) from None
    except TooManyEvents as error:
        raise Refused(503, "HISTORY_TOO_LONG", f"{error}; {_COMMAND}", headers=_LATER) from None
    except HistoryError as error:
        raise Refused(503, "HISTORY_UNREADABLE", str(error), headers=_LATER) from None
    except KafkaError:
        raise Unavailable("BROKER_AWAY", "Kafka does not answer: retry") from None


def _ignore(_: int, __: int) -> None:
    """Nobody sees the progress of a request."""


def _not_found(attendance: str) -> Refused:
    description = "no attendance has this id; of one that is deleted, name bookingId and sessionId too"
    return Refused(404, "ATTENDANCE_NOT_FOUND", description, {"id": attendance[:100]})
