"""The workload: bookings and the events of their sessions, the same for the same seed but for the clock."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from schemas.times import format_time
from worker.topics import partition_of

SESSIONS_OF_A_BOOKING = 4
#: Bookings that share the same sessions, as people who attend the same course do.
CLASS_SIZE = 100
MOST_BOOKINGS = 50_000
EVENTS_OF_A_BOOKING = 12
NO_SHOWS = 0.2
KIOSKS = 20
#: The events were published in so many seconds up to now, in order of their times but for the jitter of devices.
SPAN_S = 300
JITTER_S = 10
_SECOND = 1_000_000
_HOUR = 3600 * _SECOND

Record = tuple[bytes, bytes]
"""Key and value."""


class Workload(NamedTuple):
    """Records by partition, in the order in which they are to be appended."""

    bookings: list[list[Record]]
    events: list[list[Record]]
    attendances: int
    """Distinct (booking, session) pairs that have an event."""

    @property
    def booking_count(self) -> int:
        return sum(map(len, self.bookings))

    @property
    def event_count(self) -> int:
        return sum(map(len, self.events))

    @property
    def mean_event_bytes(self) -> float:
        return sum(len(value) for records in self.events for _, value in records) / self.event_count


def make(events: int, partitions: int, now: int, seed: int = 7) -> Workload:
    """So many events, and the bookings that they are of.

    There are as many bookings as give each a quarter of the events, at most 50,000, but a twelfth of the events at least.

    Args:
        now: microseconds since the epoch; event times end there.
    """
    rng = random.Random(seed)
    names = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(_booking_count(events))]
    pairs: set[tuple[int, int]] = set()

    def event(number: int) -> tuple[str, dict[str, Any]]:
        booking, session = rng.randrange(len(names)), rng.randrange(SESSIONS_OF_A_BOOKING)
        pairs.add((booking, session))
        ago = SPAN_S * (events - number) // events * _SECOND + rng.randrange(JITTER_S * _SECOND)
        kind = "no_show" if rng.random() < NO_SHOWS else "check_in"
        data = {"bookingId": names[booking], "sessionId": _session(booking, session)}
        source = f"/devices/kiosk-{rng.randrange(KIOSKS)}"
        return names[booking], _cloudevent(f"e{number}", source, f"attendance.{kind}", now - ago, data)

    def booking(number: int) -> tuple[str, dict[str, Any]]:
        data = _booking_data(number, names[number], now, rng)
        return names[number], _cloudevent(f"b{number}", "/booking-system", "booking.upserted", now - _HOUR, data)

    said = _by_partition(len(names), partitions, booking)
    happened = _by_partition(events, partitions, event)
    return Workload(said, happened, len(pairs))


def _booking_count(events: int) -> int:
    return max(events // EVENTS_OF_A_BOOKING, min(MOST_BOOKINGS, events // SESSIONS_OF_A_BOOKING))


def _by_partition(count: int, partitions: int, make_one: Callable[[int], tuple[str, dict[str, Any]]]) -> list[list[Record]]:
    records: list[list[Record]] = [[] for _ in range(partitions)]
    for number in range(count):
        name, document = make_one(number)
        # not orjson's bytes: each keeps the space of the buffer it was written in, 1 GB for the default workload
        value = json.dumps(document, separators=(",", ":")).encode()
        records[partition_of(name, partitions)].append((name.encode(), value))
    return records


def _session(booking: int, session: int) -> str:
    return f"c{booking // CLASS_SIZE}-{session}"


def _booking_data(number: int, name: str, now: int, rng: random.Random) -> dict[str, Any]:
    starts = (now + session * 24 * _HOUR for session in range(SESSIONS_OF_A_BOOKING))
    sessions = [
        {"sessionId": _session(number, index), "startsAt": format_time(start), "endsAt": format_time(start + _HOUR)}
        for index, start in enumerate(starts)
    ]
    people = rng.randint(1, 4)
    return {"bookingId": name, "numberOfParticipants": people, "serviceType": "COURSE", "sessions": sessions}


def _cloudevent(identity: str, source: str, kind: str, time: int, data: dict[str, Any]) -> dict[str, Any]:
    head = {"specversion": "1.0", "id": identity, "source": source, "type": kind, "time": format_time(time)}
    return {**head, "data": data}
