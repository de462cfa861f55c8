"""The route of live values: server-sent events while tallies, summaries, alerts and the state of the system change."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response, Security

from schemas import ids
from schemas.alerts import AlertKind
from schemas.query.violations import Rule, Violations
from worker.web.auth import Scope
from worker.web.live.events import MEDIA_TYPE, live_response, named_event
from worker.web.live.source import Delivery, Source
from worker.web.live.sources import BY_ID, BookingSummary, OpenAlerts, SessionTally, SystemStatus
from worker.web.routing import COMMON, error_responses
from worker.web.security import bearer_token
from worker.web.services import services_of

#: Sessions, bookings and conditions of alerts that a call may name.
MAX_KEYS = 100
#: All kinds of alerts.
_OPEN = "open"
_NAMES = ("sessions", "booking", "alerts")


def add_live_routes(router: APIRouter) -> None:
    """Declares the routes of this module."""
    events = {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "server-sent events"}
    router.add_api_route(
        "/v1/live",
        get_live,
        methods=["GET"],
        response_model=None,
        responses={200: events, **error_responses(*COMMON)},
        response_class=Response,
        dependencies=[Security(bearer_token, scopes=[Scope.READ.value])],
        operation_id=get_live.__name__,
    )


async def get_live(
    request: Request,
    sessions: Annotated[Sequence[str], Query(description="a session's id; may be repeated")] = (),
    booking: Annotated[Sequence[str], Query(description="a booking's id; may be repeated")] = (),
    alerts: Annotated[Sequence[str], Query(description=f"`{_OPEN}`, or a kind of alert; may be repeated")] = (),
) -> Response:
    """Live values: a snapshot, then what changes, at most four events a second."""
    reader = services_of(request).reader
    violations = Violations()
    for name in request.query_params:
        if name not in _NAMES:
            violations.add(name[:100], f"unknown; use {', '.join(_NAMES)}", Rule.UNKNOWN_FIELD)
    sources: list[Source] = [SystemStatus(reader)]
    for name, texts, normalise, kind in (
        ("sessions", sessions, ids.session_id, SessionTally),
        ("booking", booking, ids.booking_id, BookingSummary),
    ):
        for text in texts:
            if (identity := normalise(text)) is None:
                violations.add(name, "write an id; it has no control characters", Rule.MALFORMED)
            else:
                sources.append(kind(reader, identity))
    known = [_OPEN, *AlertKind]
    for text in alerts:
        if text not in known:
            violations.add("alerts", f"write one of {', '.join(known)}", Rule.UNKNOWN_VALUE)
    if alerts:
        sources.append(OpenAlerts(reader, tuple(kind for kind in AlertKind if _OPEN in alerts or kind in alerts)))
    if len({each.key for each in sources}) > MAX_KEYS + 1:
        violations.add("sessions", f"send at most {MAX_KEYS} keys in a call", Rule.TOO_MANY)
    violations.raise_if_any()
    return live_response(request, sources, lambda delivery: named_event(delivery, encode))


def encode(delivery: Delivery) -> bytes:
    """The values of a delivery as a JSON object: ``sessions`` and ``bookings`` by id, ``alerts``, ``status``."""
    document: dict[str, Any] = {}
    for key, value in delivery.values.items():
        assert isinstance(key, tuple)
        name, *rest = key
        if name in BY_ID:
            document.setdefault(name, {})[rest[0]] = orjson.Fragment(value)
        else:
            document[name] = orjson.Fragment(value)
    return orjson.dumps(document)
