"""Those bookings of a session that have an open alert at it."""

from collections.abc import Awaitable, Callable, Sequence

import orjson

from schemas.alerts import AlertKind, alert_id
from worker.read_model.freshness import Freshness
from worker.read_model.keys import ALERTS, ALERTS_SESSION, ROSTER
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.ranked import Ranked, ScoredMember

#: Up to so many open alerts of a session are read; of a session with more, the bookings are looked through.
_MOST_ALERTS = 1_000
#: Bookings that are looked at together, and those that a page looks at.
_LOOKED_AT_ONCE, _MOST_LOOKED_AT = 250, 1_000

Places = list[tuple[ScoredMember, int]]
"""Index of the group and bookingId, with the partition."""


async def with_alerts(
    view: NamespaceView,
    session_id: str,
    groups: Sequence[Sequence[int]],
    prefix: bytes,
    rank: Callable[[ScoredMember | None, int], Awaitable[Ranked]],
    after: ScoredMember | None,
    limit: int,
) -> tuple[Places, ScoredMember | None, Freshness]:
    """The first ``limit`` bookings after a place, the place to continue after (None: there are no more), and the freshness.

    Args:
        groups: see `RosterConditions.groups`.
        rank: the first so many bookings after a place, alerts or not.
    """
    key = ALERTS_SESSION + session_id
    ids, freshness = await view.read(view.all_partitions, [[("ZRANGE", key, 0, _MOST_ALERTS)] for _ in view.all_partitions])
    if sum(len(some) for (some,) in ids) > _MOST_ALERTS:
        return await _look_through(view, session_id, rank, after, limit)
    found = await _places_of(view, session_id, [some for (some,) in ids], groups)
    places = sorted(each for each in found if each[0].member.startswith(prefix) and (after is None or each[0] > after))
    return places[:limit], places[limit - 1][0] if len(places) > limit else None, freshness


async def _places_of(
    view: NamespaceView, session_id: str, ids: Sequence[Sequence[bytes]], groups: Sequence[Sequence[int]]
) -> Places:
    """The places of the bookings of these alerts, given by partition."""
    alerts, _ = await view.read(view.all_partitions, [[("HMGET", ALERTS, *some)] if some else [] for some in ids])
    names = [sorted({orjson.loads(json)["bookingId"].encode() for json in some[0] if json} if some else ()) for some in alerts]
    key = ROSTER + session_id
    scores, _ = await view.read(view.all_partitions, [[("ZMSCORE", key, *some)] if some else [] for some in names])
    group_of = {score: index for index, some in enumerate(groups) for score in some}
    return [
        (ScoredMember(float(group), name), number)
        for number, (some, of_some) in enumerate(zip(names, scores, strict=True))
        for name, score in zip(some, of_some[0] if of_some else (), strict=True)
        if score is not None and (group := group_of.get(int(float(score)))) is not None
    ]


async def _look_through(
    view: NamespaceView,
    session_id: str,
    rank: Callable[[ScoredMember | None, int], Awaitable[Ranked]],
    after: ScoredMember | None,
    limit: int,
) -> tuple[Places, ScoredMember | None, Freshness]:
    found: Places = []
    looked_at = 0
    while True:
        places, freshness = await rank(after, _LOOKED_AT_ONCE)
        found += await _having_alerts(view, session_id, places)
        looked_at += len(places)
        if len(found) > limit:
            return found[:limit], found[limit - 1][0], freshness
        if len(places) < _LOOKED_AT_ONCE:
            return found, None, freshness
        after = places[-1][0]
        if looked_at >= _MOST_LOOKED_AT:
            return found, after, freshness


async def _having_alerts(view: NamespaceView, session_id: str, places: Places) -> Places:
    key = ALERTS_SESSION + session_id
    commands: list[list[tuple[str | bytes, ...]]] = [[] for _ in view.all_partitions]
    for place, number in places:
        alerts = [alert_id(kind, place.member.decode(), session_id) for kind in AlertKind]
        commands[number].append(("ZMSCORE", key, *alerts))
    answers, _ = await view.read(view.all_partitions, commands)
    scores = [iter(each) for each in answers]
    return [each for each in places if any(score is not None for score in next(scores[each[1]]))]
