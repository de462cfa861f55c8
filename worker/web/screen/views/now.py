"""What happens now: the sessions that run, come next and have just ended."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from markupsafe import escape

from schemas.alerts import AlertKind
from worker.web.live.source import Changes
from worker.web.screen.chart import fill
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View

_HOUR = 3_600_000_000
_RUNNING, _NEXT, _ENDED, _OTHERS = 48, 6, 6, 24


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
        shown = [(name, title, [_card(each) for each in sessions]) for name, title, sessions in groups]
        alerts = sum(counts)
        said = f"{len(shown[0][2])} sessions running, {alerts} alerts open"
        html = render("fragments/now.html", groups=shown, alerts=alerts, has_more=running.next is not None)
        return Rendered({"now": html, "announcement": escape(said)})


def _card(session: dict[str, Any]) -> dict[str, Any]:
    missing = session["bookings"] - session["attended"]
    return {**session, "missing": missing, "fill": fill(session["attendees"], session["expectedParticipants"])}
