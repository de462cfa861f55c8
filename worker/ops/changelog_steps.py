"""Puts the records of both changelogs of a partition into the order in which its owner wrote them, batch by batch.

Between two batches the tables are in a state that Redis has had too. A batch begins with the row of the offsets that it
applies; its rows of ``attendance`` follow, then those of ``bookings``, which name the offset that they come from.
"""

from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from typing import NamedTuple

from aiokafka import ConsumerRecord, TopicPartition

from worker.domain.devices import DEVICE_PREFIX
from worker.domain.erasures import ERASED_PREFIX
from worker.domain.rows import APPLIED_SUFFIX, PARTITION_GROUP, Applied, place_of
from worker.engine.stores.base import SEPARATOR

_APPLIED_KEY = PARTITION_GROUP + SEPARATOR + APPLIED_SUFFIX
#: Rows of ``bookings`` in a step.
_AT_ONCE = 2_000

Parts = AsyncGenerator[tuple[TopicPartition, list[ConsumerRecord]]]


class Step(NamedTuple):
    """Records of a batch; a large one comes in several steps."""

    attendance: list[ConsumerRecord]
    bookings: list[ConsumerRecord]

    def __len__(self) -> int:
        return len(self.attendance) + len(self.bookings)

    def of(self, bookings: Collection[bytes]) -> "Step":
        """The records of these bookings."""
        return Step(*([record for record in some if booking_of(record) in bookings] for some in self))

    def add(self, other: "Step") -> None:
        """Appends the records of another one."""
        self.attendance.extend(other.attendance)
        self.bookings.extend(other.bookings)

    def sessions(self) -> dict[bytes, set[str] | None]:
        """By booking, the sessions whose rows are among the records; None: it may concern them all."""
        found: dict[bytes, set[str] | None] = {booking_of(record): None for record in self.bookings}
        for record in self.attendance:
            booking, _, suffix = record.key.partition(SEPARATOR)
            if booking == PARTITION_GROUP:
                continue
            session = suffix.partition(SEPARATOR)[0].decode()
            sessions = found.setdefault(booking, set())
            if not session:
                found[booking] = None
            elif sessions is not None:
                sessions.add(session)
        return found

    def devices(self) -> dict[str, bytes | None]:
        """By source, its row, if it is among the records; None: it was deleted."""
        start = PARTITION_GROUP + SEPARATOR + DEVICE_PREFIX
        return {record.key[len(start) :].decode(): record.value for record in self.attendance if record.key.startswith(start)}

    def markers(self) -> dict[bytes, bytes]:
        """The markers of erased bookings among the records, by suffix."""
        start = PARTITION_GROUP + SEPARATOR
        rows = {record.key.removeprefix(start): record.value for record in self.attendance if record.key.startswith(start)}
        return {suffix: row for suffix, row in rows.items() if suffix.startswith(ERASED_PREFIX) and row is not None}


def booking_of(record: ConsumerRecord) -> bytes:
    """The booking of a row; empty: of the partition."""
    return bytes(record.key.partition(SEPARATOR)[0])


async def read_steps(attendance: Parts, bookings: Parts, applied: int) -> AsyncGenerator[Step]:
    """Yields all records of both.

    Args:
        applied: the offset of the bookings topic before which the tables have all.
    """
    rows = deque[ConsumerRecord]()
    async for _, records in attendance:
        for batch in _batches(records):
            if batch[0].key == _APPLIED_KEY and batch[0].value is not None:
                applied = max(applied, Applied.decode(batch[0].value).bookings)
            taken = list[ConsumerRecord]()
            while len(taken) < _AT_ONCE and await _has_more(rows, bookings) and _is_before(rows[0], applied):
                taken.append(rows.popleft())
            yield Step(batch, taken)
    while await _has_more(rows, bookings):
        yield Step([], [rows.popleft() for _ in range(min(_AT_ONCE, len(rows)))])


def _batches(records: Sequence[ConsumerRecord]) -> Iterator[list[ConsumerRecord]]:
    batch = list[ConsumerRecord]()
    for record in records:
        if record.key == _APPLIED_KEY and batch:
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


async def _has_more(rows: deque[ConsumerRecord], parts: Parts) -> bool:
    """Whether there are rows; reads the next part where there are none."""
    while not rows:
        try:
            _, records = await anext(parts)
        except StopAsyncIteration:
            return False
        rows.extend(records)
    return True


def _is_before(row: ConsumerRecord, end: int) -> bool:
    return row.value is None or place_of(row.value).read_at < end
