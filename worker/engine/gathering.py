"""Lets what the partitions of one poll append leave together: in one request to Kafka instead of one for each partition.

A partition that has a small append ready waits for the others whose batches the same poll took, some milliseconds at most.
When all have theirs, they go on in the same turn of the event loop, so that the producer finds their record batches together.
A request costs this process and the broker nearly as much for one record as for a thousand.

Partitions stay independent: each appends by itself, and waits for nothing but these milliseconds.
"""

import asyncio
from collections.abc import Iterable

#: How long a partition waits for the others of its poll, seconds.
GATHER_SECONDS = 0.008


class Gathering:
    """The partitions of the last poll whose append is still to come. Used in one event loop only."""

    def __init__(self) -> None:
        self._expected: set[int] = set()
        self._waiting: list[asyncio.Future[None]] = []
        """Of each partition that waits for the others."""

    def begin(self, partitions: Iterable[int]) -> None:
        """A poll has taken batches of these partitions."""
        self._release(self._waiting)
        self._expected = set(partitions)

    def leave(self, partition: int) -> None:
        """A partition has appended, or has nothing to append."""
        self._expected.discard(partition)
        if not self._expected:
            self._release(self._waiting)

    async def wait(self, partition: int) -> None:
        """Waits until the other partitions of the poll are ready to append too, or for `GATHER_SECONDS`."""
        self.leave(partition)
        if self._expected:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_later(GATHER_SECONDS, self._release, self._waiting)
            self._waiting.append(loop.create_future())
            await self._waiting[-1]

    def _release(self, waiting: list[asyncio.Future[None]]) -> None:
        if waiting is self._waiting and waiting:
            self._waiting = []
            for each in waiting:
                if not each.done():  # it is done if its partition was revoked meanwhile
                    each.set_result(None)
