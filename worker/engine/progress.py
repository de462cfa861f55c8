"""How the owner of a partition reports its progress, so that the watchdog can distinguish waiting from a stall.

It is reported through a context variable, so that no code has to pass it on to where the work is done.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf

#: How many times longer than the usual limit a call to a service may take, while it has not failed.
CALL_FACTOR = 10


@dataclass(slots=True)
class Progress:
    """The progress of the owner of one or more partitions."""

    heartbeats: int = 0
    waits: int = 0
    calls: int = 0

    async def follow(self, work: Awaitable[None]) -> None:
        """Awaits the work, whose `heartbeat`, `waiting` and `calling` are reported here. Call it in a task of its own."""
        _current.set(self)
        await work

    @property
    def timeout_factor(self) -> float:
        """How many times the usual limit may pass without progress."""
        return inf if self.waits else CALL_FACTOR if self.calls else 1


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def heartbeat() -> None:
    """Reports progress, in work that may take longer than the watchdog's limit without completing a batch."""
    progress = _current.get()
    if progress is not None:
        progress.heartbeats += 1


@contextmanager
def waiting() -> Iterator[None]:
    """Reports a wait that may take any time: the watchdog does not time it."""
    progress = _current.get() or Progress()
    progress.waits += 1
    try:
        yield
    finally:
        progress.waits -= 1
        progress.heartbeats += 1


@contextmanager
def calling() -> Iterator[None]:
    """Reports a call to a service, which may take `CALL_FACTOR` times the usual limit."""
    progress = _current.get() or Progress()
    progress.calls += 1
    try:
        yield
    finally:
        progress.calls -= 1
        progress.heartbeats += 1
