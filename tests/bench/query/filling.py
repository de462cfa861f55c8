"""Fills Redis with a dataset the way a worker repairs it from its table: through `project_all` and `PartitionWriter`.

No alerts come with it: what is asked here are attendances.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from redis.asyncio import Redis

from schemas.attendance import STATUSES
from tests.bench.query.dataset import Dataset
from worker.domain.booking_state import BookingState
from worker.domain.fold import Base, Mark, Row, pack_times
from worker.domain.row_codec import StoredRow, packed_status
from worker.domain.summaries import summarise
from worker.read_model.builds import Namespace, announce
from worker.read_model.keys import LAYOUT_VERSION, namespace
from worker.read_model.write_batch import Entries
from worker.read_model.writer import PartitionWriter
from worker.stream.projection import project_all
from worker.topics import partition_of

BASE = "bench-query"
GENERATION = "bench"
_AT_ONCE = 2
"""Partitions: one is made here while Redis writes the other."""
_BATCH = 1000
_NOW = 1_800_000_000_000_000
_SECOND = 1_000_000
_KIOSKS = [f"/devices/kiosk-{number}" for number in range(20)]


async def fill(client: Redis, data: Dataset, partitions: int, mark: str) -> int:
    """Makes Redis hold it and nothing else, unless the mark says that it does.

    Returns:
        Bytes of Redis's memory that it takes.
    """
    mark = f"{mark}, layout {LAYOUT_VERSION}, {partitions} partitions"
    if await client.hget(f"{BASE}:filled", "mark") != mark.encode():
        await client.flushall()
        await _fill(client, data, partitions)
        await client.hset(f"{BASE}:filled", "mark", mark)  # type: ignore[misc]
    return await _used(client)


async def _fill(client: Redis, data: Dataset, partitions: int) -> None:
    bookings: list[list[int]] = [[] for _ in range(partitions)]
    for number, name in enumerate(data.bookings):
        bookings[partition_of(name, partitions)].append(number)
    numbers = asyncio.Queue[int]()
    for number in range(partitions):
        numbers.put_nowait(number)

    async def work() -> None:
        while not numbers.empty():
            number = numbers.get_nowait()
            writer = PartitionWriter(client, namespace(BASE), number, GENERATION)
            marks = {"events.offset": 1, "bookings.offset": 0}
            await writer.repair(_entries(data, bookings[number]), marks)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    await announce(client, BASE, Namespace(namespace(BASE), partitions))


async def _entries(data: Dataset, bookings: Sequence[int]) -> AsyncIterator[Entries]:
    entries = Entries()
    for booking in bookings:
        project_all(_state(data, booking), entries)
        if len(entries) >= _BATCH:
            yield entries
            entries = Entries()
            await asyncio.sleep(0)
    yield entries


def _state(data: Dataset, booking: int) -> BookingState:
    state = BookingState(data.bookings[booking])
    for attendance in data.of_booking(booking):
        session, stored = data.sessions[data.session_of[attendance]], _row(data, attendance)
        state.rows[session], state.statuses[session] = stored, packed_status(stored.row, 0)
    state.summary = summarise(state.statuses, None)
    return state


def _row(data: Dataset, attendance: int) -> StoredRow:
    """As a report leaves it, or, where it is NOT_SET, as a set or cleared."""
    status, time = data.status_of[attendance], _NOW - attendance * 997 % 2_592_000 * _SECOND
    mark = Mark(pack_times(time, time, 0) + data.identity(attendance)[:8], _KIOSKS[attendance % len(_KIOSKS)])
    base = Base(mark, STATUSES[status], data.number_of[attendance])
    reports: Iterable[Mark | None] = (mark if place == status else None for place in range(3))
    return StoredRow(Row(-(1 << 63), base, mark, *reports), 0)


async def _used(client: Redis) -> int:
    info = await client.info("memory")
    return int(info["used_memory"])
