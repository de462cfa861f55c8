"""Tells a difference of two namespaces that are written from what one of them has later.

Both are read at nearly the same moment, and one may be behind the other. So a place that differs is read again, together with
the offsets up to which its partition has applied the topics. It is equal as soon as both sides had the same value at the same
offsets, and differs if they had the same offsets again and again, or come to rest, without that. Between two parts of a batch a
side holds a part of what comes after its offsets, so one look proves nothing. Where the numbers of partitions differ, both
sides are never at the same offsets while events come: then a value that both have had is enough.
"""

from collections.abc import Sequence
from typing import NamedTuple

from worker.ops.namespace_sides import Position, normal

#: Positions of a side that are kept of a place that is looked at again.
_POSITIONS = 64


class Limits(NamedTuple):
    """When a place differs that was looked at again."""

    looks: int = 30
    """At the same offsets, or at all where it is at rest."""
    interval: float = 0.05
    """Seconds from one look to the next."""
    still: float = 2.0
    """Seconds without a change, after both sides have applied what one had applied at the first look."""
    longest: float = 60.0
    """Seconds after which it differs in any case."""


#: For all others once so many differences are kept.
QUICK = Limits(looks=3, interval=0.05, still=0.2, longest=5.0)


class Candidate:
    """A place where the two sides had different values."""

    __slots__ = ("_at", "_values", "changed", "looks", "mismatches", "now")

    def __init__(self, now: Sequence[bytes | None], moment: float) -> None:
        self.now = list(now)
        """The values of both sides."""
        self._values = tuple({normal(value)} for value in now)
        # of each side, the values that it had at its last positions
        self._at: tuple[dict[Position, set[bytes | None]], ...] = ({}, {})
        self.changed, self.looks, self.mismatches = moment, 0, 0

    def see(self, values: Sequence[bytes | None], positions: Sequence[Position], moment: float) -> bool:
        """Adds the values of another look; returns whether both sides have had the same value at the same position."""
        if list(values) != self.now:
            self.now, self.changed = list(values), moment
        self.looks += 1
        for side, (value, position) in enumerate(zip(values, positions, strict=True)):
            normalised = normal(value)
            self._values[side].add(normalised)
            if position is None:
                continue
            at, others = self._at[side], self._at[1 - side].get(position)
            if others is not None and normalised in others:
                return True
            self.mismatches += others is not None
            at.setdefault(position, set()).add(normalised)
            if len(at) > _POSITIONS:
                del at[next(iter(at))]
        return False

    @property
    def had_same_value(self) -> bool:
        """Whether one side has had a value of the other, at any time."""
        return not self._values[0].isdisjoint(self._values[1])

    def is_certain(self, limits: Limits, now: float, reached: float) -> bool:
        """Whether it differs: both sides never had the same value at the same offsets.

        Args:
            limits: see there.
            now: in `time.monotonic`.
            reached: since when both sides have applied what one had applied at first; 0: they have not.
        """
        if self.looks < limits.looks:
            return False
        return self.mismatches >= limits.looks or bool(reached and now - max(self.changed, reached) > limits.still)
