"""The devices at sessions that run: which report there, how fast, and which have gone silent."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from worker.read_model.reader import AttendanceReader

#: Devices that are looked at: those with the newest events.
MOST_LOOKED_AT = 500


class Gate(NamedTuple):
    """A device, and how many events it sent for one session."""

    device: Mapping[str, Any]
    events: int


class Gates(NamedTuple):
    """The devices that sent events for one session."""

    gates: Sequence[Gate]
    """Those that are silent first, then by events."""

    @property
    def silent(self) -> Sequence[Mapping[str, Any]]:
        """Those that have sent nothing for much longer than usual."""
        return [each.device for each in self.gates if each.device["isSilent"]]

    @property
    def rate(self) -> float:
        """Events of these devices per minute, for all their sessions, estimated."""
        return float(sum(each.device["estimates"]["eventsPerMinute"] for each in self.gates))

    @property
    def usual_rate(self) -> float | None:
        """The same over about the last hour; None: not known yet."""
        known = [each.device["estimates"]["usualEventsPerMinute"] for each in self.gates]
        return sum(each for each in known if each is not None) if any(each is not None for each in known) else None


async def read_gates(reader: AttendanceReader, session_ids: Collection[str]) -> dict[str, Gates]:
    """The devices at each of these sessions."""
    if not session_ids:
        return {}
    page = await reader.devices_page(limit=MOST_LOOKED_AT)
    found: dict[str, list[Gate]] = defaultdict(list)
    for device in page.items:
        for of_session in device["estimates"]["sessions"]:
            if of_session["sessionId"] in session_ids:
                found[of_session["sessionId"]].append(Gate(device, of_session["events"]))
    return {session_id: Gates(sorted(gates, key=_rank)) for session_id, gates in found.items()}


def _rank(gate: Gate) -> tuple[bool, int, str]:
    return not gate.device["isSilent"], -gate.events, gate.device["source"]
