"""Read models of a namespace of its own, filled as a worker fills them: applied, projected, written; without Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from schemas.events import Booking, Event
from tests.support.cores import make_commands
from tests.support.services import Redis
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingRecord, BookingState, Place, apply_records
from worker.read_model.builds import Namespace, announce
from worker.read_model.keys import live_key, namespace
from worker.read_model.lua_scripts import REPAIR
from worker.read_model.reader import AttendanceReader
from worker.read_model.write_batch import Entries, Write
from worker.read_model.writer import PartitionWriter
from worker.redis.client import Client, create_redis, masters
from worker.settings import load_settings
from worker.stream.projection import Projection, project_all
from worker.topics import partition_of

_RULES = Rules(300_000_000, 600_000_000, 1 << 62)
_BATCH = 500


class Filled:
    """Bookings as workers hold them, and the read models of them in Redis."""

    def __init__(self, client: Client, partitions: int) -> None:
        self.base = f"filled-{uuid4().hex[:10]}"
        self.partitions = partitions
        self.states: dict[str, BookingState] = {}
        self._client = client
        self._build = 0
        self._offset = 0
        self._writers = self._writers_of(0)

    def reader(self) -> AttendanceReader:
        return AttendanceReader(self._client, self.base)

    async def open(self) -> None:
        """Makes them live, empty."""
        await asyncio.gather(*map(self.repair, range(self.partitions)))
        await announce(self._client, self.base, Namespace(namespace(self.base), self.partitions))

    async def apply(self, records: Iterable[Event | Booking]) -> None:
        """Applies records as one batch of each partition."""
        batches: dict[int, list[Event | Booking]] = {}
        for record in records:
            batches.setdefault(partition_of(record.booking_id, self.partitions), []).append(record)
        await asyncio.gather(*(self._apply(number, batch) for number, batch in batches.items()))

    async def _apply(self, number: int, batch: Sequence[Event | Booking]) -> None:
        by_booking: dict[str, tuple[list[Event], list[BookingRecord]]] = {}
        for record in batch:
            events, references = by_booking.setdefault(record.booking_id, ([], []))
            self._offset += 1
            if isinstance(record, Event):
                events.append(record)
            else:
                references.append(BookingRecord(Place(self._offset, self._offset, self._offset), record, b""))
        changes = apply_records(((self._state(name), *both) for name, both in by_booking.items()), _RULES)
        projection = Projection(known=True)
        projection.add(changes)
        await self._writers[number].apply(Write(projection.entries, {"events.offset": self._offset}))

    async def repair(self, number: int) -> None:
        """Fills a partition anew from what its worker holds, under new keys."""
        await self._writers[number].repair(self._everything(number), {"events.offset": 0, "bookings.offset": 0})

    async def begin_repair(self, number: int) -> None:
        """The first step of a repair, after which the worker died."""
        writer = self._writers[number]
        await writer.claim()
        assert await writer._run(REPAIR, "begin", writer._generation, writer._epoch) != b"fenced"

    async def rebuild(self, partitions: int) -> None:
        """Fills another namespace, of so many partitions, beside the live one, and makes it the live one."""
        self.partitions, self._build = partitions, self._build + 1
        self._writers = self._writers_of(self._build)
        await asyncio.gather(*map(self.repair, range(partitions)))
        live = {"namespace": namespace(self.base, self._build), "partitions": partitions}
        await self._client.hset(live_key(self.base), mapping=live)

    async def clear(self) -> None:
        """Takes all of it out of Redis, which others use too."""
        for master in await masters(self._client):
            keys = [key async for key in master.scan_iter(f"{self.base}:*", count=5000)]
            for some in _cut(keys, 1000):
                async with master.pipeline(transaction=False) as pipe:
                    for key in some:
                        pipe.unlink(key)
                    await pipe.execute()

    def _state(self, name: str) -> BookingState:
        return self.states.setdefault(name, BookingState(name))

    def _writers_of(self, build: int) -> list[PartitionWriter]:
        name = namespace(self.base, build)
        # batches that are large enough are applied in transactions
        return [PartitionWriter(self._client, name, number, "g", make_commands()) for number in range(self.partitions)]

    async def _everything(self, number: int) -> AsyncIterator[Entries]:
        here = [state for name, state in self.states.items() if partition_of(name, self.partitions) == number]
        for some in _cut(here, _BATCH):
            entries = Entries()
            for state in some:
                project_all(state, entries)
            yield entries
            await asyncio.sleep(0)


def on(server: Redis, partitions: int, scenario: Callable[[Filled], Awaitable[None]]) -> None:
    """Runs a scenario on read models that are live and empty."""

    async def running() -> None:
        client = create_redis(load_settings(_env_file=None, redis=server.url))
        filled = Filled(client, partitions)
        try:
            await filled.open()
            await scenario(filled)
        finally:
            await filled.clear()
            await client.aclose()

    asyncio.run(running())


def _cut(some: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (some[start : start + size] for start in range(0, len(some), size))
