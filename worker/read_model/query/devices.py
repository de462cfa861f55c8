"""The devices of all partitions, page by page, with the estimates of each; and the arrivals at a session."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.query.list_cursor import ListCursor, encode_list_cursor
from schemas.times import format_time
from worker.read_model import estimates
from worker.read_model.devices import NewestEvent, unpack_newest
from worker.read_model.errors import TooMuchWork
from worker.read_model.estimates import Estimate, unpack_estimate
from worker.read_model.freshness import Freshness, freshness_of
from worker.read_model.keys import DEAD_ONLY, DEVICES, DEVICES_AT, DOC_SHIFT, ESTIMATES
from worker.read_model.lua_scripts import ARRIVALS
from worker.read_model.merged import Merged, merged
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.pages import ListPage
from worker.read_model.ranked import ScoredMember, decode_place, encode_place
from worker.read_model.watermark import parse_hash, parse_watermark

DEVICE_LIST = "devices"
#: Minutes of one answer about arrivals.
MOST_MINUTES = 1_440
#: ATTENDED attendances of a session whose arrivals are counted: the calls that read so many take Redis a quarter of a second.
MOST_ARRIVED = 100_000
#: Attendances of a partition that one call reads for the arrivals of a session: this takes Redis about a ms.
_ARRIVALS_AT_ONCE = 400
#: Devices that are read in one round trip.
_AT_ONCE = 250
_MINUTE, _SECOND = 60_000_000, 1_000_000
#: The second part of the list, as its cursors name it: sources of which only dead letters are known.
_DEAD = "dead"


class _Device(NamedTuple):
    """A source over all partitions."""

    source: str
    newest: NewestEvent | None
    estimates: Sequence[Estimate]

    def document(self, now: int) -> dict[str, Any]:
        """As the API shows it; ``now`` in microseconds."""
        newest = self.newest
        received = estimates.last_received(newest and newest.received, self.estimates)
        silent = None if received is None else max(0.0, (now - received) / _SECOND)
        return {
            "source": self.source,
            "eventTime": newest and format_time(newest.effective),
            "time": newest and format_time(newest.time),
            "received": newest and format_time(newest.received),
            "silentSeconds": None if silent is None else round(silent, 3),
            "isSilent": silent is not None and estimates.is_silent(silent, estimates.usual_gap(self.estimates)),
            "estimates": estimates.document(self.estimates, now),
        }


async def devices_page(view: NamespaceView, part: str | None, limit: int, after: ScoredMember | None) -> ListPage:
    """Devices by newest event, then sources of which only dead letters are known, by the last of these."""
    now = (await view.watermark(0)).now_ms * 1000
    items: list[dict[str, Any]] = []
    first = None
    if part != _DEAD:
        first = await merged(view, DEVICES_AT, after, limit, descending=True, position=max)
        # one that left after its place was read is left out
        items = [each.document(now) for each in await _read(view, first) if each.newest is not None]
        if first.end is not None:
            return _page(view, items, None, first, first)
        after = None
    rest = await merged(view, DEAD_ONLY, after, max(limit - len(items), 1), descending=True, position=max)
    if len(items) == limit:
        # the page is full: the next one begins with the second part, if there is any
        end = ScoredMember(float("inf"), b"") if rest.places else None
        return _page(view, items, _DEAD, rest._replace(end=end), first or rest)
    # one that has sent an event to another partition is in the first part
    items += [each.document(now) for each in await _read(view, rest) if each.newest is None]
    return _page(view, items, _DEAD, rest, first or rest)


def _page(view: NamespaceView, items: list[dict[str, Any]], part: str | None, last: Merged, first: Merged) -> ListPage:
    """The page; ``last`` is where it ends, ``first`` where it began."""
    if last.end is None:
        return ListPage(items, None, first.freshness)
    return ListPage(items, encode_list_cursor(ListCursor(DEVICE_LIST, (part,), *last.end), view.cursor_key), first.freshness)


async def _read(view: NamespaceView, found: Merged) -> list[_Device]:
    names = [place.member for place in found.places]
    devices: list[_Device] = []
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        commands = [("HMGET", DEVICES, *some), ("HMGET", ESTIMATES, *some)]
        answers, _ = await view.read(view.all_partitions, [commands for _ in view.all_partitions])
        for at, name in enumerate(some):
            newest = max((unpack_newest(packed[at]) for packed, _ in answers if packed[at] is not None), default=None)
            known = [unpack_estimate(packed[at]) for _, packed in answers]
            devices.append(_Device(name.decode(), newest, [each for each in known if each is not None]))
    return devices


async def arrivals(view: NamespaceView, session_id: str, since: int, until: int) -> dict[str, Any] | None:
    """People by minute of a session; see `AttendanceReader.arrivals`."""
    counts, freshness = await attendees_by_minute(view, session_id, since, until)
    if counts is None:
        return None
    shown = [{"minute": format_time(minute * _MINUTE), "attendees": count} for minute, count in sorted(counts.items())]
    return {
        "sessionId": session_id,
        "from": format_time(since * _MINUTE),
        "to": format_time(until * _MINUTE),
        "arrivals": shown,
        "freshness": freshness.document(),
    }


async def attendees_by_minute(
    view: NamespaceView, session_id: str, since: int, until: int
) -> tuple[Counter[int] | None, Freshness]:
    """Attendees by minute since the epoch, from a minute to before another one; None: there is no such session.

    They are counted from the documents: kept counts would be two more changes of Redis for each event that moves an arrival.

    Raises:
        TooMuchWork: the session has more than `MOST_ARRIVED` ATTENDED attendances.
    """
    counts, is_known = Counter[int](), False
    watermarks: dict[int, Any] = {}
    places: dict[int, ScoredMember | None] = dict.fromkeys(view.all_partitions)
    arguments = session_id, DOC_SHIFT, since, until, _ARRIVALS_AT_ONCE
    while places:
        extra = {number: (encode_place(place),) for number, place in places.items()}
        places = {}
        answers = await view.ask(ARRIVALS, extra, arguments, extra)
        # of all partitions in the first round, which is all that a session of too many costs
        if sum(arrived for _, _, arrived, *_ in answers.values()) > MOST_ARRIVED:
            too_many = f"has more than {MOST_ARRIVED:,} ATTENDED attendances: its arrivals are not counted; ask for its tally"
            raise TooMuchWork(too_many, "sessionId")
        for number, (watermark, exists, _, end, *found) in answers.items():
            watermarks.setdefault(number, watermark)
            is_known = is_known or bool(exists)
            for minute, count in zip(found[::2], found[1::2], strict=True):
                counts[int(minute)] += int(count)
            if end:
                places[number] = decode_place(end)
    freshness = freshness_of(parse_watermark(number, parse_hash(reply)) for number, reply in watermarks.items())
    return counts if is_known else None, freshness
