"""A session: its tally and its bookings, which may be marked."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from markupsafe import Markup, escape

from schemas import ids
from schemas.query.violations import QueryError, Rule, Violation
from schemas.times import parse_time
from worker.read_model.query.roster import RosterState
from worker.web.live.source import Changes
from worker.web.screen.chart import MINUTE, MinuteChart, arrivals_chart, fill
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View
from worker.web.services import Services

PAGE_SIZE = 50
#: The newest alerts of a session: their bookings get a badge.
_ALERTS = 500
#: The minutes of its chart.
_MINUTES = 120
#: What the roster may be narrowed to, by the value of ``show``.
SHOWN: Mapping[str, tuple[str, tuple[RosterState, ...]]] = {
    "came": ("Came", (RosterState.ATTENDED,)),
    "missing": ("Not yet", (RosterState.NOT_SET, RosterState.NO_ATTENDANCE)),
    "absent": ("Absent", (RosterState.NOT_ATTENDED,)),
    "alert": ("With an alert", ()),
}
ORDERS: Mapping[str, str] = {"bookingId": "Booking", "status": "Status"}


class RosterPage(NamedTuple):
    """Rows of the roster, and the cursor of the next page."""

    rows: list[dict[str, Any]]
    next: str | None


class SessionView(View):
    """A session by its id, with a page of its bookings."""

    name: ClassVar[str] = "session"
    elements: ClassVar[tuple[str, ...]] = ("session-summary", "roster", "announcement")
    parameters: ClassVar[tuple[str, ...]] = ("id", "q", "show", "order", "cursor")

    def __init__(self, services: Services, query: Mapping[str, str], *, can_manage: bool = False) -> None:
        super().__init__(services, query, can_manage=can_manage)
        self.session_id = ids.session_id(self.query.get("id", ""))
        show, order = self.query.get("show", ""), self.query.get("order", "bookingId")
        if show and show not in SHOWN:
            raise QueryError([Violation("show", f"use {', '.join(SHOWN)}, or leave it out", Rule.UNKNOWN_VALUE.value)])
        if order not in ORDERS:
            raise QueryError([Violation("order", f"use {' or '.join(ORDERS)}", Rule.UNKNOWN_VALUE.value)])
        self.show = show
        self.order: Literal["bookingId", "status"] = "status" if order == "status" else "bookingId"
        self._minute = 0
        """Up to which its chart was drawn last, since the epoch."""

    @property
    def title(self) -> str:
        return f"Session {self.session_id or self.query.get('id', '')}"

    def is_affected(self, changes: Changes) -> bool:
        if self.session_id is None:
            return False
        # the chart moves with the clock: else it would show the last rush as people who come now
        has_turned = changes.is_tick and self._minute != _this_minute()
        return changes.alerts or has_turned or changes.concern(self.session_id)

    async def read(self) -> Rendered:
        reader = self.services.reader
        tally = None if self.session_id is None else await reader.session(self.session_id)
        if tally is None or self.session_id is None:
            missing = render("fragments/session_missing.html", session=self.query.get("id", ""))
            return Rendered({"session-summary": missing, "roster": Markup(), "announcement": Markup()}, is_found=False)
        alerts = await reader.alerts_page(session_id=self.session_id, limit=_ALERTS)
        kinds: dict[str, list[str]] = defaultdict(list)
        for alert in alerts.items:
            kinds[alert["bookingId"]].append(alert["kind"])
        page = await (self._alerted(self.session_id) if self.show == "alert" else self._roster(self.session_id))
        for row in page.rows:
            row["alerts"] = kinds.get(row["bookingId"], ())
        many = "at least " if alerts.next else ""
        # spoken by screen readers: not each arrival
        said = f"{many}{len(alerts.items)} alerts open"
        summary = render(
            "fragments/session_summary.html",
            tally=tally,
            missing=tally["bookings"] - tally["attended"],
            fill=fill(tally["attendees"], tally["expectedParticipants"]),
            chart=await self._chart(self.session_id, tally["endsAt"]),
            minutes=_MINUTES,
            alerts=f"{many}{len(alerts.items)}",
        )
        roster = render("fragments/roster.html", view=self, query=self.query, page=page, shown=SHOWN, orders=ORDERS)
        return Rendered({"session-summary": summary, "roster": roster, "announcement": escape(said)})

    async def _chart(self, session_id: str, ends: str | None) -> MinuteChart | None:
        """Of the two hours before now, or before its end."""
        self._minute = _this_minute()
        until = (self._minute if ends is None else min(self._minute, parse_time(ends) // MINUTE)) + 1
        return await arrivals_chart(self.services.reader, session_id, until, _MINUTES)

    async def _roster(self, session_id: str) -> RosterPage:
        states = SHOWN[self.show][1] if self.show else ()
        prefix, cursor = self.query.get("q", ""), self.query.get("cursor")
        page = await self.services.reader.roster_page(
            session_id, order=self.order, states=states, prefix=prefix, limit=PAGE_SIZE, cursor=cursor
        )
        return RosterPage([], None) if page is None else RosterPage([dict(each) for each in page.items], page.next)

    async def _alerted(self, session_id: str) -> RosterPage:
        """The bookings of a page of alerts, newest first; a search narrows the page."""
        reader = self.services.reader
        page = await reader.alerts_page(session_id=session_id, limit=PAGE_SIZE, cursor=self.query.get("cursor"))
        prefix = self.query.get("q", "")
        bookings = [each for each in dict.fromkeys(alert["bookingId"] for alert in page.items) if each.startswith(prefix)]
        latest = await asyncio.gather(*(reader.latest(each, session_id) for each in bookings))
        return RosterPage([_row(each, found and found[0]) for each, found in zip(bookings, latest, strict=True)], page.next)


def _this_minute() -> int:
    return time.time_ns() // 1000 // MINUTE


def _row(booking_id: str, attendance: Any) -> dict[str, Any]:
    state = RosterState.NO_ATTENDANCE if attendance is None else RosterState(attendance["status"])
    return {"bookingId": booking_id, "state": state, "expectedParticipants": None, "attendance": attendance}
