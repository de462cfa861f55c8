"""Small charts as SVG: the numbers of their shapes, for templates. Sizes are in units of the view box."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from schemas.times import parse_time
from worker.read_model.errors import TooMuchWork
from worker.read_model.reader import AttendanceReader

WIDTH, HEIGHT = 240.0, 48.0
#: Microseconds of a minute.
MINUTE = 60_000_000
#: The part of a minute's width that its bar takes.
_BAR = 0.75


class Bar(NamedTuple):
    """A bar of one minute."""

    x: float
    y: float
    width: float
    height: float


class MinuteChart(NamedTuple):
    """What came in each minute of a window."""

    bars: Sequence[Bar]
    total: int
    most: int
    """In one minute."""
    recent: float
    """Per minute, over the last five minutes."""
    minutes: int


class Fill(NamedTuple):
    """How much of what is expected is there, in hundredths of a bar's width."""

    present: float
    excess: float
    """Beyond what was expected, from the right end."""


async def arrivals_chart(reader: AttendanceReader, session_id: str, until: int, minutes: int) -> MinuteChart | None:
    """The chart of a session's minutes before ``until``; None: there is no such session, or it has too many attendances."""
    try:
        arrivals = await reader.arrivals(session_id, until - minutes, until)
    except TooMuchWork:
        return None
    return None if arrivals is None else minute_chart(arrivals["arrivals"], until, minutes)


def minute_chart(arrivals: Sequence[Mapping[str, Any]], until: int, minutes: int) -> MinuteChart:
    """The chart of the minutes before ``until``, the minute after the last one.

    Args:
        arrivals: ``minute`` (RFC 3339) and ``attendees`` of those with any.
    """
    numbers = {parse_time(each["minute"]) // MINUTE: each["attendees"] for each in arrivals}
    window = [numbers.get(minute, 0) for minute in range(until - minutes, until)]
    most = max(window, default=0)
    step = WIDTH / minutes
    bars = []
    for index, number in enumerate(window):
        height = 0.0 if not number else max(1.5, HEIGHT * number / most)
        if number:
            bars.append(Bar(round(index * step, 2), round(HEIGHT - height, 2), round(step * _BAR, 2), round(height, 2)))
    return MinuteChart(bars, sum(window), most, sum(window[-5:]) / 5, minutes)


def fill(present: int, expected: int) -> Fill:
    """The bar of attendees against those expected; more than expected is shown apart."""
    whole = max(present, expected)
    if not whole:
        return Fill(0, 0)
    within = min(present, expected)
    return Fill(round(100 * within / whole, 1), round(100 * (present - within) / whole, 1))
