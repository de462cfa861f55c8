"""The sources of `GET /v1/live`: tallies, summaries, alerts and the state of the system, as JSON that all subscribers share."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import orjson

from schemas.alerts import AlertKind
from worker.read_model.freshness import find_problems, freshness_of
from worker.read_model.reader import AttendanceReader
from worker.web.live.source import Changes

#: Alerts that a value shows, the newest.
MAX_ALERTS = 200
#: First parts of keys whose second part is an id.
BY_ID = ("sessions", "bookings")


class SessionTally(NamedTuple):
    """The tally of a session, or null."""

    reader: AttendanceReader
    session_id: str
    interval: float = 0.25

    @property
    def key(self) -> Hashable:
        return "sessions", self.session_id

    def is_affected(self, changes: Changes) -> bool:
        return changes.concern(self.session_id)

    async def load(self) -> bytes:
        return orjson.dumps(await self.reader.tally(self.session_id))


class BookingSummary(NamedTuple):
    """The summary of a booking, or null."""

    reader: AttendanceReader
    booking_id: str
    interval: float = 0.25

    @property
    def key(self) -> Hashable:
        return "bookings", self.booking_id

    def is_affected(self, changes: Changes) -> bool:
        return changes.concern_booking(self.booking_id)

    async def load(self) -> bytes:
        summary = await self.reader.booking(self.booking_id)
        return orjson.dumps(summary and {name: value for name, value in summary.items() if name != "freshness"})


class OpenAlerts(NamedTuple):
    """The newest open alerts of some kinds, and how many each kind has."""

    reader: AttendanceReader
    kinds: tuple[AlertKind, ...]
    """In the order of `AlertKind`."""
    interval: float = 1.0

    @property
    def key(self) -> Hashable:
        return "alerts", *map(str, self.kinds)

    def is_affected(self, changes: Changes) -> bool:
        return changes.alerts

    async def load(self) -> bytes:
        if len(self.kinds) == len(AlertKind):
            newest = (await self.reader.alerts_page(limit=MAX_ALERTS)).items
        else:
            pages = [(await self.reader.alerts_page(kind=kind, limit=MAX_ALERTS)).items for kind in self.kinds]
            alerts = [alert for page in pages for alert in page]
            newest = sorted(alerts, key=lambda alert: (alert["openedAt"], alert["alertId"]), reverse=True)[:MAX_ALERTS]
        counts = {str(kind): await self.reader.count_alerts(kind) for kind in self.kinds}
        return orjson.dumps({"open": sum(counts.values()), "counts": counts, "newest": newest})


class SystemStatus(NamedTuple):
    """`GET /v1/status` in short: the partitions are counted."""

    reader: AttendanceReader
    interval: float = 1.0

    @property
    def key(self) -> Hashable:
        return ("status",)

    def is_affected(self, changes: Changes) -> bool:
        return changes.is_tick

    async def load(self) -> bytes:
        partitions = await self.reader.status()
        live = sum(each.state == "live" for each in partitions)
        counts = {"total": len(partitions), "live": live, "withWorker": sum(each.has_owner for each in partitions)}
        status: dict[str, Any] = {
            "rebuild": "SERVING" if live == len(partitions) else "REPAIRING",
            "partitions": counts,
            "problems": [each._asdict() for each in find_problems(partitions)],
            "freshness": freshness_of(partitions).document(),
        }
        return orjson.dumps(status)
