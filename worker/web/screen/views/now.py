"""What happens now: the sessions that run, come next and have just ended."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from markupsafe import escape

from schemas.alerts import AlertKind
from worker.web.live.source import Changes
from worker.web.screen.chart import MINUTE, MinuteChart, arrivals_chart, fill
from worker.web.screen.templates import render
from worker.web.screen.views.day import DaySessions, Session
from worker.web.screen.views.gates import Gates, read_gates
from worker.web.screen.views.view import Rendered, View
from worker.web.services import Services

#: Running sessions, and others where none runs, comes or has ended.
_RUNNING, _OTHERS = 24, 24
#: Sessions that have a chart, and its minutes.
_CHARTS, _MINUTES = 12, 60


class NowView(View):
    """The first page."""

    name: ClassVar[str] = "now"
    elements: ClassVar[tuple[str, ...]] = ("now", "announcement")

    def __init__(self, services: Services, query: Mapping[str, str], *, can_manage: bool = False) -> None:
        super().__init__(services, query, can_manage=can_manage)
        self._day = DaySessions(services.reader)

    @property
    def title(self) -> str:
        return "Now"

    def is_affected(self, changes: Changes) -> bool:
        # sessions begin and end by the clock too
        del changes
        return True

    async def read(self) -> Rendered:
        reader = self.services.reader
        day = await self._day.read(_RUNNING)
        counts = await asyncio.gather(*map(reader.count_alerts, AlertKind))
        groups: list[tuple[str, str, Sequence[Session]]] = [
            ("running", "Running", day.running),
            ("next", "Next", day.coming),
            ("ended", "Just ended", day.ended),
        ]
        if not any(sessions for _, _, sessions in groups):
            others = await reader.sessions_page(descending=True, limit=_OTHERS)
            groups.append(("others", "Other sessions", others.items))
        gates, charts = await self._details([each["sessionId"] for each in day.open])
        shown = [(name, title, [_card(each, gates, charts) for each in sessions]) for name, title, sessions in groups]
        silent = len({device["source"] for each in gates.values() for device in each.silent})
        alerts = sum(counts)
        has_more = day.has_more or len(day.running) == _RUNNING
        html = render("fragments/now.html", groups=shown, alerts=alerts, silent=silent, has_more=has_more)
        # not how many came: a screen reader would never fall silent
        announcement = f"{len(day.running)} sessions running, {alerts} alerts open, {silent} devices silent"
        return Rendered({"now": html, "announcement": escape(announcement)})

    async def _details(self, session_ids: Sequence[str]) -> tuple[dict[str, Gates], dict[str, MinuteChart]]:
        """The devices and the arrivals of sessions that people come to."""
        reader, until = self.services.reader, time.time_ns() // 1000 // MINUTE + 1
        charted = session_ids[:_CHARTS]
        gates, *charts = await asyncio.gather(
            read_gates(reader, set(session_ids)), *(arrivals_chart(reader, each, until, _MINUTES) for each in charted)
        )
        return gates, {each: chart for each, chart in zip(charted, charts, strict=True) if chart is not None}


def _card(session: Session, gates: Mapping[str, Gates], charts: Mapping[str, MinuteChart]) -> dict[str, Any]:
    session_id = session["sessionId"]
    return {
        **session,
        "missing": session["bookings"] - session["attended"],
        "fill": fill(session["attendees"], session["expectedParticipants"]),
        "gates": gates.get(session_id),
        "chart": charts.get(session_id),
    }
