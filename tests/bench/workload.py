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
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, Self

from schemas.times import format_time
from worker.topics import partition_of

SESSIONS_OF_A_BOOKING = 4
#: Bookings that share the same sessions, as people who attend the same course do.
CLASS_SIZE = 100
BOOKINGS = 50_000
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

    def without_bookings(self) -> Self:
        """The same events, of bookings that nobody has published."""
        return self._replace(bookings=[[] for _ in self.bookings])

    @property
    def booking_count(self) -> int:
        return sum(map(len, self.bookings))

    @property
    def event_count(self) -> int:
        return sum(map(len, self.events))

    @property
    def mean_event_bytes(self) -> float:
        return sum(len(value) for records in self.events for _, value in records) / self.event_count


class Million(NamedTuple):
    """Records by partition, to be appended in three steps."""

    bookings: list[list[Record]]
    inserts: list[list[Record]]
    """One event of each attendance."""
    updates: list[list[Record]]
    """One newer event of some of them."""


def make(events: int, partitions: int, now: int, seed: int = 7, *, ordered: bool = False) -> Workload:
    """So many events of 50,000 bookings, or of half as many bookings as events where that is fewer.

    Args:
        now: microseconds since the epoch; event times end there.
    """
    rng = random.Random(seed)
    names = _names(min(BOOKINGS, max(events // 2, 1)), rng)
    pairs, uniform = len(names) * SESSIONS_OF_A_BOOKING, rng.random
    if ordered:
        draws = [(int(uniform() * pairs), _ordered_ago(number, events, uniform())) for number in range(events)]
    else:
        draws = [(int(uniform() * pairs), int(uniform() * _HOUR_MS)) for _ in range(events)]
    happened = _events(draws, names, partitions, now, rng)
    return Workload(_bookings(names, partitions, now, rng), happened, *_outcome(draws))


#: By name, in the order in which they are measured.
WORKLOADS: dict[str, Callable[[int, int, int, int], Workload]] = {"reference": make, "ordered": partial(make, ordered=True)}


def million(attendances: int, updates: int, partitions: int, now: int, seed: int = 7) -> Million:
    """So many attendances, four of a booking, in random order; the updates concern some of them, each once."""
    rng = random.Random(seed)
    names = _names(attendances // SESSIONS_OF_A_BOOKING, rng)
    half, uniform = _HOUR_MS // 2, rng.random
    pairs = list(range(len(names) * SESSIONS_OF_A_BOOKING))
    rng.shuffle(pairs)
    first = _events([(pair, half + int(uniform() * half)) for pair in pairs], names, partitions, now, rng)
    rng.shuffle(pairs)
    newer = _events([(pair, int(uniform() * half)) for pair in pairs[:updates]], names, partitions, now, rng, "u")
    return Million(_bookings(names, partitions, now, rng), first, newer)


def event(identity: str, source: str, kind: str, time: str, booking_id: str, session_id: str) -> bytes:
    """The CloudEvent; a million of them take seconds, hence the plain text. No value needs to be escaped."""
    return (
        f'{{"specversion":"1.0","id":"{identity}","source":"{source}","type":"attendance.{kind}","time":"{time}",'
        f'"data":{{"bookingId":"{booking_id}","sessionId":"{session_id}"}}}}'
    ).encode()


def _names(count: int, rng: random.Random) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def _events(
    draws: list[tuple[int, int]], names: list[str], partitions: int, now: int, rng: random.Random, prefix: str = "e"
) -> list[list[Record]]:
    """Records by partition. A draw is a (booking, session) by number and how many milliseconds ago it happened."""
    records: list[list[Record]] = [[] for _ in range(partitions)]
    of_booking = [(name, name.encode(), records[partition_of(name, partitions)].append) for name in names]
    seconds = [format_time(now - ago * _SECOND)[:19] for ago in range(_HOUR_MS // 1000 + 2)]
    sources = [f"/devices/kiosk-{kiosk}" for kiosk in range(KIOSKS)]
    uniform = rng.random
    for number, (pair, ago) in enumerate(draws):
        booking, session = divmod(pair, SESSIONS_OF_A_BOOKING)
        name, key, append = of_booking[booking]
        kind = "no_show" if uniform() < NO_SHOWS else "check_in"
        time = f"{seconds[ago // 1000 + 1]}.{999 - ago % 1000:03}Z"
        source = sources[int(uniform() * KIOSKS)]
        append((key, event(f"{prefix}{number}", source, kind, time, name, session_of(booking, session))))
    return records


def _outcome(draws: list[tuple[int, int]]) -> tuple[int, float]:
    """Attendances, and the share of the events that lose."""
    newest: dict[int, int] = {}
    losing = 0
    for pair, ago in draws:
        if ago > newest.get(pair, ago):
            losing += 1
        else:
            newest[pair] = ago
    return len(newest), losing / max(len(draws), 1)


def _ordered_ago(number: int, count: int, drawn: float) -> int:
    return ORDERED_SPAN_S * 1000 * (count - number) // count + int(drawn * JITTER_MS)


def session_of(booking: int, session: int) -> str:
    """The id of a booking's session, which it shares with its class."""
    return f"c{booking // CLASS_SIZE}-{session}"


def _bookings(names: list[str], partitions: int, now: int, rng: random.Random) -> list[list[Record]]:
    records: list[list[Record]] = [[] for _ in range(partitions)]
    for number, name in enumerate(names):
        # not orjson's bytes: each keeps the space of the buffer it was written in
        value = json.dumps(_booking(number, name, now, rng), separators=(",", ":")).encode()
        records[partition_of(name, partitions)].append((name.encode(), value))
    return records


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
