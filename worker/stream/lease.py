"""Whether this process may still assume that it owns its partitions.

A process that was stopped for longer than the session timeout (a paused machine, a debugger, swap) resumes in the middle of
a batch, although Kafka may have assigned its partitions to others. The lease notices the gap in its own clock and delays
every effect until Kafka had the time to revoke the partitions, which cancels the batch; otherwise the batch continues.
"""

import asyncio
from time import monotonic

_RENEW_SECONDS = 0.5
_CHECK_SECONDS = 0.2


class Lease:
    """Renewed by a task of its own; `hold` is awaited before each write.

    Args:
        timeout: the group's session timeout, seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._renewed = monotonic()
        self._doubted_until = 0.0

    async def keep(self) -> None:
        """Renews the lease for ever."""
        while True:
            self._renew()
            await asyncio.sleep(_RENEW_SECONDS)

    async def hold(self) -> None:
        """Returns at once; after a gap, once twice the session timeout has passed without a revocation."""
        self._renew()
        while monotonic() < self._doubted_until:  # noqa: ASYNC110 - what it waits for is time
            await asyncio.sleep(_CHECK_SECONDS)

    def _renew(self) -> None:
        now = monotonic()
        if now - self._renewed > 0.8 * self._timeout:
            self._doubted_until = now + 2 * self._timeout
        self._renewed = now
