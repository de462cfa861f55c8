"""Two namespaces are compared while both are written: what differs is found; what one side has later is no difference."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

import pytest

from tests.support.attending import World
from tests.support.filled import Filled
from tests.support.services import Redis
from worker.ops.namespace_check import MOST_DIFFERENCES, CheckReport, compare
from worker.ops.namespace_lag import Limits
from worker.read_model import keys
from worker.read_model.builds import Namespace
from worker.read_model.keys import PartitionKeys, booking_bucket, namespace
from worker.redis.client import create_redis
from worker.settings import load_settings
from worker.topics import partition_of

_LIMITS = Limits(looks=5, interval=0.02, still=0.3, longest=20.0)
_PARTITIONS = 3


class Pair:
    """Two namespaces that are filled from the same records, the second one later."""

    def __init__(self, redis: Redis, partitions: int, seed: int) -> None:
        self.client = create_redis(load_settings(_env_file=None, redis=redis.url))
        self.live, self.build = Filled(self.client, _PARTITIONS), Filled(self.client, partitions)
        self.world = World(seed, sessions=6, most=40)
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    async def fill(self) -> None:
        await asyncio.gather(self.live.open(), self.build.open())
        pairs = self.world.pairs()
        self.pairs = pairs
        for records in (self.world.list_sessions(pairs), self.world.happen(pairs, deleted=0.1)):
            await asyncio.gather(self.live.apply(records), self.build.apply(records))

    async def write(self, stop: asyncio.Event) -> None:
        """Batches of a few events: to the live namespace, and a moment later to the build."""
        chance = Random(1)
        while not stop.is_set():
            records = self.world.happen(chance.choices(self.pairs, k=chance.randint(1, 20)), deleted=0.1)
            await self.live.apply(records)
            await asyncio.sleep(0.03)  # both sides have moments of rest, as workers between two batches
            self._queue.put_nowait(records)
            if self._queue.qsize() > 3:
                await self.build.apply(self._queue.get_nowait())
        while not self._queue.empty():
            await self.build.apply(self._queue.get_nowait())

    async def compare(self, stop: Callable[[], bool] = lambda: False, limits: Limits = _LIMITS) -> CheckReport:
        names = [Namespace(namespace(each.base), each.partitions) for each in (self.live, self.build)]
        return await compare(self.client, *names, sample=5_000, on_progress=lambda _: None, stop=stop, limits=limits)

    async def key(self, booking_id: str, name: str) -> str:
        """A key of the build, in the partition of a booking."""
        partition = PartitionKeys(namespace(self.build.base), partition_of(booking_id, self.build.partitions))
        generation = await self.client.hget(partition.watermark, "keys")
        assert generation is not None
        return partition.prefix(generation.decode()) + name


def _run(redis: Redis, partitions: int, scenario: Callable[[Pair], Awaitable[None]], seed: int = 1) -> None:
    async def running() -> None:
        pair = Pair(redis, partitions, seed)
        try:
            await pair.fill()
            await scenario(pair)
        finally:
            await pair.live.clear()
            await pair.build.clear()
            await pair.client.aclose()

    asyncio.run(running())


@pytest.mark.parametrize(("place", "partitions"), [("redis_server", 3), ("redis_server", 4), ("redis_cluster", 3)])
def test_what_one_side_has_later_is_no_difference(request: pytest.FixtureRequest, place: str, partitions: int) -> None:
    async def scenario(pair: Pair) -> None:
        stop = asyncio.Event()
        writing = asyncio.create_task(pair.write(stop))
        # some places are never at rest
        report = await pair.compare(limits=_LIMITS._replace(still=2.0))
        assert report.differences == []
        assert report.is_complete
        stop.set()
        await writing
        report = await pair.compare()
        assert report.difference_count == 0
        assert report.compared["attendances"] == len(pair.world.documents) == report.compared["sample"]
        assert report.compared["summaries"] == sum(each.summary is not None for each in pair.live.states.values())

    _run(request.getfixturevalue(place), partitions, scenario)


@pytest.mark.parametrize("partitions", [3, 4])
def test_every_planted_difference_is_found(redis_server: Redis, partitions: int) -> None:
    async def scenario(pair: Pair) -> None:
        stop = asyncio.Event()
        ((booking, session), document), *rest = pair.world.documents.items()
        others = [each for each, _ in rest if booking not in each and session not in each]
        identity = bytes.fromhex(document["id"].replace("-", ""))
        bucket = f"{keys.DOC}{int.from_bytes(identity[:2], 'big') >> keys.DOC_SHIFT}"
        resting = {booking, others[0][0], others[1][0]}
        pair.pairs = [each for each in pair.pairs if each[0] not in resting]
        client = pair.client
        packed = await client.hget(await pair.key(booking, bucket), identity)
        assert isinstance(packed, bytes)
        await client.hset(await pair.key(booking, bucket), identity, packed[:-1] + b"!")
        await client.hincrby(await pair.key(booking, keys.TALLY + session), "companions", 1)
        await client.zadd(await pair.key(booking, keys.SESSIONS_START), {session: 5})
        await client.zadd(await pair.key(booking, keys.ROSTER + session), {booking: 9})
        await client.hset(await pair.key(booking, f"{keys.BOOKING}{booking_bucket(b'nobody')}"), "nobody", "{}")
        gone = others[0][0]
        await client.hdel(await pair.key(gone, f"{keys.BOOKING}{booking_bucket(gone.encode())}"), gone)
        await client.hset(await pair.key(booking, keys.ALERTS), "alert-1", '{"kind": "X"}')
        await client.hset(await pair.key(booking, keys.DEVICES), "/devices/unknown", b"\x80" + bytes(23))
        await client.zadd(await pair.key(booking, keys.NO_SHOWS), {"nobody": -1})
        if partitions == _PARTITIONS:  # where they differ, a place that moves may seem equal
            writing = asyncio.create_task(pair.write(stop))
        report = await pair.compare(limits=_LIMITS._replace(still=1.0, longest=10.0 if partitions == _PARTITIONS else 1.5))
        stop.set()
        found = {(each.kind, each.id) for each in report.differences}
        assert found >= {
            ("attendance", document["id"]),
            ("session", session),
            ("start", session),
            ("roster", f"{session} {booking}"),
            ("summary", gone),
            ("alert", "alert-1"),
            ("device", "/devices/unknown"),
            ("count", "bookings with a noShowRate"),
            ("count", "alerts"),
        }
        assert report.difference_count == len(report.differences) <= 12
        if partitions == _PARTITIONS:
            await writing

    _run(redis_server, partitions, scenario)


def test_all_differences_are_counted_and_some_kept(redis_server: Redis) -> None:
    async def scenario(pair: Pair) -> None:
        fresh = Filled(pair.client, _PARTITIONS)
        await fresh.open()
        pair.build, emptied = fresh, pair.build
        many = World(3, sessions=30, most=80)
        await pair.live.apply(many.happen(many.pairs()))
        report = await pair.compare(limits=Limits(looks=2, interval=0.01, still=0.05, longest=0.1))
        assert len(report.differences) == MOST_DIFFERENCES < report.difference_count
        await emptied.clear()

    _run(redis_server, 3, scenario)


def test_a_repair_meanwhile_is_no_difference(redis_server: Redis) -> None:
    async def scenario(pair: Pair) -> None:
        async def repair(sides: Iterable[Filled]) -> None:
            for side in sides:
                for number in range(side.partitions):
                    await side.repair(number)

        reports = [asyncio.create_task(pair.compare()) for _ in range(4)]
        await repair([pair.build, pair.live] * 2)
        for report in await asyncio.gather(*reports):
            assert report.differences == []

    _run(redis_server, 3, scenario)


def test_a_stopped_comparison_is_not_complete(redis_server: Redis) -> None:
    async def scenario(pair: Pair) -> None:
        assert not (await pair.compare(stop=lambda: True)).is_complete

    _run(redis_server, 3, scenario)
