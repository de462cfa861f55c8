"""Pages of a ranking in which a member occurs in several partitions, each time with a score of its own.

Sessions by start and devices by newest event: each partition knows its own bookings alone. The position of a member is the
minimum, or the maximum, of its scores. A walk meets every occurrence of it, and takes the one at its position: so a page
needs nothing of the pages before it, and no member whose position does not change is left out or shown twice.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson

from worker.read_model.freshness import Freshness, freshness_of
from worker.read_model.lua_scripts import RANKED
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.planner import BUDGET
from worker.read_model.ranked import ScoredMember, decode_place, encode_place
from worker.read_model.watermark import parse_hash, parse_watermark

#: Members of one partition that one script call reads.
_LEAST_TAKEN, _MOST_TAKEN = 25, 250
#: Members that are looked up in all partitions in one round trip.
_MOST_CHECKED = 250


class Merged(NamedTuple):
    """Members in order, each once, with its position."""

    places: list[ScoredMember]
    end: ScoredMember | None
    """The place to continue after; None: there are no more. It can be set although there are fewer places than the limit."""
    freshness: Freshness


async def merged(
    view: NamespaceView,
    name: str,
    after: ScoredMember | None,
    limit: int,
    *,
    descending: bool,
    position: Callable[[Sequence[float]], float],
    until: ScoredMember | None = None,
    most: int = 1000,
) -> Merged:
    """The first ``limit`` members after a place.

    Args:
        name: the sorted set that each partition has.
        position: ``min`` or ``max`` of the scores that a member has in different partitions.
        until: places behind it, in the order, are left out.
        most: of a call, how many different occurrences are looked at; then it ends with fewer places.
    """
    walk = _Walk(view, name, after, descending, min(max(limit + 1, _LEAST_TAKEN), _MOST_TAKEN))
    places: list[ScoredMember] = []
    looked_at = 0
    while True:
        horizon = await walk.read()
        while ready := walk.take(horizon, min(_MOST_CHECKED, max(limit + 1 - len(places), _LEAST_TAKEN))):
            inside = [each for each in ready if until is None or not walk.is_before(until, each)]
            places += await _at_position(view, name, inside, position)
            looked_at += len(ready)
            if len(places) > limit:
                return Merged(places[:limit], places[limit - 1], walk.freshness)
            if len(inside) < len(ready):
                return Merged(places, None, walk.freshness)
            if looked_at >= most:
                return Merged(places, ready[-1] if walk.has_more else None, walk.freshness)
        if horizon is None:
            return Merged(places, None, walk.freshness)


class _Walk:
    """Occurrences of all partitions in order."""

    def __init__(self, view: NamespaceView, name: str, after: ScoredMember | None, descending: bool, take: int) -> None:
        self._view = view
        self._arguments = -1 if descending else 1, take, BUDGET, orjson.dumps([name])
        self._descending = descending
        self._enough = take // 2
        self._watermarks: dict[int, Any] = {}
        # partitions that have more members, with the place to continue after
        self._open: dict[int, ScoredMember | None] = dict.fromkeys(view.all_partitions, after)
        # what was read of a partition and not taken yet; a place that several partitions have is one occurrence
        self._waiting: dict[int, deque[ScoredMember]] = {number: deque() for number in view.all_partitions}

    @property
    def freshness(self) -> Freshness:
        """Of the first read of each partition."""
        return freshness_of(parse_watermark(number, parse_hash(reply)) for number, reply in self._watermarks.items())

    @property
    def has_more(self) -> bool:
        return bool(self._open) or any(self._waiting.values())

    def is_before(self, one: ScoredMember, other: ScoredMember) -> bool:
        """Whether a place comes before another one."""
        return one > other if self._descending else one < other

    async def read(self) -> ScoredMember | None:
        """Reads on in the partitions of which little is left; returns the place up to which all is read, None: to the end."""
        wanted = [number for number in self._open if len(self._waiting[number]) <= self._enough]
        extra = {number: (encode_place(self._open[number]),) for number in wanted}
        for number, (watermark, end, *rows) in (await self._view.ask(RANKED, extra, self._arguments, extra)).items():
            self._watermarks.setdefault(number, watermark)
            self._waiting[number] += [
                ScoredMember(float(score), member) for score, member in zip(rows[::2], rows[1::2], strict=True)
            ]
            self._open[number] = decode_place(end)
            if not end:
                del self._open[number]
        bounds = [bound for bound in self._open.values() if bound is not None]
        return (max if self._descending else min)(bounds, default=None)

    def take(self, horizon: ScoredMember | None, count: int) -> list[ScoredMember]:
        """The next occurrences in order, none behind the horizon."""
        heads: set[ScoredMember] = set()
        for some in self._waiting.values():
            heads.update(islice(some, count))
        taken = [
            each
            for each in sorted(heads, reverse=self._descending)[:count]
            if horizon is None or not self.is_before(horizon, each)
        ]
        if taken:
            for some in self._waiting.values():
                while some and not self.is_before(taken[-1], some[0]):
                    some.popleft()
        return taken


async def _at_position(
    view: NamespaceView, name: str, occurrences: Sequence[ScoredMember], position: Callable[[Sequence[float]], float]
) -> list[ScoredMember]:
    """Those occurrences that are at the position of their member."""
    if not occurrences:
        return []
    members = list(dict.fromkeys(each.member for each in occurrences))
    answers, _ = await view.read(view.all_partitions, [[("ZMSCORE", name, *members)] for _ in view.all_partitions])
    scores = zip(*(each for (each,) in answers), strict=True)
    positions = {
        member: position([float(score) for score in of_member if score is not None] or [float("nan")])
        for member, of_member in zip(members, scores, strict=True)
    }
    return [each for each in occurrences if positions[each.member] == each.score]
