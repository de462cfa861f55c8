"""One subscriber of a live feed: what it has been sent, and what it gets next."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple
from zlib import crc32

from worker.web.live.shared_value import SharedValue
from worker.web.live.source import Delivery

#: Seconds between two deliveries to a subscriber, at the least.
DELIVERY_SECONDS = 0.25


class FeedClosed(Exception):
    """The process stops."""


class FeedState(NamedTuple):
    """What a subscription needs of its feed."""

    id: str
    """Random: the sequence numbers of another process mean something else."""
    sequence: Callable[[], int]
    """The number of the newest change of any value."""
    is_closed: Callable[[], bool]


class Subscription:
    """A subscriber's view on values.

    Args:
        values: those of its sources.
        resume: the id of the last delivery that it got.
    """

    def __init__(self, feed: FeedState, values: Sequence[SharedValue], resume: str | None) -> None:
        self._feed = feed
        self._values = values
        names = "\n".join(sorted(repr(value.source.key) for value in values))
        # with its sources: what another subscription was sent says nothing of these
        self._id = f"{feed.id}{crc32(names.encode()):08x}"
        sent = self._resumed(resume)
        self._sent = sent or 0
        """The sequence number up to which it has been sent all changes."""
        self._needs_snapshot = sent is None
        self._sent_error: str | None = None
        """The error that it was sent last, since the last snapshot."""
        self._next_at = 0.0
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Lets `next` look at the values again."""
        self._woken.set()

    async def next(self) -> Delivery:
        """Waits for the next delivery; a cancelled call loses nothing.

        Raises:
            FeedClosed: the process stops.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            if self._feed.is_closed():
                raise FeedClosed
            if (delay := self._next_at - loop.time()) > 0:
                await asyncio.sleep(delay)
                continue
            delivery = self._compose()
            if delivery is not None:
                self._next_at = loop.time() + DELIVERY_SECONDS
                return delivery
            await self._woken.wait()

    def _compose(self) -> Delivery | None:
        """What the subscriber has to be sent now; None: nothing."""
        error = next((value.error for value in self._values if value.error is not None), None)
        if error is not None and error != self._sent_error:
            self._sent_error, self._needs_snapshot = error, True
            return Delivery("", False, {}, error)
        if self._needs_snapshot and error is None:
            if not all(value.is_current for value in self._values):
                return None
            self._sent_error, self._needs_snapshot, self._sent = None, False, self._feed.sequence()
            return Delivery(f"{self._id}-{self._sent}", True, {value.source.key: value.value for value in self._values})
        readable = [value for value in self._values if value.error is None and value.changed_at > self._sent]
        if not readable:
            return None
        self._sent = self._feed.sequence()
        changed: dict[Hashable, object] = {value.source.key: value.value for value in readable}
        return Delivery("" if self._needs_snapshot else f"{self._id}-{self._sent}", False, changed)

    def _resumed(self, resume: str | None) -> int | None:
        """The sequence number of a delivery's id; None if it is not one of this process and these sources."""
        name, _, number = (resume or "").rpartition("-")
        if name != self._id or not (number.isascii() and number.isdecimal() and len(number) < 16):
            return None
        return int(number) if int(number) <= self._feed.sequence() else None
