"""Small charts as SVG: the numbers of their shapes, for templates. Sizes are in units of the view box."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 240.0, 48.0
_GAP = 1.0


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


def minute_chart(numbers: Mapping[int, int], until: int, minutes: int = 60) -> MinuteChart:
    """The chart of the minutes before ``until`` and of that minute.

    Args:
        numbers: by minute since the epoch.
    """
    window = [numbers.get(minute, 0) for minute in range(until - minutes + 1, until + 1)]
    most = max(window)
    step = WIDTH / minutes
    bars = []
    for index, number in enumerate(window):
        height = 0.0 if not number else max(1.5, HEIGHT * number / most)
        if number:
            bars.append(Bar(round(index * step, 2), round(HEIGHT - height, 2), round(step - _GAP, 2), round(height, 2)))
    return MinuteChart(bars, sum(window), most, sum(window[-5:]) / 5, minutes)


def fill(present: int, expected: int) -> Fill:
    """The bar of attendees against those expected; more than expected is shown apart."""
    whole = max(present, expected)
    if not whole:
        return Fill(0, 0)
    within = min(present, expected)
    return Fill(round(100 * within / whole, 1), round(100 * (present - within) / whole, 1))
