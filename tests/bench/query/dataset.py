"""The attendances that are asked for: the same for the same size, seed and kind of ids.

Half of the bookings have one session and half have 2 to 18. One attendance in ten is at a session of ten thousand bookings,
the others are at sessions of about a hundred. 70 % are ATTENDED, 29 % NOT_SET, 1 % NOT_ATTENDED. Of an ATTENDED one the number
is 1 (63 %) or skewed upwards to 500 (14 % are 3 or more, 0.2 % more than 10); of the others it is mostly 0.
"""

from __future__ import annotations

import random
import uuid
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from schemas.attendance import STATUSES, attendance_id, guid

#: Kinds of booking ids.
IDS = ("mixed", "guid", "plain")
LARGE, USUAL = 10_000, 100
MOST_SESSIONS = 18
_LARGE_SHARE = 0.1
_GROWING = 0.374
"""Chance that a number is one more: 14 % are 3 or more."""
_HUGE = 0.0014
_MISSED, _NOT_CAME = 0.01, 0.30
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Dataset(NamedTuple):
    """Attendances by number, those of a booking side by side; a status is its place in `STATUSES`."""

    bookings: list[str]
    sessions: list[str]
    """The large ones come first."""
    large: int
    """How many sessions are large."""
    starts: array[int]
    """By booking, its first attendance, and the end of all."""
    booking_of: array[int]
    session_of: array[int]
    status_of: bytearray
    number_of: array[int]
    by_session: list[array[int]]

    def __len__(self) -> int:
        return len(self.status_of)

    def of_booking(self, booking: int) -> range:
        """Its attendances."""
        return range(self.starts[booking], self.starts[booking + 1])

    def identity(self, attendance: int) -> bytes:
        """The 16 bytes of its id."""
        return attendance_id(self.bookings[self.booking_of[attendance]], self.sessions[self.session_of[attendance]])

    def value(self, attendance: int, field: str) -> str | int:
        """What it says in a field that can be sorted by."""
        if field == "id":
            return guid(self.identity(attendance))
        if field == "bookingId":
            return self.bookings[self.booking_of[attendance]]
        if field == "sessionId":
            return self.sessions[self.session_of[attendance]]
        if field == "status":
            return str(STATUSES[self.status_of[attendance]])
        return self.number_of[attendance]


def make(size: int, ids: str, seed: int = 7) -> Dataset:
    """So many attendances; booking ids are GUIDs, ``plain`` ones like BK-000123, or half of each (``mixed``)."""
    rng = random.Random(seed)
    large = max(1, round(size * _LARGE_SHARE / LARGE))
    sessions = [_session(rng) for _ in range(large + max(1, round(size * (1 - _LARGE_SHARE) / USUAL)))]
    starts, session_of = array("I", [0]), array("I")
    while len(session_of) < size:
        session_of.extend(_of_a_booking(rng, large, len(sessions), size - len(session_of)))
        starts.append(len(session_of))
    by_session = [array("I") for _ in sessions]
    for attendance, session in enumerate(session_of):
        by_session[session].append(attendance)
    booking_of = array("I", (number for number, span in enumerate(pairwise(starts)) for _ in range(*span)))
    status_of, number_of = bytearray(size), array("I", bytes(4 * size))
    for attendance in range(size):
        status_of[attendance], number_of[attendance] = _said(rng)
    bookings = [_booking(rng, number, ids) for number in range(len(starts) - 1)]
    return Dataset(bookings, sessions, large, starts, booking_of, session_of, status_of, number_of, by_session)


def _of_a_booking(rng: random.Random, large: int, sessions: int, most: int) -> Iterator[int]:
    """The sessions of one booking, each once."""
    wanted = min(most, 1 if rng.random() < 0.5 else rng.randint(2, MOST_SESSIONS), sessions - 1)
    found: set[int] = set()
    while len(found) < wanted:
        found.add(int(rng.random() * large) if rng.random() < _LARGE_SHARE else large + int(rng.random() * (sessions - large)))
    return iter(found)


def _session(rng: random.Random) -> str:
    return "".join(rng.choices(_LETTERS, k=64))


def _booking(rng: random.Random, number: int, ids: str) -> str:
    if ids == "plain" or (ids == "mixed" and rng.random() < 0.5):
        return f"BK-{number:06d}"
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _said(rng: random.Random) -> tuple[int, int]:
    """Status and number."""
    drawn = rng.random()
    if drawn >= _NOT_CAME:
        return 0, _number(rng)
    status = 1 if drawn < _MISSED else 2
    return status, _number(rng) if rng.random() < 0.1 else 0


def _number(rng: random.Random) -> int:
    if rng.random() < _HUGE:
        return rng.randint(11, 500)
    number = 1
    while rng.random() < _GROWING:
        number += 1
    return number
