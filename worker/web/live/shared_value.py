"""The value of a source, as it was last loaded, with those who look at it."""

from typing import TYPE_CHECKING, Any

from worker.web.live.source import Source

if TYPE_CHECKING:
    from worker.web.live.subscription import Subscription

#: Pause after the first failed load; it doubles with each further one, up to the longest.
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.25, 5.0
_NOT_LOADED = object()


class SharedValue:
    """One value for all subscribers of a key. Its feed changes it; times are those of the event loop."""

    __slots__ = (
        "changed_at",
        "error",
        "failures",
        "is_current",
        "is_dirty",
        "is_loading",
        "next_load",
        "source",
        "subscribers",
        "unused_since",
        "value",
    )

    def __init__(self, source: Source) -> None:
        self.source = source
        self.value: Any = _NOT_LOADED
        self.changed_at = 0
        """The feed's sequence number of the last change."""
        self.is_dirty = True
        self.is_current = False
        """Whether it was loaded since its first subscriber came, and since the last outage."""
        self.is_loading = False
        self.next_load = 0.0
        self.failures = 0
        self.error: str | None = None
        self.subscribers: set[Subscription] = set()
        self.unused_since = 0.0

    def affect(self) -> None:
        """Has it loaded again; without delay if it waits after a failure."""
        self.is_dirty = True
        if self.failures:
            self.failures, self.next_load = 1, 0.0

    def loaded(self, value: Any, sequence: int) -> bool:
        """Takes a loaded value; returns whether it differs from the one before."""
        self.failures, self.error, self.is_current = 0, None, True
        if value == self.value:
            return False
        self.value, self.changed_at = value, sequence
        return True

    def failed(self, reason: str, now: float) -> bool:
        """Takes a failed load; returns whether that is new to subscribers. A single failure may be a switch of keys."""
        self.failures += 1
        self.is_dirty = True
        self.next_load = now + min(_LONGEST_RETRY_SECONDS, _RETRY_SECONDS * 2 ** min(self.failures - 1, 10))
        return self.failures > 1 and self.interrupt(reason)

    def interrupt(self, reason: str) -> bool:
        """Notes that it cannot be read; returns whether that, or its reason, is new."""
        self.is_dirty, self.is_current = True, False
        is_new, self.error = self.error != reason, reason
        return is_new

    def wake(self) -> None:
        """Lets all subscribers look at it."""
        for each in self.subscribers:
            each.wake()
