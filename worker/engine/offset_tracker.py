"""Tracks the batches in flight of each partition, and the offset up to which all batches are completed."""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from faust.types import TP

from worker.engine.fetching import Fetched

#: No more is fetched of a partition with so many unacknowledged batches.
MAX_IN_FLIGHT = 3


@dataclass(slots=True)
class Batch:
    """A batch that was delivered: the offsets [first, next) of one partition, whether they hold records or not."""

    first: int
    next: int
    done: bool = False


class PartitionProgress(NamedTuple):
    """The progress of a partition, as offsets after the last one. None: not known yet."""

    began: int | None
    """Completed before this assignment."""
    taken: int | None
    """Delivered."""
    completed: int | None
    """Completed, without a gap."""


class OffsetTracker:
    """The batches in flight of a consumer. Used in one event loop only."""

    def __init__(self) -> None:
        self._batches: dict[TP, deque[Batch]] = defaultdict(deque)
        self._expected: dict[TP, int] = {}
        self._began: dict[TP, int] = {}
        self.completed: dict[TP, int] = {}
        """The committable offset of each partition: up to it all batches are completed."""

    def restart(self, positions: Mapping[TP, int]) -> None:
        """Forgets everything; partitions continue from these offsets."""
        self._batches.clear()
        self.completed.clear()
        self._began = dict(positions)
        self._expected = dict(positions)

    def take(self, tp: TP, fetched: Fetched, log_start: int = 0) -> Fetched | int | None:
        """Puts the new part of a fetch in flight, as a batch that begins where the last one ended.

        Args:
            tp: the partition.
            fetched: what was fetched of it.
            log_start: the offset at which the log is known to begin: records before it are gone.

        Returns:
            The batch; or the offset to seek back to, if an offset before the fetch is missing; or None if nothing is new.
        """
        begin, records, end = fetched
        expected = self._expected.get(tp, begin)
        if end <= expected:
            return None
        first = max(expected, log_start)
        if begin > first:
            return first
        if begin < expected:
            records = [record for record in records if record.offset >= expected]
        self._expected[tp] = end
        self._batches[tp].append(Batch(expected, end))
        return Fetched(expected, records, end)

    def misses(self, tp: TP, fetched: Fetched) -> bool:
        """Whether a fetch begins after the expected offset."""
        return fetched.begin > self._expected.get(tp, fetched.begin)

    def complete(self, tp: TP, end: int) -> bool:
        """Completes the batch that ends at this offset; False if it is not in flight."""
        batches = self._batches[tp]
        batch = next((each for each in batches if each.next == end), None)
        if batch is None:
            return False
        batch.done = True
        while batches and batches[0].done:
            self.completed[tp] = batches.popleft().next
        return True

    def progress_of(self, tp: TP) -> PartitionProgress:
        """The progress of a partition."""
        began = self._began.get(tp)
        return PartitionProgress(began, self._expected.get(tp), self.completed.get(tp, began))

    @property
    def in_flight(self) -> int:
        """Batches of all partitions that are not completed."""
        return sum(map(len, self._batches.values()))

    def has_room(self, tp: TP) -> bool:
        """Whether one more batch of the partition may be in flight."""
        return len(self._batches.get(tp, ())) < MAX_IN_FLIGHT

    def saturated(self) -> set[TP]:
        """Partitions with as many batches in flight as are allowed."""
        return {tp for tp in self._batches if not self.has_room(tp)}
