"""The tallies of sessions: of one, of some, and of all by start, page by page."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from schemas.query.list_cursor import ListCursor, encode_list_cursor
from schemas.times import format_time
from worker.read_model.freshness import Freshness
from worker.read_model.keys import SESSIONS_START, TALLY
from worker.read_model.merged import Merged, merged
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.pages import ListPage
from worker.read_model.ranked import ScoredMember
from worker.read_model.tally import FIELDS, shown_counts
from worker.read_model.watermark import parse_hash

SESSION_LIST = "sessions"
_COUNTS = tuple(name.encode() for name in FIELDS)
_WINDOW = b"window:"
#: Tallies that are read in one round trip: each takes the server 2 to 4 µs. (A script that adds them up there would take it
#: three times as long, and save less in Python.)
_TALLIES_AT_ONCE = 1_000
#: Sessions that a page looks at, at most, and how many at a time.
_MOST_LOOKED_AT, _LOOKED_AT_ONCE = 1_000, 250


class Tally(NamedTuple):
    """The tally of a session over all partitions. Times are in ms."""

    counts: Mapping[str, int]
    starts: int | None
    ends: int | None

    def document(self, session_id: str) -> dict[str, Any]:
        """As the API shows it, without its freshness."""
        return {"sessionId": session_id, **self.counts, "startsAt": _time(self.starts), "endsAt": _time(self.ends)}


class SessionConditions(NamedTuple):
    """Conditions that a session must meet, as a cursor carries them; None: any. Times are in microseconds."""

    starts_from: int | None = None
    starts_before: int | None = None
    ends_after: int | None = None
    ends_before: int | None = None
    descending: bool | None = None

    def texts(self) -> tuple[str | None, ...]:
        """As a cursor carries them."""
        order = None if self.descending is None else _ORDERS[self.descending]
        return (*(None if each is None else str(each) for each in self[:4]), order)

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> "SessionConditions":
        """From what a cursor carries."""
        *times, order = texts
        starts_from, starts_before, ends_after, ends_before = (None if each is None else int(each) for each in times)
        return cls(starts_from, starts_before, ends_after, ends_before, None if order is None else order == _ORDERS[True])

    def allows(self, tally: Tally) -> bool:
        """Whether the times of a session meet them; a time that is unknown meets no condition on it."""
        bounds = (
            (tally.starts, self.starts_from, self.starts_before, 0),
            (tally.ends, self.ends_after, self.ends_before, 1),
        )
        for at, low, high, least in bounds:
            if (low is not None or high is not None) and at is None:
                return False
            if low is not None and at is not None and at * 1000 < low + least:
                return False
            if high is not None and at is not None and at * 1000 >= high:
                return False
        return True


_ORDERS = ("ASC", "DESC")


async def session(view: NamespaceView, session_id: str) -> dict[str, Any] | None:
    tallies, freshness = await _read_tallies(view, [session_id.encode()])
    tally = tallies.get(session_id.encode())
    return None if tally is None else {**tally.document(session_id), "freshness": freshness.document()}


async def tallies(view: NamespaceView, session_ids: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    known, _ = await _read_tallies(view, [name.encode() for name in session_ids])
    return {name: tally.document(name) if (tally := known.get(name.encode())) else None for name in session_ids}


async def named_sessions(view: NamespaceView, session_ids: Iterable[str], conditions: SessionConditions) -> ListPage:
    tallies, freshness = await _read_tallies(view, [name.encode() for name in dict.fromkeys(session_ids)])
    known = [(ScoredMember(_score(tally), name), tally) for name, tally in tallies.items() if conditions.allows(tally)]
    if conditions.descending:
        known.sort(key=lambda each: each[0], reverse=True)
        known.sort(key=lambda each: each[0].score == inf)
    else:
        known.sort(key=lambda each: each[0])
    return ListPage([tally.document(place.member.decode()) for place, tally in known], None, freshness)


async def sessions_page(view: NamespaceView, conditions: SessionConditions, limit: int, after: ScoredMember | None) -> ListPage:
    items: list[dict[str, Any]] = []
    looked_at, last = 0, after
    size = limit
    while True:
        places, end, freshness = await _by_start(view, conditions, min(size, _LOOKED_AT_ONCE), after)
        tallies = (await _read_tallies(view, [place.member for place in places]))[0] if places else {}
        for place in places:
            tally = tallies.get(place.member)
            # one that changed after its place was read may have another place, or be gone
            if tally is None or _score(tally) != place.score or not conditions.allows(tally):
                continue
            if len(items) == limit:
                end = last
                break
            items.append(tally.document(place.member.decode()))
            last = place
        looked_at += len(places)
        if end is None or len(items) == limit or looked_at >= _MOST_LOOKED_AT or not places:
            break
        # with conditions on the end most may have to be left out
        after, size = end, 2 * size
    if end is None:
        return ListPage(items, None, freshness)
    cursor = ListCursor(SESSION_LIST, conditions.texts(), *end)
    return ListPage(items, encode_list_cursor(cursor, view.cursor_key), freshness)


async def _by_start(view: NamespaceView, conditions: SessionConditions, limit: int, after: ScoredMember | None) -> Merged:
    """The next sessions; those without a start are last in both orders, and left out where a start is asked for."""
    low, high = (None if each is None else ScoredMember(_ms(each), b"") for each in conditions[:2])
    unknown = ScoredMember(inf, b"")
    has_bounds = low is not None or high is not None
    if not conditions.descending:
        until = high or (unknown if has_bounds else None)
        return await merged(view, SESSIONS_START, after or low, limit, descending=False, position=min, until=until)
    dated = None
    if after is None or after.score < inf:
        start = after or high or unknown
        dated = await merged(view, SESSIONS_START, start, limit, descending=True, position=min, until=low)
        if dated.end is not None or has_bounds:
            return dated
        after = None
    remaining = limit if dated is None else limit - len(dated.places)
    rest = await merged(view, SESSIONS_START, after, max(remaining, 1), descending=True, position=min, until=unknown)
    if dated is None:
        return rest
    if remaining:
        return Merged(dated.places + rest.places, rest.end, dated.freshness)
    return Merged(dated.places, dated.places[-1] if rest.places else None, dated.freshness)


async def _read_tallies(view: NamespaceView, names: Sequence[bytes]) -> tuple[dict[bytes, Tally], Freshness]:
    """The tallies of those sessions that have one."""
    partitions = view.all_partitions
    size = max(1, _TALLIES_AT_ONCE // len(partitions))
    tallies: dict[bytes, Tally] = {}
    first: Freshness | None = None
    for start in range(0, max(1, len(names)), size):
        some = names[start : start + size]
        commands = [("HGETALL", TALLY + name.decode()) for name in some]
        answers, freshness = await view.read(partitions, [commands for _ in partitions])
        first = first or freshness
        for name, parts in zip(some, zip(*answers, strict=True), strict=True):
            hashes = [parse_hash(each) for each in parts if each]
            if hashes:
                tallies[name] = _sum(hashes)
    assert first is not None
    return tallies, first


def _sum(hashes: Sequence[Mapping[bytes, bytes]]) -> Tally:
    counts = Counter[str]()
    windows = set[bytes]()
    for each in hashes:
        for field, value in each.items():
            if field in _COUNTS:
                counts[field.decode()] += int(value)
            else:
                windows.add(field)
    bounds = [window[len(_WINDOW) :].partition(b":") for window in windows]
    starts = min((int(start) for start, _, _ in bounds if start), default=None)
    ends = max((int(end) for _, _, end in bounds if end), default=None)
    return Tally(shown_counts(counts), starts, ends)


def _score(tally: Tally) -> float:
    return inf if tally.starts is None else float(tally.starts)


def _ms(moment: int) -> float:
    """The first ms that is not before a time in microseconds."""
    return float(-(-moment // 1000))


def _time(ms: int | None) -> str | None:
    return None if ms is None else format_time(ms * 1000)
