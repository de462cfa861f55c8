"""The newest event of each source that a partition has folded, for at most `MOST_DEVICES` sources: the longest silent leave.

Every source has a row of the table, in the group of the partition's own rows; its value is a format byte and the first 24
bytes of the order key of its newest event (effective time, time, received), so that the greatest value is the newest event.
Which sources are kept depends only on the set of events, whatever their order: a source that leaves is older than all that
stay, and they only become newer.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from worker.domain.row_codec import FORMAT, check

#: Sources of a partition.
MOST_DEVICES = 10_000
#: A suffix that no session can have, since ids hold no control character; neither do sources.
DEVICE_PREFIX = b"\x01device\0"
_FORMAT_BYTE = bytes((FORMAT,))


def device_suffix(source: str) -> bytes:
    """The suffix of a source's row."""
    return DEVICE_PREFIX + source.encode()


def devices_of(rows: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The newest event of each source among rows of a partition by suffix."""
    found = {}
    for suffix, row in rows.items():
        if suffix.startswith(DEVICE_PREFIX):
            check(row[0])
            found[suffix[len(DEVICE_PREFIX) :].decode()] = row[1:]
    return found


class SourceEvents(NamedTuple):
    """The events of one source in a batch."""

    newest: bytes
    """The first 24 bytes of the order key of the newest one."""
    received: int
    """Of the newest one, as its time and its session; microseconds."""
    time: int
    session_id: str
    """Empty if it is an erasure."""
    minutes: Mapping[int, int]
    """How many were received in which minute since the epoch."""
    sessions: Mapping[str, int]
    """How many are of which session, of the sessions that came last."""


class Devices:
    """The sources of a partition with their newest events."""

    def __init__(self, newest: Mapping[str, bytes], most: int = MOST_DEVICES) -> None:
        """
        Args:
            newest: by source; those of more than ``most`` sources that are silent longest are left out.
            most: sources to keep.
        """
        self._most = most
        self._newest = dict(newest)
        self._heap = [(event, source) for source, event in newest.items()]
        """Each source once, with its newest event or an older one."""
        heapify(self._heap)
        self.left = self._trim()
        """Sources that were too many."""

    @property
    def is_full(self) -> bool:
        """Whether a further source would make another one leave."""
        return len(self._newest) >= self._most

    def newest(self) -> Mapping[str, bytes]:
        """The newest event of each source."""
        return self._newest

    def update(self, batch: Mapping[str, bytes]) -> dict[str, bytes | None]:
        """Takes the newest event of each source of a batch; returns what changed (None: the source leaves).

        A source that leaves at once, since all others have newer events, changes too: so its row, if there is one, is deleted.
        """
        held, changed = self._newest, dict[str, bytes | None]()
        for source, event in batch.items():
            before = held.get(source)
            if before is None:
                heappush(self._heap, (event, source))
            elif event <= before:
                continue
            held[source] = changed[source] = event
        changed.update(dict.fromkeys(self._trim()))
        return changed

    def lacking(self, batch: Mapping[str, bytes]) -> list[str]:
        """The sources of a batch with an event that is newer than what is kept of them, as if that had never been taken."""
        newer = [source for source, event in batch.items() if event > self._newest.get(source, b"")]
        if not newer or not self.is_full:
            return newer
        oldest = min((event, source) for source, event in self._newest.items())
        return [source for source in newer if source in self._newest or (batch[source], source) > oldest]

    def _trim(self) -> list[str]:
        heap, held, left = self._heap, self._newest, list[str]()
        while len(held) > self._most:
            event, source = heap[0]
            if (current := held[source]) != event:
                heapreplace(heap, (current, source))
                continue
            heappop(heap)
            del held[source]
            left.append(source)
        return left


def device_rows(changed: Mapping[str, bytes | None]) -> dict[bytes, bytes | None]:
    """The rows, by suffix, of what `Devices.update` returned."""
    return {device_suffix(source): None if event is None else _FORMAT_BYTE + event for source, event in changed.items()}
