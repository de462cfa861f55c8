"""Pages of what a sorted set of each partition ranks: open alerts by their opening, bookings by their noShowRate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from worker.read_model.freshness import Freshness, freshness_of
from worker.read_model.partition_reader import Live, fields_of, partition_of_mark
from worker.read_model.query.planner import BUDGET, share

#: Members that a partition is asked for at once: unpack() of the script takes no more than some thousands.
_MOST_AT_ONCE = 1000


class Place(NamedTuple):
    """Where a member stands; places compare as the sets' order does."""

    score: float
    member: bytes


class Ranked(NamedTuple):
    """Members in order with the partition of each, and how fresh that is."""

    places: list[tuple[Place, int]]
    freshness: Freshness


async def ranked(
    live: Live, where: Sequence[int], names: Sequence[str], after: Place | None, many: int, *, descending: bool
) -> Ranked:
    """The first so many behind a place; fewer only where there are no more.

    Args:
        where: partitions.
        names: the sets; a member must be in all of them, with one score.
    """
    take = min(_MOST_AT_ONCE, share(many, len(where)))
    found: list[tuple[Place, int]] = []
    marks: dict[int, Any] = {}
    open_: dict[int, Place | None] = dict.fromkeys(where, after)
    asking = set(open_)
    while asking:
        own = {number: (_written(open_[number]),) for number in asking}
        asked = -1 if descending else 1, take, BUDGET, orjson.dumps(names)
        for number, (mark, end, *rows) in (await live.ask("ranked", own, asked, own)).items():
            marks.setdefault(number, mark)
            found += [(Place(float(score), member), number) for score, member in zip(rows[::2], rows[1::2], strict=True)]
            open_[number] = _read(end)
            if not end:
                del open_[number]
        found = sorted(found, reverse=descending)[:many]
        asking = {number for number, bound in open_.items() if len(found) < many or _is_before(bound, found[-1][0], descending)}
    return Ranked(found, freshness_of(partition_of_mark(number, fields_of(mark)) for number, mark in marks.items()))


def _is_before(bound: Place | None, last: Place, descending: bool) -> bool:
    assert bound is not None
    return bound > last if descending else bound < last


def _written(place: Place | None) -> bytes:
    return orjson.dumps(None if place is None else [repr(place.score), place.member.hex()])


def _read(end: bytes) -> Place | None:
    if not end:
        return None
    score, _, member = end.partition(b" ")
    return Place(float(score), member)
