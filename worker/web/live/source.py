"""What a live feed shows: sources of values, what changed in Redis, and deliveries to subscribers.

How it is used::

    async with services.live.subscribe([SessionTally("yoga"), ...], resume=last_event_id) as subscription:
        while True:
            delivery = await subscription.next()

`worker.web.live.feed` has `LiveFeed` and `Subscription`.
"""

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from worker.topics import partition_of

_partition_of = lru_cache(maxsize=10_000)(partition_of)


class Changes(NamedTuple):
    """What may have changed in Redis."""

    sessions: frozenset[str] | None
    """Sessions whose tally changed; None: any may have changed."""
    alerts: bool
    """Whether alerts opened, changed or were closed."""
    partitions: frozenset[int]
    """Partitions in which anything changed, be it a summary or a document alone."""
    is_tick: bool = False
    """Whether this is the status read of each second, and the watermarks may have moved."""
    partition_count: int = 0
    """The number of all partitions."""

    @property
    def is_everything(self) -> bool:
        """Whether any value may have changed: after a repair, another namespace, or entries of the stream that were missed."""
        return self.sessions is None

    def concern(self, session_id: str) -> bool:
        """Whether the tally of a session may have changed."""
        return self.sessions is None or session_id in self.sessions

    def concern_booking(self, booking_id: str) -> bool:
        """Whether anything of the booking's partition may have changed."""
        return bool(self.partitions) and _partition_of(booking_id, self.partition_count) in self.partitions


class Source(Protocol):
    """A value that subscribers look at. Sources with equal keys are one: it is loaded once for all subscribers."""

    @property
    def key(self) -> Hashable:
        """Names the value; its `repr` must be the same in every process."""

    @property
    def interval(self) -> float:
        """The least number of seconds between the starts of two loads."""

    def is_affected(self, changes: Changes) -> bool:
        """Whether the value has to be loaded again. Called for every change: it must be quick."""

    async def load(self) -> Any:
        """The value now; values are compared with ``==``, and are not changed afterwards.

        Raises:
            worker.read_model.errors.ReaderError, redis.RedisError, OSError: it cannot be read now; the feed tries again.
        """


class Delivery(NamedTuple):
    """What a subscriber gets."""

    id: str
    """Resumes after this delivery, see `LiveFeed.subscribe`; empty: a subscriber that comes back here begins anew."""
    is_snapshot: bool
    """Whether ``values`` are all of the sources': the first delivery, and the first after an ``error``."""
    values: Mapping[Hashable, Any]
    """The value of each source that changed since the last delivery, by key."""
    error: str | None = None
    """Why values cannot be read now, in words; then ``values`` is empty. It holds until the next snapshot. Deliveries before
    that have the sources that can be read all the same, as the status of a partition that is being repaired."""
