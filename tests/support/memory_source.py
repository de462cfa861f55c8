"""What a planner reads from, in plain Python: attendances in lists, and answers as the headers of the Lua scripts define them.

It stands for `NamespaceView` in tests of plans and pages. It takes every liberty that a script has: the keys of a segment are
unsorted, some precede the start, and a segment that ended with the last key may or may not say that there are no more. A unit
of the budget is one key, so that a small budget makes many calls.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

import orjson

from schemas.attendance import STATUSES, Attendance, guid_bytes
from schemas.query.request import Filter
from worker.read_model.lua_scripts import COUNT, NUMBERS, SCAN_BY
from worker.redis.scripts import Script
from worker.topics import partition_of

_NUMBERS = 1 << 32
_PLACE = Struct(">dB")
_CODES = {str(status): code for code, status in enumerate(STATUSES)}


class Call(NamedTuple):
    """A call of the planner; ``name`` is the order of a scan, or numbers, count, documents or fetch_by_keys."""

    name: str
    partitions: tuple[int, ...] = ()


class MemorySource:
    """Attendances, each in the partition of its booking.

    Args:
        seed: where a script may answer in several ways, the seed chooses.
    """

    cursor_key = None

    def __init__(self, attendances: Iterable[Attendance], partitions: int = 1, seed: int = 0) -> None:
        self.partitions = partitions
        self.attendances = {guid_bytes(each["id"]): each for each in attendances}
        self.calls: list[Call] = []
        #: Called once before documents are read: what happens between a scan and the read of what it found.
        self.before_documents: Callable[[], None] | None = None
        self._rng = random.Random(seed)

    async def ask(
        self,
        script: Script,
        numbers: Iterable[int],
        arguments: Sequence[Any],
        extra: Mapping[int, Sequence[Any]] | None = None,
        weight: int = 0,
    ) -> dict[int, list[Any]]:
        asked = tuple(numbers)
        answer: Callable[..., list[Any]] = self._scan
        if script is COUNT or script is NUMBERS:
            name, answer = ("count", self._count) if script is COUNT else ("numbers", self._next_numbers)
        else:
            (name,) = (name for name, each in SCAN_BY.items() if each is script)
        self.calls.append(Call(name, asked))
        return {number: answer(number, *arguments, *(extra or {}).get(number, ())) for number in asked}

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        self.calls.append(Call("documents", tuple(sorted(set(ids.values())))))
        if self.before_documents is not None:
            happen, self.before_documents = self.before_documents, None
            happen()
        return {
            identity: self.attendances[identity]
            for identity, number in ids.items()
            if identity in self.attendances and self._partition_of(self.attendances[identity]) == number
        }

    async def fetch_by_keys(self, filter_: Filter) -> list[Attendance]:
        self.calls.append(Call("fetch_by_keys"))
        if filter_.bookings.allowed is not None:
            return [each for each in self.attendances.values() if each["bookingId"] in filter_.bookings.allowed]
        return [each for each in self.attendances.values() if each["id"] in (filter_.ids.allowed or ())]

    def _partition_of(self, attendance: Attendance) -> int:
        return partition_of(attendance["bookingId"], self.partitions)

    def _matching(self, number: int, ranges: Iterable[Sequence[int]], sessions: list[str] | None) -> list[Attendance]:
        return [
            each
            for each in self.attendances.values()
            if self._partition_of(each) == number
            and (sessions is None or each["sessionId"] in sessions)
            and any(low <= _score(each) <= high for low, high in ranges)
        ]

    def _count(self, number: int, ranges: bytes, sessions: bytes) -> list[Any]:
        return [len(self._matching(number, _flat(ranges), orjson.loads(sessions)))]

    def _next_numbers(
        self, number: int, direction: int, limit: int, budget: int, start: bytes, inclusive: int, ranges: bytes, sessions: bytes
    ) -> list[Any]:
        counts = Counter(each["numberOfAttendees"] for each in self._matching(number, _flat(ranges), orjson.loads(sessions)))
        begin, answer, total = orjson.loads(start), list[int](), 0
        for value in sorted(counts, reverse=direction < 0):
            if begin is not None and (value * direction < begin * direction or (value == begin and not inclusive)):
                continue
            answer += value, counts[value]
            total += counts[value]
            if total >= limit or len(answer) >= 2 * budget:
                return [value, *answer]
        return [b"", *answer]

    def _scan(
        self,
        number: int,
        order: str,
        direction: int,
        limit: int,
        budget: int,
        ranges: bytes,
        sessions: bytes,
        denied: bytes,
        _shift: int,
        start: bytes,
    ) -> list[list[Any]]:
        excluded = orjson.loads(denied) if order == "session" else []
        segments = []
        # each status is a segment of its own in the order of numbers; elsewhere sources are, here two of them
        by_status = orjson.loads(ranges) if order == "number" else [_flat(ranges)] * 2
        for at, some in enumerate(by_status):
            matching = [
                each for each in self._matching(number, some, orjson.loads(sessions)) if each["sessionId"] not in excluded
            ]
            if order != "number":
                matching = [each for each in matching if guid_bytes(each["id"])[-1] % 2 == at]
            after = _place(order, start, at) if start else None
            segments.append(self._segment(sorted(_key(order, each) for each in matching), after, direction, min(limit, budget)))
        return [segment for segment in segments if segment != [b""]]

    def _segment(self, keys: list[Any], after: Any, direction: int, most: int) -> list[Any]:
        if direction < 0:
            keys.reverse()
        behind = [key for key in keys if after is None or (key > after if direction > 0 else key < after)]
        shown = behind[:most]
        is_last = len(behind) < most or (len(behind) == most and self._rng.random() < 0.5)
        entries = keys[: len(keys) - len(behind)][-2:] + shown
        self._rng.shuffle(entries)
        end = b"" if is_last else shown[-1]
        if keys and isinstance(keys[0], tuple):
            end = b"%d %s" % end if end else end
            return [end, *(part for score, identity in entries for part in (b"%d" % score, identity))]
        return [end, *entries]


def _key(order: str, attendance: Attendance) -> Any:
    identity = guid_bytes(attendance["id"])
    if order == "id":
        return identity
    if order == "number":
        return _score(attendance), identity
    name = attendance["bookingId"] if order == "booking" else attendance["sessionId"]
    return name.encode() + b"\0" + identity


def _score(attendance: Attendance) -> int:
    return _CODES[str(attendance["status"])] * _NUMBERS + attendance["numberOfAttendees"]


def _place(order: str, start: bytes, status: int) -> Any:
    """The key that the place to start after names; in the order of numbers that of a status."""
    if order != "number":
        name, nul, identity = start.partition(b"\0")
        # what follows the id finds the record of the booking
        return name + nul + identity[:16] if order == "booking" and len(identity) == 18 else start
    places, at = [], 0
    while at < len(start):
        score, size = _PLACE.unpack_from(start, at)
        at += _PLACE.size + size
        places.append((int(score), start[at - size : at]))
    return places[status]


def _flat(ranges: bytes) -> list[Sequence[int]]:
    return [each for of_status in orjson.loads(ranges) for each in of_status]
