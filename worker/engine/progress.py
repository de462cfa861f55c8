"""What a partition's owner says of its work, so that the watchdog can tell waiting from standing still.

Said through a context variable: whoever works on a partition, however deep, need not be handed anything.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf

#: How much longer than anything else a call may be silent that is known to be under way, and has not failed yet.
CALL_FACTOR = 10


@dataclass(slots=True)
class Effort:
    """What the owner of some partitions is at."""

    moves: int = 0
    waits: int = 0
    calls: int = 0

    async def follow(self, work: Awaitable[None]) -> None:
        """Does the work, whose `moved`, `known_wait` and `known_call` are about this effort; in a task of its own."""
        _current.set(self)
        await work

    @property
    def patience(self) -> float:
        """How many times the usual limit it may be silent."""
        return inf if self.waits else CALL_FACTOR if self.calls else 1


_current: ContextVar[Effort | None] = ContextVar("effort", default=None)


def moved() -> None:
    """Says that the work under way goes on: for work that takes longer than the watchdog's limit without a batch."""
    effort = _current.get()
    if effort is not None:
        effort.moves += 1


@contextmanager
def known_wait() -> Iterator[None]:
    """The work under way waits for something that it watches itself."""
    effort = _current.get() or Effort()
    effort.waits += 1
    try:
        yield
    finally:
        effort.waits -= 1
        effort.moves += 1


@contextmanager
def known_call() -> Iterator[None]:
    """The work under way asks a service, which may take a while."""
    effort = _current.get() or Effort()
    effort.calls += 1
    try:
        yield
    finally:
        effort.calls -= 1
        effort.moves += 1
