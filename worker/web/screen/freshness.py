"""How fresh the page is, in words: a source of the live feed that all viewers share."""

from collections.abc import Hashable, Sequence
from math import inf
from typing import NamedTuple

from markupsafe import Markup

from schemas.times import format_time
from worker.read_model.freshness import Partition, Problem, find_problems, freshness_of
from worker.read_model.reader import AttendanceReader
from worker.web.live.source import Changes
from worker.web.screen.templates import render

#: A page that hears nothing for longer says that it has lost its connection: so the text has the time, cut at so many seconds.
HEARTBEAT_SECONDS = 5
#: The element of every page that holds it.
ELEMENT = "freshness"
#: Lag that lasts shorter is what a healthy system always has.
_BEHIND_SECONDS = 2


class FreshnessWords(NamedTuple):
    """What a page says about its age."""

    level: str
    """``live``, ``behind`` or ``stopped``."""
    text: str
    detail: str
    as_of: str
    """The time of the Redis server, RFC 3339."""


class FreshnessSource:
    """The state of all partitions in a line."""

    interval = 0.5

    def __init__(self, reader: AttendanceReader) -> None:
        self._reader = reader

    @property
    def key(self) -> Hashable:
        return ("screen", ELEMENT)

    def is_affected(self, changes: Changes) -> bool:
        return changes.is_tick or changes.is_everything

    async def load(self) -> Markup:
        return render("fragments/freshness.html", fresh=freshness_words(await self._reader.status()))


def freshness_words(partitions: Sequence[Partition]) -> FreshnessWords:
    """What the watermarks say, the worst first."""
    seconds = max((each.now_ms for each in partitions), default=0) // 1000
    as_of = format_time(seconds // HEARTBEAT_SECONDS * HEARTBEAT_SECONDS * 1_000_000)
    behind = max((each.fresh_age for each in partitions), default=inf)
    lag = freshness_of(partitions).lag
    stopping = [each for each in find_problems(partitions) if each.code != "BAD_EVENTS"]
    if stopping:
        return FreshnessWords("stopped", _age(behind), _sentence(stopping), as_of)
    if behind > _BEHIND_SECONDS and (lag is None or lag > 0):
        applying = "" if lag is None else f"{lag:,} record{'' if lag == 1 else 's'} to apply"
        return FreshnessWords("behind", _age(behind), applying, as_of)
    return FreshnessWords("live", "Live", "all that Kafka has is shown", as_of)


def _age(seconds: float) -> str:
    if seconds == inf:
        return "Age unknown"
    if seconds < 120:
        return f"{seconds:.0f} s behind"
    return f"{seconds / 60:.0f} min behind" if seconds < 7200 else f"{seconds / 3600:.0f} h behind"


def _sentence(problems: Sequence[Problem]) -> str:
    first, *others = problems
    return first.description + (f"; and {len(others)} more, see System" if others else "")
