"""Filters of the largest size that the query language takes: what a request may cost the server at most.

They have no limit of their own but that no command holds the server for long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from schemas.attendance import STATUSES
from schemas.query.request import parse_filter
from tests.bench.query.classes import Asked, Drawn
from tests.bench.query.dataset import Dataset

_OPERATOR, _VALUES = 100, 1000
"""Values of one operator, and of a filter."""


def _all_of(field: str, operator: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Conditions on more values than one operator takes."""
    return [{field: {operator: values[at : at + _OPERATOR]}} for at in range(0, len(values), _OPERATOR)]


def _asked(name: str, draw: Callable[[Dataset, random.Random], dict[str, Any]], *, pairs: bool = False) -> Asked:
    def drawn(data: Dataset, rng: random.Random) -> Drawn:
        document = draw(data, rng)
        wanted = parse_filter(document)
        for _ in range(2_000):
            attendance = int(rng.random() * len(data))
            # by the cheap fields first
            if (
                data.number_of[attendance] > wanted.numbers[-1][1]
                or STATUSES[data.status_of[attendance]] not in wanted.statuses
            ):
                continue
            fields = ("id", "bookingId", "sessionId", "status", "numberOfAttendees")
            if wanted.matches({name: data.value(attendance, name) for name in fields}):  # type: ignore[misc]
                return document, attendance
        return document, None

    return Asked(name, drawn, "attack", pairs)


def _largest(data: Dataset, rng: random.Random, many: int) -> list[str]:
    """The large sessions, and others."""
    some = range(min(many, data.large))
    return [data.sessions[number] for number in (*some, *rng.sample(range(data.large, len(data.sessions)), many - len(some)))]


def _largest_bookings(data: Dataset, many: int) -> list[str]:
    sizes = sorted(range(len(data.bookings)), key=lambda number: -len(data.of_booking(number)))
    return [data.bookings[number] for number in sizes[:many]]


def _some(names: Sequence[str], rng: random.Random, many: int) -> list[str]:
    return rng.sample(names, min(many, len(names)))


ATTACKS = (
    _asked("100 sessions", lambda data, rng: {"sessionId": {"$in": _largest(data, rng, 100)}}, pairs=True),
    _asked(
        "100 sessions, NOT_ATTENDED",
        lambda data, rng: {"sessionId": {"$in": _largest(data, rng, 100)}, "status": "NOT_ATTENDED"},
    ),
    _asked(
        "60 sessions x 22 numbers",
        lambda data, rng: {
            "sessionId": {"$in": _largest(data, rng, 60)},
            "numberOfAttendees": {"$in": list(range(0, 44, 2))},
        },
        pairs=True,
    ),
    _asked(
        "60 sessions x 22 numbers that do not exist",
        lambda data, rng: {
            "sessionId": {"$in": [f"no such {number}" for number in range(60)]},
            "numberOfAttendees": {"$in": list(range(501, 545, 2))},
        },
    ),
    _asked(
        "60 sessions x 22 numbers that none has",
        lambda data, rng: {
            "sessionId": {"$in": _largest(data, rng, 60)},
            "numberOfAttendees": {"$in": list(range(501, 545, 2))},
        },
    ),
    _asked(
        "1000 numbers denied",
        lambda data, rng: {"$and": _all_of("numberOfAttendees", "$nin", list(range(1, 2 * _VALUES, 2)))},
        pairs=True,
    ),
    _asked(
        "900 sessions denied",
        lambda data, rng: {"$and": _all_of("sessionId", "$nin", _some(data.sessions, rng, 900))},
    ),
    _asked(
        "1000 bookings denied",
        lambda data, rng: {"$and": _all_of("bookingId", "$nin", _some(data.bookings, rng, _VALUES))},
    ),
    _asked(
        "1000 ids denied",
        lambda data, rng: {
            "$and": _all_of("id", "$nin", [data.value(int(rng.random() * len(data)), "id") for _ in range(_VALUES)])
        },
    ),
    _asked("100 largest bookings", lambda data, rng: {"bookingId": {"$in": _largest_bookings(data, 100)}}),
    _asked(
        "100 ids",
        lambda data, rng: {"id": {"$in": [data.value(int(rng.random() * len(data)), "id") for _ in range(100)]}},
    ),
)
