"""Whether this process may still believe that its partitions are its own.

A process that was stopped for longer than the session timeout (a paused machine, a debugger, swap) wakes up in the middle
of a batch, while Kafka has given its partitions to others. The lease notices the gap in its own clock and holds every
effect back until Kafka had the time to say so; the batch is cancelled then. If nothing was lost, it goes on.
"""

import asyncio
from time import monotonic

_RENEW_SECONDS = 0.5
_ASK_SECONDS = 0.2


class Lease:
    """Renewed by its own task; held by whoever is about to write.

    Args:
        timeout: the group's session timeout, seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._limit = 0.8 * timeout
        self._renewed = monotonic()
        self._doubted_until = 0.0

    async def keep(self) -> None:
        """Renews for ever."""
        while True:
            self._renew()
            await asyncio.sleep(_RENEW_SECONDS)

    async def hold(self) -> None:
        """Returns at once, or after a gap when twice the session timeout has passed without a revocation."""
        self._renew()
        while monotonic() < self._doubted_until:  # noqa: ASYNC110 - what it waits for is time
            await asyncio.sleep(_ASK_SECONDS)

    def _renew(self) -> None:
        now = monotonic()
        if now - self._renewed > self._limit:
            self._doubted_until = now + 2 * self._timeout
        self._renewed = now
