"""The workload: bookings and the events of their sessions, the same for the same seed but for the clock.

The reference distribution, which all figures that this project compares itself with were measured on: every event's time
is anywhere within the hour before now, whatever its place in the topic, so that about 40 % of the events lose against a
newer one that came before. `ordered` is kinder and nearer to life: times rise with the place but for the jitter of
devices, and nearly every event is the newest of its session.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Callable, Sequence
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
#: `adversarial`: a booking changes once in so many events.
EVENTS_OF_A_CHANGE = 20
#: What makes a record useless: no JSON, an unknown type, no time, a session that is no text.
_SPOILS = ((b"}}", b"}"), (b'"attendance.', b'"presence.'), (b'"time"', b'"at"'), (b'"sessionId":"', b'"sessionId":7,"was":"'))
_KIND = re.compile(rb"attendance\.(?:check_in|no_show)")
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
    changes: Sequence[Sequence[Record]] = ()
    """New records of some bookings by partition, to be appended while the events are worked on."""

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


def adversarial(events: int, partitions: int, now: int, seed: int = 7) -> Workload:
    """The reference's bookings, times and shares of check-ins and no-shows, but 22 % scans, 10 % sets and 3 % records that
    cannot be used; and a changed booking for each 20 events, to be published meanwhile."""
    rng = random.Random(seed)
    names = _names(min(BOOKINGS, max(events // 2, 1)), rng)
    pairs, uniform = len(names) * SESSIONS_OF_A_BOOKING, rng.random
    draws = [(int(uniform() * pairs), int(uniform() * _HOUR_MS)) for _ in range(events)]
    happened = [
        [(key, _adverse(value, rng)) for key, value in records] for records in _events(draws, names, partitions, now, rng)
    ]
    bookings, changes = _bookings(names, partitions, now, rng), list[list[Record]]([] for _ in range(partitions))
    for number in (int(uniform() * len(names)) for _ in range(events // EVENTS_OF_A_CHANGE)):
        _add_booking(changes, number, names[number], now, rng)
    return Workload(bookings, happened, *_outcome(draws), changes)


def _adverse(value: bytes, rng: random.Random) -> bytes:
    """The event as another type, a record that cannot be used, or as it is."""
    drawn = rng.random()
    if drawn < 0.03:
        old, new = rng.choice(_SPOILS)
        return value.replace(old, new)
    if drawn < 0.03 + 0.10:
        status = rng.choice(('"ATTENDED","numberOfAttendees":2', '"NOT_ATTENDED"', '"NOT_SET"'))
        return _as_type(value, b"set", f',"status":{status}')
    if drawn < 0.03 + 0.10 + 0.22:
        return _as_type(value, b"participant_scanned", f',"participantId":"p{rng.randrange(4)}"')
    return value


def _as_type(value: bytes, kind: bytes, more: str) -> bytes:
    return _KIND.sub(b"attendance." + kind, value, count=1)[: -len("}}")] + more.encode() + b"}}"


#: By name, in the order in which they are measured.
WORKLOADS: dict[str, Callable[[int, int, int, int], Workload]] = {
    "reference": make,
    "ordered": partial(make, ordered=True),
    "adversarial": adversarial,
}


def million(attendances: int, updates: int, partitions: int, now: int, seed: int = 7, *, first: int = 0) -> Million:
    """So many attendances, four of a booking, in random order; the updates concern some of them, each once.

    Args:
        first: number of the first booking: with another one and another seed nothing is shared.
    """
    rng = random.Random(seed)
    names = _names(attendances // SESSIONS_OF_A_BOOKING, rng)
    half, uniform = _HOUR_MS // 2, rng.random
    pairs = list(range(len(names) * SESSIONS_OF_A_BOOKING))
    rng.shuffle(pairs)
    inserts = _events([(pair, half + int(uniform() * half)) for pair in pairs], names, partitions, now, rng, first=first)
    rng.shuffle(pairs)
    newer = _events([(pair, int(uniform() * half)) for pair in pairs[:updates]], names, partitions, now, rng, "u", first=first)
    return Million(_bookings(names, partitions, now, rng, first), inserts, newer)


def event(identity: str, source: str, kind: str, time: str, booking_id: str, session_id: str) -> bytes:
    """The CloudEvent; a million of them take seconds, hence the plain text. No value needs to be escaped."""
    return (
        f'{{"specversion":"1.0","id":"{identity}","source":"{source}","type":"attendance.{kind}","time":"{time}",'
        f'"data":{{"bookingId":"{booking_id}","sessionId":"{session_id}"}}}}'
    ).encode()


def _names(count: int, rng: random.Random) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def _events(
    draws: list[tuple[int, int]],
    names: list[str],
    partitions: int,
    now: int,
    rng: random.Random,
    prefix: str = "e",
    *,
    first: int = 0,
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
        append((key, event(f"{prefix}{number}", source, kind, time, name, session_of(first + booking, session))))
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


def _bookings(names: list[str], partitions: int, now: int, rng: random.Random, first: int = 0) -> list[list[Record]]:
    records: list[list[Record]] = [[] for _ in range(partitions)]
    for number, name in enumerate(names, first):
        _add_booking(records, number, name, now, rng)
    return records


def _add_booking(records: list[list[Record]], number: int, name: str, now: int, rng: random.Random) -> None:
    # not orjson's bytes: each keeps the space of the buffer it was written in
    value = json.dumps(_booking(number, name, now, rng), separators=(",", ":")).encode()
    records[partition_of(name, len(records))].append((name.encode(), value))


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
