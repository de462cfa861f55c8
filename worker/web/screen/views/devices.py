"""The sources of events: when each was last heard of, how fast it reports, and which are silent."""

import asyncio
import time
from typing import ClassVar

from markupsafe import escape

from worker.web.live.source import Changes
from worker.web.screen.templates import render
from worker.web.screen.views.gates import read_gates
from worker.web.screen.views.view import Rendered, View

PAGE_SIZE = 100
_RUNNING = 100


class DevicesView(View):
    """A page of the devices, those with the newest events first; before them, those that are silent in a running session."""

    name: ClassVar[str] = "devices"
    elements: ClassVar[tuple[str, ...]] = ("silent", "devices", "announcement")
    parameters: ClassVar[tuple[str, ...]] = ("cursor",)
    interval = 2.0

    @property
    def title(self) -> str:
        return "Devices"

    def is_affected(self, changes: Changes) -> bool:
        # silence is no change: it is the clock that shows it
        del changes
        return True

    async def read(self) -> Rendered:
        reader, now = self.services.reader, time.time_ns() // 1000
        page, running = await asyncio.gather(
            reader.devices_page(limit=PAGE_SIZE, cursor=self.query.get("cursor")),
            reader.sessions_page(starts_before=now + 1, ends_after=now, limit=_RUNNING),
        )
        gates = await read_gates(reader, {each["sessionId"] for each in running.items})
        silent = [(session_id, each) for session_id, found in gates.items() for each in found.silent]
        said = f"{len(silent)} devices silent in a running session"
        return Rendered(
            {
                "silent": render("fragments/silent.html", silent=silent),
                "devices": render("fragments/devices.html", devices=page.items, query=self.query, next=page.next),
                "announcement": escape(said),
            }
        )
