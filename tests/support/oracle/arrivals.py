"""Arrivals by minute and the newest event of each source (schemas/README.md), from the whole set of events each time."""

from collections.abc import Iterable

from tests.support.oracle.law import Judged
from tests.support.oracle.reading import fact
from tests.support.oracle.shapes import Delivery, Rules

_MINUTE = 60_000_000
Times = tuple[int, int, int]
"""Effective time, time, received; microseconds since the epoch."""


def arrivals(judged: dict[tuple[str, str], Judged]) -> dict[str, dict[int, int]]:
    """sessionId -> minute since the epoch -> people of the ATTENDED attendances that arrived in it; without zeros."""
    found: dict[str, dict[int, int]] = {}
    for (_, session), one in judged.items():
        people = one.attendance["numberOfAttendees"]
        if one.arrival is not None and people > 0:
            minutes = found.setdefault(session, {})
            minute = max(one.arrival.effective // _MINUTE, 1)
            minutes[minute] = minutes.get(minute, 0) + people
    return found


def devices(deliveries: Iterable[Delivery], rules: Rules, most: int) -> dict[str, Times]:
    """The newest event of each source, for the ``most`` sources whose newest events are the newest."""
    newest: dict[str, Times] = {}
    for delivery in deliveries:
        one = fact(delivery.event)
        times = min(one.time, delivery.received + rules.clock_tolerance), one.time, delivery.received
        newest[one.source] = max(times, newest.get(one.source, times))
    kept = sorted(newest.items(), key=lambda item: (item[1], item[0]), reverse=True)[:most]
    return dict(kept)
