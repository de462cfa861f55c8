"""The open alerts, newest first, with their causes."""

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from markupsafe import escape

from schemas.alerts import AlertKind
from schemas.query.violations import QueryError, Rule, Violation
from worker.web.live.source import Changes
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View
from worker.web.services import Services

PAGE_SIZE = 50


class AlertsView(View):
    """All open alerts, or those of a kind."""

    name: ClassVar[str] = "alerts"
    elements: ClassVar[tuple[str, ...]] = ("alerts", "announcement")
    parameters: ClassVar[tuple[str, ...]] = ("kind", "cursor")

    def __init__(self, services: Services, query: Mapping[str, str], *, can_manage: bool = False) -> None:
        super().__init__(services, query, can_manage=can_manage)
        kind = self.query.get("kind")
        if kind is not None and kind not in set(AlertKind):
            raise QueryError([Violation("kind", "is none of the kinds of alerts", Rule.UNKNOWN_VALUE.value)])
        self._kind = None if kind is None else AlertKind(kind)

    @property
    def title(self) -> str:
        return "Alerts"

    def is_affected(self, changes: Changes) -> bool:
        return changes.alerts or changes.is_everything

    async def read(self) -> Rendered:
        reader = self.services.reader
        page, *counts = await asyncio.gather(
            reader.alerts_page(kind=self._kind, limit=PAGE_SIZE, cursor=self.query.get("cursor")),
            *map(reader.count_alerts, AlertKind),
        )
        html = render(
            "fragments/alerts.html",
            alerts=page.items,
            next=page.next,
            kind=self._kind,
            is_first=self.query.get("cursor") is None,
            counts=dict(zip(AlertKind, counts, strict=True)),
        )
        return Rendered({"alerts": html, "announcement": escape(f"{sum(counts)} alerts open")})
