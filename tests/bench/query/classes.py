"""What is asked: classes of filters, the sorts of each, and how long an answer may take.

A class draws a filter as a request has it, and an attendance that matches it, at which a deep page begins.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import permutations
from math import inf
from typing import Any, NamedTuple

from schemas.attendance import STATUSES
from tests.bench.query.dataset import Dataset

FIELDS = ("id", "bookingId", "sessionId", "status", "numberOfAttendees")
PAIRS = tuple(permutations(FIELDS, 2))
QUICK_MS, MOST_MS, LARGE_SESSION_MS = 2.0, 15.0, 30.0
"""p99: of a booking or an id; of others; of a session of ten thousand in the order of a field of each attendance."""
_TRIES = 20_000

Drawn = tuple[dict[str, Any], int | None]
"""A filter, and the number of an attendance that matches it (None: none does)."""


class Asked(NamedTuple):
    """A class of filters."""

    name: str
    draw: Callable[[Dataset, random.Random], Drawn]
    of: str = "other"
    """Which limit holds: that of a `booking`, an `id`, a large session (`large`), `other`, or none (`attack`)."""
    pairs: bool = False
    """Whether it is asked in the order of two fields too."""

    def limit_ms(self, sort: tuple[str, ...]) -> float:
        if self.of in ("booking", "id"):
            return QUICK_MS
        if self.of == "attack":
            return inf
        return LARGE_SESSION_MS if self.of == "large" and not {*sort} <= {"id", "sessionId"} else MOST_MS


class Matching:
    """Draws attendances for which something holds; where few do, from a list of them all."""

    def __init__(self, holds: Callable[[Dataset, int], bool]) -> None:
        self._holds = holds
        self._all: dict[int, list[int]] = {}

    def __call__(self, data: Dataset, rng: random.Random) -> int | None:
        found = self._all.get(id(data))
        if found is None:
            for _ in range(_TRIES if len(data) > _TRIES else 0):
                attendance = int(rng.random() * len(data))
                if self._holds(data, attendance):
                    return attendance
            found = self._all[id(data)] = [each for each in range(len(data)) if self._holds(data, each)]
        return rng.choice(found) if found else None


def _where(document: Mapping[str, Any], holds: Callable[[Dataset, int], bool]) -> Callable[[Dataset, random.Random], Drawn]:
    matching = Matching(holds)
    return lambda data, rng: (dict(document), matching(data, rng))


def _anyone(data: Dataset, rng: random.Random) -> int:
    return int(rng.random() * len(data))


def _one(field: str) -> Callable[[Dataset, random.Random], Drawn]:
    def draw(data: Dataset, rng: random.Random) -> Drawn:
        attendance = _anyone(data, rng)
        return {field: data.value(attendance, field)}, attendance

    return draw


def _many(field: str, count: int) -> Callable[[Dataset, random.Random], Drawn]:
    def draw(data: Dataset, rng: random.Random) -> Drawn:
        some = [_anyone(data, rng) for _ in range(count)]
        return {field: {"$in": [data.value(each, field) for each in some]}}, some[0]

    return draw


def _all_but(field: str) -> Callable[[Dataset, random.Random], Drawn]:
    def draw(data: Dataset, rng: random.Random) -> Drawn:
        but, attendance = data.value(_anyone(data, rng), field), _anyone(data, rng)
        while data.value(attendance, field) == but:
            attendance = _anyone(data, rng)
        return {field: {"$ne": but}}, attendance

    return draw


def _session(*, large: bool, status: int | None = None) -> Callable[[Dataset, random.Random], Drawn]:
    def draw(data: Dataset, rng: random.Random) -> Drawn:
        number = rng.randrange(data.large) if large else rng.randrange(data.large, len(data.sessions))
        among = data.by_session[number]
        if status is None:
            return {"sessionId": data.sessions[number]}, rng.choice(among)
        some = [each for each in among if data.status_of[each] == status]
        return {"sessionId": data.sessions[number], "status": str(STATUSES[status])}, rng.choice(some) if some else None

    return draw


def _sessions(count: int, *, large: int) -> Callable[[Dataset, random.Random], Drawn]:
    def draw(data: Dataset, rng: random.Random) -> Drawn:
        some = [rng.randrange(data.large, len(data.sessions)) for _ in range(count - large)]
        some += [rng.randrange(data.large) for _ in range(large)]
        among = rng.choice([data.by_session[number] for number in some if data.by_session[number]])
        return {"sessionId": {"$in": [data.sessions[number] for number in some]}}, rng.choice(among)

    return draw


def _status(name: str) -> int:
    return [str(each) for each in STATUSES].index(name)


_CAME, _MISSED, _UNSET = map(_status, ("ATTENDED", "NOT_ATTENDED", "NOT_SET"))

CLASSES = (
    Asked("none", lambda data, rng: ({}, _anyone(data, rng)), pairs=True),
    Asked("ATTENDED", _where({"status": "ATTENDED"}, lambda data, at: data.status_of[at] == _CAME), pairs=True),
    Asked("NOT_SET", _where({"status": "NOT_SET"}, lambda data, at: data.status_of[at] == _UNSET)),
    Asked("NOT_ATTENDED", _where({"status": "NOT_ATTENDED"}, lambda data, at: data.status_of[at] == _MISSED), pairs=True),
    Asked("status != ATTENDED", _where({"status": {"$ne": "ATTENDED"}}, lambda data, at: data.status_of[at] != _CAME)),
    Asked("n = 1", _where({"numberOfAttendees": 1}, lambda data, at: data.number_of[at] == 1)),
    Asked("n >= 3", _where({"numberOfAttendees": {"$gte": 3}}, lambda data, at: data.number_of[at] >= 3), pairs=True),
    Asked("n > 10", _where({"numberOfAttendees": {"$gt": 10}}, lambda data, at: data.number_of[at] > 10)),
    Asked("n = 77", _where({"numberOfAttendees": 77}, lambda data, at: data.number_of[at] == 77)),
    Asked("nothing", lambda data, rng: ({"numberOfAttendees": 77_777}, None)),
    Asked(
        "ATTENDED, n in 2..4",
        _where(
            {"status": "ATTENDED", "numberOfAttendees": {"$gte": 2, "$lte": 4}},
            lambda data, at: data.status_of[at] == _CAME and 2 <= data.number_of[at] <= 4,
        ),
    ),
    Asked("session of 100", _session(large=False), pairs=True),
    Asked("session of 10k", _session(large=True), "large", pairs=True),
    Asked("session of 10k, NOT_ATTENDED", _session(large=True, status=_MISSED), "large"),
    Asked("session in 20", _sessions(20, large=0)),
    Asked("session in 20, 2 of 10k", _sessions(20, large=2), "large"),
    Asked("session !=", _all_but("sessionId")),
    Asked("booking", _one("bookingId"), "booking", pairs=True),
    Asked("booking in 10", _many("bookingId", 10)),
    Asked("booking !=", _all_but("bookingId")),
    Asked("id", _one("id"), "id"),
    Asked("id in 20", _many("id", 20)),
)


def counted(asked: Asked, data: Dataset, document: Mapping[str, Any]) -> int | None:
    """How many attendances match, for classes where that is quickly said; None for others."""
    if asked.name == "none":
        return len(data)
    if {*document} == {"status"} and isinstance(document["status"], str):
        return data.status_of.count(_status(document["status"]))
    if asked.name.startswith("session of") and {*document} == {"sessionId"}:
        return len(data.by_session[data.sessions.index(document["sessionId"])])
    if asked.name == "nothing":
        return 0
    return None
