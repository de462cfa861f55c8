"""Pages of sorted sets that each partition has one of: open alerts by opening time, bookings by noShowRate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from worker.read_model.freshness import Freshness, freshness_of
from worker.read_model.lua_scripts import RANKED
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.planner import BUDGET, share
from worker.read_model.watermark import parse_hash, parse_watermark
from worker.redis.scripts import Script

#: Maximum number of members per partition and call: Lua's unpack() is limited to a few thousand values.
_MAX_MEMBERS = 1000


class ScoredMember(NamedTuple):
    """The position of a member in the order: score, then member."""

    score: float
    member: bytes


class Ranked(NamedTuple):
    """Members in order, each with its partition, and the freshness of the answer."""

    places: list[tuple[ScoredMember, int]]
    freshness: Freshness


async def ranked(
    view: NamespaceView,
    partitions: Sequence[int],
    names: Sequence[str],
    after: ScoredMember | None,
    limit: int,
    *,
    descending: bool,
) -> Ranked:
    """The first ``limit`` members after a place; fewer only if there are no more.

    Args:
        names: the sets. A member must be in all of them; it has the same score in each.
    """
    arguments = -1 if descending else 1, members_per_call(limit, len(partitions)), BUDGET, orjson.dumps(names)
    return await read_ranking(view, RANKED, arguments, partitions, after, limit, descending=descending)


def members_per_call(limit: int, partitions: int) -> int:
    """How many members of a page one call requests from each partition."""
    return min(_MAX_MEMBERS, share(limit, partitions))


async def read_ranking(
    view: NamespaceView,
    script: Script,
    arguments: Sequence[Any],
    partitions: Sequence[int],
    after: ScoredMember | None,
    limit: int,
    *,
    descending: bool = False,
) -> Ranked:
    """As `ranked`, from a script that takes these arguments and the place of each partition, and answers as ``ranked.lua``."""
    places: list[tuple[ScoredMember, int]] = []
    watermarks: dict[int, Any] = {}
    # partitions that have more members, with the place to continue after
    open_: dict[int, ScoredMember | None] = dict.fromkeys(partitions, after)
    waiting = set(open_)
    while waiting:
        extra = {number: (encode_place(open_[number]),) for number in waiting}
        for number, (watermark, end, *rows) in (await view.ask(script, extra, arguments, extra)).items():
            watermarks.setdefault(number, watermark)
            places += [
                (ScoredMember(float(score), member), number) for score, member in zip(rows[::2], rows[1::2], strict=True)
            ]
            open_[number] = decode_place(end)
            if not end:
                del open_[number]
        places = sorted(places, reverse=descending)[:limit]
        waiting = {
            number for number, bound in open_.items() if len(places) < limit or _is_before(bound, places[-1][0], descending)
        }
    return Ranked(places, freshness_of(parse_watermark(number, parse_hash(reply)) for number, reply in watermarks.items()))


def _is_before(bound: ScoredMember | None, last: ScoredMember, descending: bool) -> bool:
    assert bound is not None
    return bound > last if descending else bound < last


def encode_place(place: ScoredMember | None) -> bytes:
    """The place to start after, as the script takes it."""
    return orjson.dumps(None if place is None else [repr(place.score), place.member.hex()])


def decode_place(end: bytes) -> ScoredMember | None:
    """The place to continue after, as the script answers it; None: there are no more."""
    if not end:
        return None
    score, _, member = end.partition(b" ")
    return ScoredMember(float(score), member)
