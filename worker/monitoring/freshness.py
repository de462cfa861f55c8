"""Until when a log is known to be completed: from the ends that Kafka confirmed and the offsets that were completed since."""

from __future__ import annotations

from collections import deque

#: Ends that are kept of a log that is not completed; if there are more, half as many are kept of each period.
_KEPT = 256


class LogFreshness:
    """Of one log, the latest time at which everything before its end then is completed now.

    No timestamp of a record and no clock of another machine is needed, and all causes of a delay count alike: many records,
    a sink that is unavailable, and a Kafka that does not answer, since then no end is confirmed.
    """

    def __init__(self) -> None:
        self.fresh_at: float | None = None
        """In the clock of `observe`, seconds; None: nothing was completed since the first observation."""
        self._ends: deque[tuple[int, float]] = deque()
        """Ends that are not completed, each with the last time at which the log ended there; both ascend."""
        self._spacing = 0.0
        """Between two of them, but for the newest, seconds. Those that are left out make the log seem older, never fresher."""

    def observe(self, end: int, at: float, completed: int) -> None:
        """Takes the end that Kafka confirmed at a time, and the offset before which everything is completed now.

        Neither time nor offset may go back; of ends the greatest counts, since some brokers list one that is too small.
        """
        ends = self._ends
        end = max(end, ends[-1][0]) if ends else end
        if ends and (ends[-1][0] == end or (len(ends) > 1 and ends[-1][1] - ends[-2][1] < self._spacing)):
            ends[-1] = (end, at)
        else:
            ends.append((end, at))
        while ends and ends[0][0] <= completed:
            self.fresh_at = ends.popleft()[1]
        if not ends:
            self._spacing = 0.0
        elif len(ends) > _KEPT:
            self._ends = deque(list(ends)[::2])
            self._spacing = 2 * max(self._spacing, (ends[-1][1] - ends[0][1]) / len(ends))
