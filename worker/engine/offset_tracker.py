"""Which batches of which partitions are in flight, and up to where everything is done."""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from faust.types import TP

from worker.engine.fetching import Fetched

#: Unacknowledged batches of one partition at which no more of it is fetched.
MAX_IN_FLIGHT = 3


@dataclass(slots=True)
class Batch:
    """A batch that was handed over: the offsets [first, next) of one partition, whether they hold records or not."""

    first: int
    next: int
    done: bool = False


class Standing(NamedTuple):
    """How far a partition is: all offsets below. None: not known yet."""

    began: int | None
    """Before this assignment."""
    taken: int | None
    """Handed over."""
    completed: int | None
    """Done, without a hole."""


class Ledger:
    """Kept by the consumer; in one event loop only."""

    def __init__(self) -> None:
        self._batches: dict[TP, deque[Batch]] = defaultdict(deque)
        self._expected: dict[TP, int] = {}
        self._began: dict[TP, int] = {}
        self.completed: dict[TP, int] = {}
        """Committable offsets: the end of the completed head of each partition."""

    def restart(self, positions: Mapping[TP, int]) -> None:
        """Forgets everything; partitions go on from these offsets."""
        self._batches.clear()
        self.completed.clear()
        self._began = dict(positions)
        self._expected = dict(positions)

    def take(self, tp: TP, fetched: Fetched, log_start: int = 0) -> Fetched | int | None:
        """What of it is new, now in flight; the offset to seek back to, because one is missing; None: nothing is new.

        What is in flight begins where the last batch ended. Where the log itself begins later, the records between are gone.

        Args:
            log_start: the offset at which the log is known to begin.
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
        """Whether a fetch begins behind the offset that comes next."""
        return fetched.begin > self._expected.get(tp, fetched.begin)

    def complete(self, tp: TP, end: int) -> bool:
        """Marks the batch that ends there as done; False for one that is not in flight."""
        batches = self._batches[tp]
        batch = next((each for each in batches if each.next == end), None)
        if batch is None:
            return False
        batch.done = True
        while batches and batches[0].done:
            self.completed[tp] = batches.popleft().next
        return True

    def standing(self, tp: TP) -> Standing:
        """How far a partition is."""
        began = self._began.get(tp)
        return Standing(began, self._expected.get(tp), self.completed.get(tp, began))

    def has_room(self, tp: TP) -> bool:
        """Whether one more batch of the partition may be in flight."""
        return len(self._batches.get(tp, ())) < MAX_IN_FLIGHT

    def saturated(self) -> set[TP]:
        """Partitions with as many batches in flight as are allowed."""
        return {tp for tp in self._batches if not self.has_room(tp)}
