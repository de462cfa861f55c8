"""The sessions around now: those that run, come next and have just ended."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from schemas.times import parse_time
from worker.read_model.reader import AttendanceReader

_HOUR = 3_600_000_000
#: How long ago a session that runs, or one without an end, may have begun. To list them takes the tallies of all that began
#: since: of 1,000 sessions over 16 partitions 0.1 s of the processor.
_LONGEST, _LONGEST_WITHOUT_END = 24 * _HOUR, 4 * _HOUR
_COMING_WITHIN, _ENDED_WITHIN = 24 * _HOUR, 3 * _HOUR
#: People come, and devices report, before a session begins.
_DOORS_OPEN = _HOUR
#: Sessions of each group.
RUNNING, _COMING, _ENDED = 100, 6, 6
#: Pages that are read to find those that run: each looks at about 1,000 sessions.
_MOST_PAGES = 3
#: Between two listings only the tallies of the sessions that were found are read.
_LIST_SECONDS = 5.0

Session = Mapping[str, Any]
"""A tally, as `AttendanceReader.sessions_page` gives it."""


class Day(NamedTuple):
    """Sessions by what they are now."""

    running: Sequence[Session]
    """Those that began last first."""
    coming: Sequence[Session]
    ended: Sequence[Session]
    has_more: bool
    """Whether more run than were found."""

    @property
    def open(self) -> list[Session]:
        """Those that people come to: also those that begin within an hour."""
        soon = time.time_ns() // 1000 + _DOORS_OPEN
        return [*self.running, *(each for each in self.coming if parse_time(each["startsAt"]) <= soon)]


class DaySessions:
    """Lists the sessions around now every few seconds, and reads the tallies of those that were found in between."""

    def __init__(self, reader: AttendanceReader) -> None:
        self._reader = reader
        self._listed: Day | None = None
        self._list_at = 0.0

    async def listed(self) -> Day:
        """The sessions; their numbers may be some seconds old."""
        if self._listed is None or time.monotonic() >= self._list_at:
            self._listed = await self._list(time.time_ns() // 1000)
            self._list_at = time.monotonic() + _LIST_SECONDS
        return self._listed

    async def read(self, most_running: int) -> Day:
        """The sessions with their numbers now, at most so many that run."""
        before = self._listed
        listed = await self.listed()
        if listed is not before:
            return listed._replace(running=listed.running[:most_running])
        ids = [each["sessionId"] for each in (*listed.running[:most_running], *listed.coming, *listed.ended)]
        tallies = (await self._reader.named_sessions(ids)).items if ids else []
        return _grouped(tallies, time.time_ns() // 1000, has_more=listed.has_more)

    async def _list(self, now: int) -> Day:
        page = self._reader.sessions_page
        running, cursor = list[Session](), None
        for _ in range(_MOST_PAGES):
            found = await page(
                starts_from=now - _LONGEST,
                starts_before=now + 1,
                ends_after=now,
                descending=True,
                limit=RUNNING - len(running),
                cursor=cursor,
            )
            running += found.items
            cursor = found.next
            if cursor is None or len(running) >= RUNNING:
                break
        begun = await page(starts_from=now - _LONGEST_WITHOUT_END, starts_before=now + 1, descending=True, limit=RUNNING)
        coming = await page(starts_from=now + 1, starts_before=now + _COMING_WITHIN, limit=_COMING)
        ended = await page(
            starts_from=now - _LONGEST - _ENDED_WITHIN,
            starts_before=now + 1,
            ends_after=now - _ENDED_WITHIN,
            ends_before=now + 1,
            descending=True,
            limit=_ENDED,
        )
        running += [each for each in begun.items if each["endsAt"] is None]
        return Day(sorted(running, key=_place, reverse=True), coming.items, ended.items, cursor is not None)


def _place(session: Session) -> tuple[str, str]:
    """Sorts as the list of sessions does, so that both ways to find them show the same order."""
    return session["startsAt"], session["sessionId"]


def _grouped(tallies: Sequence[Session], now: int, *, has_more: bool) -> Day:
    """Sessions by what they are now; ``tallies`` by start."""
    running, coming, ended = list[Session](), list[Session](), list[Session]()
    for each in tallies:
        if each["startsAt"] is None or parse_time(each["startsAt"]) > now:
            coming.append(each)
        elif each["endsAt"] is not None and parse_time(each["endsAt"]) <= now:
            ended.append(each)
        else:
            running.append(each)
    return Day(running[::-1], [each for each in coming if each["startsAt"] is not None], ended[::-1], has_more)
