"""Devices and estimates in Redis: what an owner writes, what the next one finds, and what a repair leaves of them."""

from typing import Any

import pytest

from tests.support.place import MARKS, Place, batches, on, some
from tests.support.services import Redis
from worker.domain.devices import Devices
from worker.domain.fold import pack_times
from worker.read_model.devices import score_of
from worker.read_model.write_batch import Entries, EstimateChange, Write
from worker.stream.projection import surplus_devices

NOW = 1_795_000_000_000_000


@pytest.fixture(params=["server", "cluster"])
def redis_server(request: pytest.FixtureRequest, redis_server: Redis) -> Redis:
    return redis_server if request.param == "server" else request.getfixturevalue("redis_cluster")


def newest(second: int) -> bytes:
    return pack_times(NOW + second * 1_000_000, NOW, 300_000_000)


def changes(**seconds: int | None) -> Write:
    entries = Entries()
    for source, second in seconds.items():
        entries.device(source, None if second is None else newest(second))
    return Write(entries, MARKS)


async def held(place: Place) -> tuple[dict[bytes, bytes], dict[bytes, float]]:
    prefix = place.keys.prefix(await place.mark("keys"))
    scores: Any = await place.client.zrange(prefix + "devices:at", 0, -1, withscores=True)
    return await place.client.hgetall(prefix + "devices"), {bytes(name): float(score) for name, score in scores}


async def holds(place: Place, **seconds: int) -> bool:
    expected = {source.encode(): newest(second) for source, second in seconds.items()}
    assert await held(place) == (expected, {source: score_of(event) for source, event in expected.items()})
    return True


def test_sources_are_set_and_leave_in_the_writes_of_batches(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(3))
        await owner.apply(changes(a=1, b=2))
        await owner.apply(changes(a=3, b=None, c=4))
        assert await holds(place, a=3, c=4)
        assert await place.holds(some(3))

    on(redis_server, scenario)


def test_the_next_owner_removes_sources_that_left_the_table(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        died = await place.owner(some(3))
        await died.apply(changes(a=1, b=2, c=3))
        heir = place.writer()
        await heir.claim()
        # the table that both had: the batch that made `a` leave was stored, and not written here
        devices = Devices({"b": newest(2), "c": newest(5)}, most=2)
        await heir.apply(Write(surplus_devices(devices, await heir.sources())))
        assert await holds(place, b=2, c=3)

    on(redis_server, scenario)


def test_estimates_come_with_heartbeats_and_end_with_a_repair(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(3))
        await owner.heartbeat({}, estimates=[EstimateChange("a", b"one"), EstimateChange("bad", b"two", 7_000)])
        heir = place.writer()
        await heir.claim()
        assert await heir.estimates() == {"a": b"one", "bad": b"two"}
        prefix = place.keys.prefix(await place.mark("keys"))
        dead = prefix + "device-estimates:dead"
        assert await place.client.zrange(dead, 0, -1, withscores=True) in ([(b"bad", 7_000.0)], [[b"bad", 7_000.0]])
        await heir.heartbeat({}, estimates=[EstimateChange("a", b""), EstimateChange("bad", b"three")])
        assert await heir.estimates() == {"bad": b"three"}
        assert await place.client.zcard(dead) == 0
        await heir.repair(batches(some(3)), MARKS)
        assert await heir.estimates() == {}
        assert len(await place.generations()) == 1
        assert await place.holds(some(3))

    on(redis_server, scenario)
