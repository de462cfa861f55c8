"""The sources of events: when each was last heard of, how fast it reports, and which are silent."""

from collections.abc import Mapping
from typing import ClassVar

from markupsafe import escape

from worker.web.live.source import Changes
from worker.web.screen.templates import render
from worker.web.screen.views.day import DaySessions
from worker.web.screen.views.gates import read_gates
from worker.web.screen.views.view import Rendered, View
from worker.web.services import Services

PAGE_SIZE = 100


class DevicesView(View):
    """A page of the devices, those with the newest events first; before them, those that are silent in a running session."""

    name: ClassVar[str] = "devices"
    elements: ClassVar[tuple[str, ...]] = ("silent", "devices", "announcement")
    parameters: ClassVar[tuple[str, ...]] = ("cursor",)
    interval = 2.0

    def __init__(self, services: Services, query: Mapping[str, str], *, can_manage: bool = False) -> None:
        super().__init__(services, query, can_manage=can_manage)
        self._day = DaySessions(services.reader)

    @property
    def title(self) -> str:
        return "Devices"

    def is_affected(self, changes: Changes) -> bool:
        # silence is no change: it is the clock that shows it
        del changes
        return True

    async def read(self) -> Rendered:
        reader = self.services.reader
        page = await reader.devices_page(limit=PAGE_SIZE, cursor=self.query.get("cursor"))
        day = await self._day.listed()
        gates = await read_gates(reader, {each["sessionId"] for each in day.open})
        silent = [(session_id, each) for session_id, found in gates.items() for each in found.silent]
        said = f"{len(silent)} devices silent in a running session"
        return Rendered(
            {
                "silent": render("fragments/silent.html", silent=silent),
                "devices": render("fragments/devices.html", devices=page.items, query=self.query, next=page.next),
                "announcement": escape(said),
            }
        )
