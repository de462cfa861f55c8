"""The workload: bookings and the events of their sessions, the same for the same seed but for the clock.

The reference distribution, which all figures that this project compares itself with were measured on: every event's time
is anywhere within the hour before now, whatever its place in the topic, so that about 40 % of the events lose against a
newer one that came before. `ordered` is kinder and nearer to life: times rise with the place but for the jitter of
devices, and nearly every event is the newest of its session.
"""

from __future__ import annotations

import json
import random
import uuid
from itertools import accumulate
from typing import Any, NamedTuple

from schemas.times import format_time
from worker.topics import partition_of

SESSIONS_OF_A_BOOKING = 4
#: Bookings that share the same sessions, as people who attend the same course do.
CLASS_SIZE = 100
BOOKINGS = 50_000
#: With fewer events than this there are fewer bookings, one for each two events.
FEWEST_FOR_ALL_BOOKINGS = 2 * BOOKINGS
NO_SHOWS = 0.2
KIOSKS = 20
#: `ordered`: the events were published in so many seconds up to now, in order of their times but for the jitter.
ORDERED_SPAN_S = 300
JITTER_MS = 10_000
_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_HOUR_MS = 3_600_000

Record = tuple[bytes, bytes]
"""Key and value."""


class Workload(NamedTuple):
    """Records by partition, in the order in which they are to be appended."""

    bookings: list[list[Record]]
    events: list[list[Record]]
    attendances: int
    """Distinct (booking, session) pairs that have an event."""
    losing: float
    """Share of the events that are older than one of their session that came before."""

    @property
    def booking_count(self) -> int:
        return sum(map(len, self.bookings))

    @property
    def event_count(self) -> int:
        return sum(map(len, self.events))

    @property
    def mean_event_bytes(self) -> float:
        return sum(len(value) for records in self.events for _, value in records) / self.event_count


def make(events: int, partitions: int, now: int, seed: int = 7, *, ordered: bool = False) -> Workload:
    """So many events of 50,000 bookings, or of half as many bookings as events where that is fewer.

    Args:
        now: microseconds since the epoch; event times end there.
    """
    rng = random.Random(seed)
    names = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(min(BOOKINGS, max(events // 2, 1)))]
    said: list[list[Record]] = [[] for _ in range(partitions)]
    for number, name in enumerate(names):
        document = _booking(number, name, now, rng)
        # not orjson's bytes: each keeps the space of the buffer it was written in
        value = json.dumps(document, separators=(",", ":")).encode()
        said[partition_of(name, partitions)].append((name.encode(), value))
    return Workload(said, *_events(events, names, partitions, now, rng, ordered))


def _events(
    count: int, names: list[str], partitions: int, now: int, rng: random.Random, ordered: bool
) -> tuple[list[list[Record]], int, float]:
    """Records by partition, attendances, and the share of the losing. A million take seconds, hence the plain text."""
    records: list[list[Record]] = [[] for _ in range(partitions)]
    of_booking = [(name.encode(), records[partition_of(name, partitions)].append) for name in names]
    span = ORDERED_SPAN_S * 1000 + JITTER_MS if ordered else _HOUR_MS
    seconds = [format_time(now - ago * _SECOND)[:19] for ago in range(span // 1000 + 2)]
    sources = [f"/devices/kiosk-{kiosk}" for kiosk in range(KIOSKS)]
    newest: dict[int, int] = {}
    losing, uniform = 0, rng.random
    for number in range(count):
        pair = int(uniform() * len(names) * SESSIONS_OF_A_BOOKING)
        booking, session = divmod(pair, SESSIONS_OF_A_BOOKING)
        ago = _ordered_ago(number, count, uniform()) if ordered else int(uniform() * _HOUR_MS)
        kind = "no_show" if uniform() < NO_SHOWS else "check_in"
        time = f"{seconds[ago // 1000 + 1]}.{999 - ago % 1000:03}Z"
        text = (
            f'{{"specversion":"1.0","id":"e{number}","source":"{sources[int(uniform() * KIOSKS)]}",'
            f'"type":"attendance.{kind}","time":"{time}",'
            f'"data":{{"bookingId":"{names[booking]}","sessionId":"{session_of(booking, session)}"}}}}'
        )
        key, append = of_booking[booking]
        append((key, text.encode()))
        if ago > newest.get(pair, ago):
            losing += 1
        else:
            newest[pair] = ago
    return records, len(newest), losing / max(count, 1)


def _ordered_ago(number: int, count: int, drawn: float) -> int:
    return ORDERED_SPAN_S * 1000 * (count - number) // count + int(drawn * JITTER_MS)


def session_of(booking: int, session: int) -> str:
    """The id of a booking's session, which it shares with its class."""
    return f"c{booking // CLASS_SIZE}-{session}"


def _booking(number: int, name: str, now: int, rng: random.Random) -> dict[str, Any]:
    starts = accumulate([now, *[24 * _HOUR] * (SESSIONS_OF_A_BOOKING - 1)])
    sessions = [
        {"sessionId": session_of(number, index), "startsAt": format_time(start), "endsAt": format_time(start + _HOUR)}
        for index, start in enumerate(starts)
    ]
    data = {
        "bookingId": name,
        "numberOfParticipants": rng.randint(1, 4),
        "serviceType": "COURSE",
        "sessions": sessions,
    }
    head = {"specversion": "1.0", "id": f"b{number}", "source": "/booking-system", "type": "booking.upserted"}
    return {**head, "time": format_time(now - _HOUR), "data": data}
