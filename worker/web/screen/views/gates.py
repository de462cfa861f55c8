"""The devices at sessions that run: which report there, how fast, and which have gone silent."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from worker.read_model.reader import AttendanceReader

#: Devices that are looked at: those with the newest events.
MOST_LOOKED_AT = 500


class Gates(NamedTuple):
    """The devices whose last event was for one session."""

    devices: Sequence[Mapping[str, Any]]
    """Those that are silent first, then the fastest."""

    @property
    def silent(self) -> Sequence[Mapping[str, Any]]:
        """Those that have sent nothing for much longer than usual."""
        return [each for each in self.devices if each["isSilent"]]

    @property
    def rate(self) -> float:
        """Events per minute, estimated."""
        return float(sum(each["estimates"]["eventsPerMinute"] for each in self.devices))

    @property
    def usual_rate(self) -> float | None:
        """The same over about the last hour; None: not known yet."""
        known = [each["estimates"]["usualEventsPerMinute"] for each in self.devices]
        return sum(each for each in known if each is not None) if any(each is not None for each in known) else None


async def read_gates(reader: AttendanceReader, session_ids: Collection[str]) -> dict[str, Gates]:
    """The devices at each of these sessions."""
    if not session_ids:
        return {}
    page = await reader.devices_page(limit=MOST_LOOKED_AT)
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for device in page.items:
        session_id = device["estimates"]["lastSessionId"]
        if session_id in session_ids:
            found[session_id].append(device)
    return {session_id: Gates(sorted(devices, key=_rank)) for session_id, devices in found.items()}


def _rank(device: Mapping[str, Any]) -> tuple[bool, float, str]:
    return not device["isSilent"], -device["estimates"]["eventsPerMinute"], device["source"]
