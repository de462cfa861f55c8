"""`attendance verify`: it finds each kind of difference, planted one at a time, has it repaired, and finds nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from schemas.attendance import guid
from tests.integration.test_main_job import World
from tests.support.services import Broker, Redis
from tests.support.system import System, running
from worker.ops.partition_check import PartitionReport
from worker.ops.verify import Verification
from worker.read_model import keys
from worker.read_model.keys import PartitionKeys, namespace
from worker.redis.client import create_redis

T = TypeVar("T")
Client = Any
Place = tuple[str, bytes]
"""A key without its prefix, and a member of it."""


@pytest.fixture(scope="module")
def hall(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A running system in which much has happened."""
    with running(System(kafka, redis_server, partitions=2)) as system:
        system.publish(World(seed=11, events=1500).records(system, random.Random(1)))
        system.until_settled()
        yield system


def verify(system: System, *arguments: str) -> dict[str, Any]:
    """What `attendance verify --json` prints, and its exit code."""
    done = system.run_cli("verify", "--json", *arguments)
    assert done.stdout, done.stderr
    return json.loads(done.stdout) | {"code": done.returncode, "stderr": done.stderr}


def test_nothing_differs_where_all_is_well(hall: System) -> None:
    answer = verify(hall, "--from", "0")
    assert answer["differences"] == []
    assert answer["unreached"] == {}
    assert answer["code"] == 0
    assert answer["summary"]["compared"] > 500
    assert answer["summary"]["events"] == sum(hall.ends()[hall.topics.events])


Plant = Callable[[Client, str], Awaitable[Place]]
"""Damages the keys with this prefix; returns the place that it damaged."""


def remove(key: str) -> Plant:
    """A member of a key, or of one of the keys that begin so, is lost."""

    async def plant(client: Client, prefix: str) -> Place:
        name = await first_key(client, prefix + key)
        if (await client.type(name)) == b"hash":
            (member, *_) = await client.hkeys(name)
            await client.hdel(name, member)
        else:
            (member,) = await client.zrange(name, 0, 0)
            await client.zrem(name, member)
        return name.decode().removeprefix(prefix), member

    return plant


def add(key: str, member: bytes = bytes(16)) -> Plant:
    """A member is there that nobody wrote."""

    async def plant(client: Client, prefix: str) -> Place:
        name = await first_key(client, prefix + key)
        if (await client.type(name)) == b"hash":
            (value, *_) = await client.hvals(name)
            await client.hset(name, member, value)
        else:
            await client.zadd(name, {member: 0.0})
        return name.decode().removeprefix(prefix), member

    return plant


def change(key: str) -> Plant:
    """A value or score is another one."""

    async def plant(client: Client, prefix: str) -> Place:
        name = await first_key(client, prefix + key)
        if (await client.type(name)) == b"hash":
            (member, *_) = await client.hkeys(name)
            await client.hset(name, member, (await client.hget(name, member)) + b" ")
        else:
            (member,) = await client.zrange(name, 0, 0)
            await client.zincrby(name, 1, member)
        return name.decode().removeprefix(prefix), member

    return plant


def count(field: str, by: int) -> Plant:
    """A counter of a tally is another one."""

    async def plant(client: Client, prefix: str) -> Place:
        name = await first_key(client, prefix + keys.TALLY)
        await client.hincrby(name, field, by)
        return name.decode().removeprefix(prefix), b""

    return plant


async def drop_tally(client: Client, prefix: str) -> Place:
    name = await first_key(client, prefix + keys.TALLY)
    await client.delete(name)
    return name.decode().removeprefix(prefix), b""


async def add_tally(client: Client, prefix: str) -> Place:
    await client.hset(f"{prefix}{keys.TALLY}nowhere", "bookings", 1)
    return keys.TALLY + "nowhere", b""


async def add_key(client: Client, prefix: str) -> Place:
    await client.set(prefix + "notes", "by hand")
    return "notes", b""


async def first_key(client: Client, beginning: str) -> bytes:
    names: list[bytes] = sorted([name async for name in client.scan_iter(match=f"{beginning}*", count=1000)])
    exact = beginning.encode()
    return exact if exact in names else names[0]


INDEXES = [keys.BY_BOOKING, keys.BY_STATUS, keys.IDS, keys.SESSIONS, keys.NO_SHOWS]
ALERT_INDEXES = [keys.ALERTS_AT, keys.ALERTS_KIND, keys.ALERTS_SESSION, keys.ALERTS_BOOKING]
HASHES = [keys.DOC, keys.BOOKING, keys.ALERTS]
EVERY = [*HASHES, *INDEXES, *ALERT_INDEXES]
PLANTED: dict[str, tuple[Plant, str]] = {
    **{f"{key} lost": (remove(key), "missing") for key in EVERY},
    **{f"{key} surplus": (add(key), "surplus") for key in EVERY},
    **{f"{key} changed": (change(key), "different") for key in EVERY if key not in (keys.SESSIONS, keys.BY_BOOKING)},
    "attended changed": (count("attended", 1), "different"),
    "attendees changed": (count("attendees", -1), "different"),
    "window surplus": (count("window:1:2", 1), "different"),
    "tally lost": (drop_tally, "missing"),
    "tally surplus": (add_tally, "surplus"),
    "key surplus": (add_key, "surplus"),
}


async def dumps(client: Client, prefix: str) -> dict[bytes, bytes]:
    """Every key that begins so."""
    names = [name async for name in client.scan_iter(match=f"{prefix}*", count=1000)]
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.dump(name)
    return dict(zip(names, await pipe.execute(), strict=True))


async def restore(client: Client, prefix: str, before: dict[bytes, bytes]) -> None:
    now = await dumps(client, prefix)
    for name in now.keys() | before.keys():
        if now.get(name) != before.get(name):
            await client.delete(name)
            if name in before:
                await client.restore(name, 0, before[name])


def with_client(system: System, scenario: Callable[[Client, str], Awaitable[T]]) -> T:
    """Runs a scenario with a client and the prefix of the keys of partition 1."""

    async def running_it() -> T:
        client = create_redis(system.settings)
        try:
            partition = PartitionKeys(namespace(system.settings.redis_namespace), 1)
            return await scenario(client, partition.prefix((await client.hget(partition.watermark, "keys")).decode()))
        finally:
            await client.aclose()

    return asyncio.run(running_it())


async def verified(system: System, client: Client, *, repair: bool = False) -> list[PartitionReport]:
    """What `verify` finds in partition 1, and what after a repair."""
    reports = [pair async for pair in Verification(system.settings, client).run([1], repair=repair)]
    return [each for pair in reports for each in pair if each is not None]


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_damaged_in_redis_is_found(hall: System, name: str) -> None:
    plant, problem = PLANTED[name]

    async def scenario(client: Client, prefix: str) -> None:
        before = await dumps(client, prefix)
        key, member = await plant(client, prefix)
        try:
            (found,) = await verified(hall, client)
        finally:
            await restore(client, prefix, before)
        (difference,) = found.differences
        assert (difference.key, difference.problem) == (key, problem)
        assert difference.member == (guid(member) if len(member) == 16 else by_booking(member))
        assert not found.unreached

    with_client(hall, scenario)


def by_booking(member: bytes) -> str:
    """A member of the index by booking, or a plain one."""
    booking, separator, identity = member.partition(b"\0")
    return booking.decode() + (f" {guid(identity)}" if separator else "")


def test_what_is_damaged_in_redis_is_repaired(hall: System) -> None:
    async def scenario(client: Client, prefix: str) -> None:
        for plant, _ in PLANTED.values():
            await plant(client, prefix)
        found, after = await verified(hall, client, repair=True)
        assert len(found.differences) > len(PLANTED) / 2
        assert after.is_equal
        assert after.compared == found.compared

    with_client(hall, scenario)
    assert verify(hall)["code"] == 0
