"""The history of one attendance as a page: read from Kafka on request, one at a time of each token, and not live."""

import secrets

from fastapi import Request, Response
from starlette.responses import HTMLResponse

from schemas import ids
from schemas.attendance import attendance_id, guid
from worker.web.errors import Refused
from worker.web.routes.history import read_history
from worker.web.screen.templates import render
from worker.web.security import Caller
from worker.web.services import services_of


async def show_history(request: Request, holder: Caller, booking: str = "", session: str = "") -> Response:
    """Every event of the attendance that the topic holds, and why it counts or not."""
    booking_id, session_id = ids.booking_id(booking), ids.session_id(session)
    if booking_id is None or session_id is None:
        raise Refused(404, "ATTENDANCE_NOT_FOUND", "name the booking and the session of an attendance")
    services = services_of(request)
    identity = guid(attendance_id(booking_id, session_id))
    document = await read_history(services, holder, identity, booking_id, session_id)
    html = render(
        "history.html",
        title="History of an attendance",
        current="history",
        history=document,
        nonce=secrets.token_urlsafe(16),
        has_tokens=services.tokens is not None,
    )
    return HTMLResponse(html)
