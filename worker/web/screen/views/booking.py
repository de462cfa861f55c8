"""A booking: its sessions over time, its run of no-shows, and its open alerts."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from markupsafe import Markup, escape

from schemas import ids
from worker.web.live.source import Changes
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View
from worker.web.services import Services

PAGE_SIZE = 100
_ALERTS = 100


class BookingView(View):
    """A booking by its id, with a page of its attendances."""

    name: ClassVar[str] = "booking"
    elements: ClassVar[tuple[str, ...]] = ("booking-summary", "booking-alerts", "booking-sessions", "announcement")
    parameters: ClassVar[tuple[str, ...]] = ("id", "cursor")

    def __init__(self, services: Services, query: Mapping[str, str], *, can_manage: bool = False) -> None:
        super().__init__(services, query, can_manage=can_manage)
        self.booking_id = ids.booking_id(self.query.get("id", ""))

    @property
    def title(self) -> str:
        return f"Booking {self.booking_id or self.query.get('id', '')}"

    def is_affected(self, changes: Changes) -> bool:
        return self.booking_id is not None and changes.concern_booking(self.booking_id)

    async def read(self) -> Rendered:
        reader = self.services.reader
        summary = None if self.booking_id is None else await reader.booking(self.booking_id)
        if summary is None or self.booking_id is None:
            missing = render("fragments/booking_missing.html", booking=self.query.get("id", ""))
            empty = dict.fromkeys(self.elements, Markup())
            return Rendered({**empty, "booking-summary": missing}, is_found=False)
        paging = {"limit": PAGE_SIZE, **({"cursor": self.query["cursor"]} if "cursor" in self.query else {})}
        asked = {"filter": {"bookingId": self.booking_id}, "sort": [{"fieldName": "sessionId"}], "cursorPaging": paging}
        page, alerts = await asyncio.gather(reader.query(asked), reader.alerts_page(booking_id=self.booking_id, limit=_ALERTS))
        named = await reader.named_sessions([each["sessionId"] for each in page.attendances])
        starts = {each["sessionId"]: each["startsAt"] for each in named.items}
        rows = [{**each, "startsAt": starts.get(each["sessionId"])} for each in page.attendances]
        rows.sort(key=_by_start)
        said = f"{summary['attended']} attended, {summary['notAttended']} missed, {len(alerts.items)} alerts open"
        return Rendered(
            {
                "booking-summary": render("fragments/booking_summary.html", summary=summary),
                "booking-alerts": render("fragments/booking_alerts.html", alerts=alerts.items),
                "booking-sessions": render("fragments/booking_sessions.html", rows=rows, query=self.query, next=page.next),
                "announcement": escape(said),
            }
        )


def _by_start(row: Mapping[str, Any]) -> tuple[bool, str, str]:
    """By start, unknown last, as the run of no-shows is counted."""
    return row["startsAt"] is None, row["startsAt"] or "", row["sessionId"]
