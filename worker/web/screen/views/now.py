"""What happens now: the sessions that run, come next and have just ended."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from markupsafe import escape

from schemas.alerts import AlertKind
from worker.web.live.source import Changes
from worker.web.screen.chart import MINUTE, MinuteChart, fill, minute_chart
from worker.web.screen.templates import render
from worker.web.screen.views.gates import Gates, read_gates
from worker.web.screen.views.view import Rendered, View

_HOUR = 3_600_000_000
_RUNNING, _NEXT, _ENDED, _OTHERS = 24, 6, 6, 24
#: Running sessions that have a chart, and its minutes.
_CHARTS, _MINUTES = 12, 60


class NowView(View):
    """The first page."""

    name: ClassVar[str] = "now"
    elements: ClassVar[tuple[str, ...]] = ("now", "announcement")

    @property
    def title(self) -> str:
        return "Now"

    def is_affected(self, changes: Changes) -> bool:
        # sessions begin and end by the clock too
        del changes
        return True

    async def read(self) -> Rendered:
        now = time.time_ns() // 1000
        reader = self.services.reader
        running, begun, coming, ended, *counts = await asyncio.gather(
            reader.sessions_page(starts_before=now + 1, ends_after=now, limit=_RUNNING),
            reader.sessions_page(starts_from=now - 4 * _HOUR, starts_before=now + 1, descending=True, limit=_RUNNING),
            reader.sessions_page(starts_from=now + 1, starts_before=now + 24 * _HOUR, limit=_NEXT),
            reader.sessions_page(ends_after=now - 3 * _HOUR, ends_before=now + 1, descending=True, limit=_ENDED),
            *map(reader.count_alerts, AlertKind),
        )
        open_ended = [each for each in begun.items if each["endsAt"] is None]
        groups: list[tuple[str, str, Sequence[Any]]] = [
            ("running", "Running", [*running.items, *open_ended]),
            ("next", "Next", coming.items),
            ("ended", "Just ended", ended.items),
        ]
        if not any(sessions for _, _, sessions in groups):
            others = await reader.sessions_page(descending=True, limit=_OTHERS)
            groups.append(("others", "Other sessions", others.items))
        gates, charts = await self._details([each["sessionId"] for each in groups[0][2]], now)
        shown = [(name, title, [_card(each, gates, charts) for each in sessions]) for name, title, sessions in groups]
        silent = sum(len(each.silent) for each in gates.values())
        alerts = sum(counts)
        said = f"{len(shown[0][2])} sessions running, {alerts} alerts open, {silent} devices silent"
        has_more = running.next is not None
        html = render("fragments/now.html", groups=shown, alerts=alerts, silent=silent, has_more=has_more)
        return Rendered({"now": html, "announcement": escape(said)})

    async def _details(self, session_ids: Sequence[str], now: int) -> tuple[dict[str, Gates], dict[str, MinuteChart]]:
        """The devices and the arrivals of sessions that run."""
        reader, until = self.services.reader, now // MINUTE + 1
        charted = session_ids[:_CHARTS]
        gates, *arrivals = await asyncio.gather(
            read_gates(reader, set(session_ids)), *(reader.arrivals(each, until - _MINUTES, until) for each in charted)
        )
        found = zip(charted, arrivals, strict=True)
        charts = {each: minute_chart(of["arrivals"], until, _MINUTES) for each, of in found if of is not None}
        return gates, charts


def _card(session: dict[str, Any], gates: Mapping[str, Gates], charts: Mapping[str, MinuteChart]) -> dict[str, Any]:
    session_id = session["sessionId"]
    return {
        **session,
        "missing": session["bookings"] - session["attended"],
        "fill": fill(session["attendees"], session["expectedParticipants"]),
        "gates": gates.get(session_id),
        "chart": charts.get(session_id),
    }
