"""Marks from the screen: an attendance is set or cleared through the API's own commands, and may be set back."""

from typing import Any, NamedTuple

from fastapi import Request, Response
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse

from schemas import ids
from schemas.attendance import Attendance, AttendanceStatus
from schemas.events import EventType
from worker.web.commands import Command
from worker.web.errors import ApiError, Refused
from worker.web.screen.csrf import check_csrf
from worker.web.screen.errors import is_fragment
from worker.web.screen.forms import read_form
from worker.web.screen.paths import page_at
from worker.web.screen.templates import render
from worker.web.services import Services, services_of


class Mark(NamedTuple):
    """What a button asks for."""

    status: AttendanceStatus
    number: int
    booking_id: str

    @classmethod
    def of(cls, text: str) -> "Mark":
        """From a button's value, ``STATUS:number:bookingId``.

        Raises:
            ApiError: it is malformed (400).
        """
        status, _, rest = text.partition(":")
        number, _, booking = rest.partition(":")
        booking_id = ids.booking_id(booking)
        is_number = number.isascii() and number.isdecimal() and len(number) < 10 and int(number) <= ids.MAX_ATTENDEES
        if status not in set(AttendanceStatus) or not is_number or booking_id is None:
            raise Refused(400, "MALFORMED_MARK", "this button is of another version: load the page again")
        return cls(AttendanceStatus(status), int(number), booking_id)

    @property
    def value(self) -> str:
        """As a button has it."""
        return f"{self.status}:{self.number}:{self.booking_id}"

    def command(self, session_id: str) -> Command:
        """NOT_SET is the undo of the law of the fold; the other two are set as they are, with their number."""
        if self.status is AttendanceStatus.NOT_SET:
            return Command(EventType.CLEARED, self.booking_id, session_id, {})
        data: dict[str, Any] = {"status": self.status.value, "numberOfAttendees": self.number}
        return Command(EventType.SET, self.booking_id, session_id, data)


async def mark(request: Request) -> Response:
    """Marks a booking of a session; answers with the result and a button that sets it back."""
    form = await read_form(request)
    check_csrf(request, form.get("csrf", ""))
    wanted, session_id = Mark.of(form.get("mark", "")), ids.session_id(form.get("session", ""))
    if session_id is None:
        raise Refused(400, "MALFORMED_MARK", "the form names no session: load the page again")
    services = services_of(request)
    before = await services.reader.latest(wanted.booking_id, session_id)
    after = await _execute(services, wanted.command(session_id))
    if not is_fragment(request):
        return RedirectResponse(page_at(form.get("return", "")), 303)
    undo = _as_it_was(wanted.booking_id, None if before is None else before[0])
    return HTMLResponse(_result(wanted.booking_id, after, undo))


async def _execute(services: Services, command: Command) -> Attendance | None:
    (result,) = await services.commands.execute([command])
    if isinstance(result, ApiError):
        raise result
    return result


def _as_it_was(booking_id: str, attendance: Attendance | None) -> Mark:
    if attendance is None:
        return Mark(AttendanceStatus.NOT_SET, 0, booking_id)
    return Mark(AttendanceStatus(attendance["status"]), attendance["numberOfAttendees"], booking_id)


def _result(booking_id: str, after: Attendance | None, undo: Mark) -> Markup:
    status, number = ("NOT_SET", 0) if after is None else (after["status"], after["numberOfAttendees"])
    return render("fragments/marked.html", booking=booking_id, status=status, number=number, undo=undo)
