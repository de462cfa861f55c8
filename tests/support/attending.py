"""A world of bookings that attend sessions: random events, and the attendances that they come to, known without any fold.

Every event is later than all before it, so that the last one about a pair holds, whatever the law says of the others.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from typing import Any

from schemas.attendance import JOIN, NAMESPACE
from schemas.events import Booking, Event, Window
from tests.support.oracle.reading import written

Pair = tuple[str, str]
"""Booking and session."""
Record = Event | Booking

_START = 1_795_000_000_000_000
#: Cut at the millisecond, two neighbours sometimes have the same time.
_STEP = 700
_MOST_SESSIONS = 20
STATUSES = ("ATTENDED", "NOT_ATTENDED", "NOT_SET")
#: Ways in which statuses and numbers are distributed: weights of `STATUSES`; numbers to choose from.
STATUS_MIXES = ((70, 1, 29), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 97, 1))
NUMBER_MIXES = ((1,) * 20 + (2,) * 6 + (3, 4, 7, 30, 500), (1,), (0,), tuple(range(70)), (0, 1, 255, 256, 65_536, 100_000))
#: Ids that lie next to each other in one order and not in another: by bytes, by code points, by UTF-16, by length.
ODD = (
    *("a", "aa", "aaa", "a-", "a b", "A", "aA", "Aa", "b", "~", "\xa1", "é", "q\u0301", "ÿ", "Ā", "\ud7ff", "\ue000", "\uffff"),
    *("\U00010000", "\U0001f39f\ufe0f", "\U0010ffff", "予約", "予約-7", "a\U0010ffff", "a\uffff", "0", "00", "-1", "10", "9"),
    *("{0}", "}{", "a:b", ":", "*", "?", "[a]", "%d", "\\", "\"'", "$eq", "BK-", "BK-0", "null", "a" * 120, "ü" * 120),
)


class World:
    """Attendances as readers must see them.

    Args:
        seed: what differs between worlds: ids, sizes, distributions.
        most: bookings of a session, at most.
    """

    def __init__(self, seed: int, sessions: int, most: int = 300) -> None:
        self.rng = random.Random(seed)
        self.documents: dict[Pair, dict[str, Any]] = {}
        self._clock = _START
        self._statuses, self._numbers = self.rng.choice(STATUS_MIXES), self.rng.choice(NUMBER_MIXES)
        self._most = most
        self.sessions = self._ids("session", sessions)
        self.bookings = self._ids("BK", most + most // 3)

    def pairs(self) -> list[Pair]:
        """Who may attend what: sessions of 1 to `most` bookings, bookings of 1 to 20 sessions."""
        rng, attended = self.rng, dict.fromkeys(self.bookings, 0)
        regulars, found = set(self.bookings[: self._most // 10]), []
        for session in self.sessions:
            free = [booking for booking, times in attended.items() if times < _MOST_SESSIONS]
            wanted = min(len(free), rng.choice((1, self._most // 8, self._most // 2, rng.randint(1, self._most), self._most)))
            some = [booking for booking in free if booking in regulars][:wanted]
            some += rng.sample([booking for booking in free if booking not in regulars], wanted - len(some))
            for booking in some:
                attended[booking] += 1
            found += [(booking, session) for booking in some]
        return found

    def happen(self, pairs: Sequence[Pair], deleted: float = 0.0) -> list[Record]:
        """One event of each of these pairs, and what it makes of them."""
        return [self._delete(pair) if self.rng.random() < deleted else self._report(pair) for pair in pairs]

    def list_sessions(self, pairs: Sequence[Pair]) -> list[Record]:
        """Bookings that list these sessions; that makes no attendance."""
        by_booking: dict[str, dict[str, Window]] = {}
        for booking, session in pairs:
            by_booking.setdefault(booking, {})[session] = Window(None, None)
        return [Booking(booking, 2, False, False, sessions, _START) for booking, sessions in by_booking.items()]

    def _report(self, pair: Pair) -> Record:
        (status,), number = self.rng.choices(STATUSES, self._statuses), self.rng.choice(self._numbers)
        kind = "set"
        if self.rng.random() < 0.3:
            kind = {"ATTENDED": "check_in", "NOT_ATTENDED": "no_show", "NOT_SET": "cleared"}[status]
            number = number if status == "ATTENDED" else 0
        event = self._event(kind, pair, status if kind == "set" else "", number if kind in ("set", "check_in") else None)
        self.documents[pair] = {
            "id": str(uuid.uuid5(NAMESPACE, JOIN.join(pair))),
            "bookingId": pair[0],
            "sessionId": pair[1],
            "status": status,
            "numberOfAttendees": number,
            "updatedDate": written(event.time),
            "source": event.source,
        }
        return event

    def _delete(self, pair: Pair) -> Record:
        self.documents.pop(pair, None)
        return self._event("deleted", pair, "", None)

    def _event(self, kind: str, pair: Pair, status: str, number: int | None) -> Event:
        self._clock += _STEP
        source = self.rng.choice(("/devices/kiosk-1", "/geräte/7", "s"))
        return Event(f"attendance.{kind}", *pair, self._clock, source, "1", status, number, "", self._clock)

    def _ids(self, prefix: str, count: int) -> list[str]:
        """GUIDs, ids like BK-000123, and odd ones."""
        rng = self.rng
        some = rng.sample(ODD, min(len(ODD), count // 3))
        guids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range((count - len(some)) // 2)]
        plain = [f"{prefix}-{number:06d}" for number in range(count - len(some) - len(guids))]
        found = [*some, *guids, *plain]
        rng.shuffle(found)
        return found
