"""The partitions' watermarks as they were last seen: what is known of them does not vanish while Redis is away."""

from dataclasses import replace
from time import monotonic
from typing import NamedTuple

from redis.exceptions import RedisError

from worker.read_model.freshness import Partition
from worker.read_model.reader import AttendanceReader, ReaderError


class Seen(NamedTuple):
    """What is known of the partitions now."""

    partitions: list[Partition]
    """As they were last seen, older by what has passed since."""
    error: Exception | None
    """Why they cannot be seen now."""


class LastSeen:
    """Remembers the last look.

    Args:
        partitions: how many there are, for as long as Redis has never said.
    """

    def __init__(self, reader: AttendanceReader, partitions: int) -> None:
        self._reader = reader
        self._partitions = [Partition(number, "not filled yet", {}, 0) for number in range(partitions)]
        self._at = monotonic()

    async def look(self) -> Seen:
        """Looks again; bounded by who calls."""
        try:
            partitions = await self._reader.status()
        except (ReaderError, RedisError, TimeoutError, OSError) as error:
            return self.without(error)
        self._partitions, self._at = partitions, monotonic()
        return Seen(partitions, None)

    def without(self, error: Exception) -> Seen:
        """What is known without Redis."""
        passed = round((monotonic() - self._at) * 1000)
        return Seen([replace(each, now_ms=each.now_ms + passed) for each in self._partitions], error)
