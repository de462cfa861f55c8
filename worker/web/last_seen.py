"""The last read watermarks of the partitions: they remain available while Redis is unavailable."""

from dataclasses import replace
from time import monotonic
from typing import NamedTuple

from redis.exceptions import RedisError

from worker.read_model.freshness import Partition
from worker.read_model.reader import AttendanceReader, ReaderError


class Snapshot(NamedTuple):
    """The partitions as they were last read."""

    partitions: list[Partition]
    """Their ages include the time since they were read."""
    error: Exception | None
    """Why they cannot be read now."""


class LastSeen:
    """Reads the watermarks and remembers them.

    Args:
        partitions: the number of partitions until they have been read once.
    """

    def __init__(self, reader: AttendanceReader, partitions: int) -> None:
        self._reader = reader
        self._partitions = [Partition(number, "not filled yet", {}, 0) for number in range(partitions)]
        self._read_at = monotonic()

    async def check(self) -> Snapshot:
        """Reads the watermarks; the caller sets a timeout."""
        try:
            partitions = await self._reader.status()
        except (ReaderError, RedisError, TimeoutError, OSError) as error:
            return self.without(error)
        self._partitions, self._read_at = partitions, monotonic()
        return Snapshot(partitions, None)

    def without(self, error: Exception) -> Snapshot:
        """The remembered watermarks, with the error of reading them now."""
        elapsed_ms = round((monotonic() - self._read_at) * 1000)
        return Snapshot([replace(each, now_ms=each.now_ms + elapsed_ms) for each in self._partitions], error)
