"""`attendance verify`: it finds each kind of difference, planted one at a time, has it repaired, and finds nothing else."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from schemas.alerts import OPENED, RESOLVED, alert_id
from schemas.attendance import guid
from tests.integration.test_main_job import World
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running
from worker.domain.rows import APPLIED_SUFFIX, SEPARATOR, Applied
from worker.ops.partition_check import Window
from worker.ops.partition_report import PartitionReport
from worker.ops.verify import Verification
from worker.read_model import keys
from worker.read_model.keys import PartitionKeys, namespace
from worker.redis.client import create_redis, masters

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


def test_a_verification_needs_one_admin_client(hall: System, monkeypatch: pytest.MonkeyPatch) -> None:
    start, starts = AIOKafkaAdminClient.start, []

    async def counted(admin: AIOKafkaAdminClient) -> None:
        starts.append(admin)
        await start(admin)

    monkeypatch.setattr(AIOKafkaAdminClient, "start", counted)
    with_client(hall, is_equal(hall))
    assert len(starts) == 1


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
    """A tally is lost."""
    name = await first_key(client, prefix + keys.TALLY)
    await client.delete(name)
    return name.decode().removeprefix(prefix), b""


async def add_tally(client: Client, prefix: str) -> Place:
    """There is one of a session that nobody attends."""
    await client.hset(f"{prefix}{keys.TALLY}nowhere", "bookings", 1)
    return keys.TALLY + "nowhere", b""


async def add_key(client: Client, prefix: str) -> Place:
    await client.set(prefix + "notes", "by hand")
    return "notes", b""


async def first_key(client: Client, beginning: str) -> bytes:
    names: list[bytes] = []
    for master in await masters(client):
        names += [name async for name in master.scan_iter(match=f"{beginning}*", count=1000)]
    names.sort()
    exact = beginning.encode()
    return exact if exact in names else names[0]


INDEXES = [keys.BY_BOOKING, keys.BY_STATUS, keys.IDS, keys.SESSIONS, keys.SESSIONS_START, keys.ROSTER, keys.NO_SHOWS]
ALERT_INDEXES = [keys.ALERTS_AT, keys.ALERTS_KIND, keys.ALERTS_SESSION, keys.ALERTS_BOOKING]
HASHES = [keys.DOC, keys.BOOKING, keys.ALERTS]
OF_DEVICES = [keys.DEVICES, keys.DEVICES_AT]
EVERY = [*HASHES, *INDEXES, *ALERT_INDEXES, *OF_DEVICES]
PLANTED: dict[str, tuple[Plant, str]] = {
    **{f"{key} lost": (remove(key), "missing") for key in EVERY},
    **{f"{key} surplus": (add(key, b"nobody" if key in OF_DEVICES else bytes(16)), "surplus") for key in EVERY},
    **{f"{key} changed": (change(key), "different") for key in EVERY if key not in (keys.SESSIONS, keys.BY_BOOKING)},
    "attended changed": (count("reported", 1), "different"),
    "attendees changed": (count("companions", -1), "different"),
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


def with_client(system: System, scenario: Callable[[Client, str], Awaitable[T]], number: int = 1) -> T:
    """Runs a scenario with a client and the prefix of the keys of a partition."""

    async def running_it() -> T:
        client = create_redis(system.settings)
        try:
            partition = PartitionKeys(namespace(system.settings.redis_namespace), number)
            return await scenario(client, partition.prefix((await client.hget(partition.watermark, "keys")).decode()))
        finally:
            await client.aclose()

    return asyncio.run(running_it())


async def verified(
    system: System, client: Client, partitions: Sequence[int] = (1,), window: Window | None = None, *, repair: bool = False
) -> list[PartitionReport]:
    """What `verify` finds in these partitions, and what after a repair."""
    reports = [pair async for pair in Verification(system.settings, client).run(partitions, window, repair=repair)]
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
        is_id = len(member) == 16 and key not in OF_DEVICES
        assert difference.member == (guid(member) if is_id else by_booking(member))
        assert not found.unreached

    with_client(hall, scenario)


def by_booking(member: bytes) -> str:
    """A member of the index by booking, or a plain one."""
    return member.partition(b"\0")[0].decode()


def test_what_is_damaged_in_redis_is_repaired(hall: System) -> None:
    async def scenario(client: Client, prefix: str) -> None:
        for plant, _ in PLANTED.values():
            await plant(client, prefix)
        found, after = await verified(hall, client, repair=True)
        assert len(found.differences) > len(PLANTED) / 2
        assert after.is_equal
        assert after.compared == found.compared

    with_client(hall, scenario)
    with_client(hall, is_equal(hall))


def is_equal(system: System) -> Callable[[Client, str], Awaitable[None]]:
    """Nothing differs in any partition."""

    async def check(client: Client, _: str) -> None:
        assert all(each.is_equal for each in await verified(system, client, (0, 1)))

    return check


def alert_records(system: System) -> dict[bytes, dict[str, Any]]:
    """The last event of each alert of partition 1 in the topic."""
    records = [each for each in system.consume(system.topics.alerts) if each.partition == 1 and each.value]
    return {record.key: json.loads(record.value) for record in records}


def lost(events: dict[bytes, dict[str, Any]]) -> tuple[bytes, bytes | None]:
    key = next(key for key, event in events.items() if event["type"] == OPENED)
    return key, None


def changed(events: dict[bytes, dict[str, Any]]) -> tuple[bytes, bytes | None]:
    key, event = next((key, event) for key, event in events.items() if event["type"] == OPENED)
    return key, json.dumps(event | {"data": event["data"] | {"message": "otherwise"}}).encode()


def opened_again(events: dict[bytes, dict[str, Any]]) -> tuple[bytes, bytes | None]:
    key, event = next((key, event) for key, event in events.items() if event["type"] == RESOLVED)
    return key, json.dumps(event | {"type": OPENED}).encode()


def surplus(events: dict[bytes, dict[str, Any]]) -> tuple[bytes, bytes | None]:
    event = next(event for event in events.values() if event["type"] == OPENED and event["data"].get("sessionId"))
    data = event["data"] | {"bookingId": "nobody"}
    key = alert_id(data["kind"], "nobody", data["sessionId"])
    return key.encode(), json.dumps(event | {"data": data | {"alertId": key}}).encode()


Spoil = Callable[[dict[bytes, dict[str, Any]]], tuple[bytes, bytes | None]]
ALERTS: dict[Spoil, str] = {lost: "missing", changed: "different", opened_again: "surplus", surplus: "surplus"}


def spoil(system: System, how: Spoil) -> str:
    """Appends a wrong record to the alerts topic; the alert that it concerns."""
    key, value = how(alert_records(system))
    system.publish([Record(system.topics.alerts, key, value, [], 1)])
    return key.decode()


def alert_differences(report: PartitionReport) -> list[tuple[str, str, str]]:
    return [(each.key, each.member, each.problem) for each in report.differences]


# what the owner itself would put right within a minute is spoilt below, while there is none
@pytest.mark.parametrize("how", [lost, surplus])
def test_a_wrong_alert_in_the_topic_is_found_and_repaired(hall: System, how: Spoil) -> None:
    key = spoil(hall, how)

    async def scenario(client: Client, _: str) -> None:
        found, after = await verified(hall, client, repair=True)
        assert alert_differences(found) == [("alerts topic", key, ALERTS[how])]
        assert after.is_equal

    with_client(hall, scenario)
    assert hall.open_alerts_of_topic() == hall.outcome().alerts


def test_without_a_worker_it_compares_and_requests_the_repair(hall: System) -> None:
    assert hall.workers[-1].terminate() == 0

    async def scenario(client: Client, prefix: str) -> None:
        for how, problem in ALERTS.items():
            key = await asyncio.to_thread(spoil, hall, how)
            found, after = await verified(hall, client, repair=True)
            assert alert_differences(found) == [("alerts topic", key, problem)], how
            assert after.is_equal
        await remove(keys.BY_STATUS)(client, prefix)
        (found,) = await verified(hall, client)
        assert [each.key for each in found.differences] == [keys.BY_STATUS]
        _, after = await verified(hall, client, repair=True)
        assert "no worker owns it: start one" in after.unreached

    with_client(hall, scenario)
    hall.start_worker()
    hall.until_serving()
    with_client(hall, is_equal(hall))


def test_nothing_differs_under_load(hall: System) -> None:
    """A few bookings and sessions, so that each of them changes many times while it is compared."""
    stop = threading.Event()

    def publish() -> None:
        for seed in itertools.count(100):
            records = World(seed=seed, events=500).records(hall, random.Random(seed))
            for start in range(0, len(records), 20):
                if stop.is_set():
                    return
                hall.publish(records[start : start + 20])

    async def scenario(client: Client, _: str) -> list[PartitionReport]:
        published, reports = asyncio.create_task(asyncio.to_thread(publish)), list[PartitionReport]()
        try:
            for _ in range(3):
                reports += await verified(hall, client, (0, 1))
            assert not published.done(), "the load ended"
        finally:
            stop.set()
            await published
        return reports

    reports = with_client(hall, scenario)
    assert [(each.differences, each.unreached) for each in reports] == [([], "")] * len(reports)


def test_a_difference_under_load_is_found(hall: System) -> None:
    records = World(seed=13, events=400).records(hall, random.Random(3))

    async def scenario(client: Client, prefix: str) -> None:
        key, member = await add_summary_of_nobody(client, prefix)
        published = asyncio.create_task(asyncio.to_thread(hall.publish, records))
        (found,) = await verified(hall, client)
        await published
        assert [(each.key, each.member, each.problem) for each in found.differences] == [(key, member.decode(), "surplus")]
        await client.hdel(prefix + key, member)

    with_client(hall, scenario)


async def add_summary_of_nobody(client: Client, prefix: str) -> Place:
    """Adds the summary of a booking that does not exist."""
    await client.hset(f"{prefix}{keys.BOOKING}5", b"nobody", b"{}")
    return f"{keys.BOOKING}5", b"nobody"


def test_an_event_that_the_tables_lack_is_found(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server, partitions=1)) as system:
        events = [system.event(each.event) for each in World(seed=1, events=30).deliveries]
        system.publish(events[:20])
        system.until_settled()
        system.workers[0].terminate()
        (before,) = with_client(system, lambda client, _: verified(system, client, [0], Window(0, by_time=False)), 0)
        assert (before.differences, before.events) == ([], 20)
        system.publish(events[20:])
        pretend_applied(system, 30)
        (after,) = with_client(system, lambda client, _: verified(system, client, [0], Window(0, by_time=True)), 0)
    assert {(each.key, each.problem) for each in after.differences} == {("tables", "missing")}
    assert after.events == 30


def pretend_applied(system: System, offset: int) -> None:
    """Table, Redis and commits say that the events before an offset are applied."""

    async def pretending() -> None:
        applied, topics, settings = Applied(events=offset).encode(), system.topics, system.settings
        # without auto-commit: at its close that may commit the position that it had before
        consumer = AIOKafkaConsumer(**settings.kafka_client(), group_id=settings.topic_prefix, enable_auto_commit=False)
        system_record = Record(topics.attendance_changelog, SEPARATOR + APPLIED_SUFFIX, applied, [], 0)
        await asyncio.to_thread(system.publish, [system_record])
        client = create_redis(system.settings)
        await client.hset(PartitionKeys(namespace(system.settings.redis_namespace), 0).watermark, "events.offset", offset)
        await client.aclose()
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topics.events, 0)])
            await consumer.commit({TopicPartition(topics.events, 0): offset})
        finally:
            await consumer.stop()

    asyncio.run(pretending())


def test_a_repair_that_is_interrupted_is_resumed(hall: System) -> None:
    async def state(client: Client, prefix: str, new: str) -> None:
        await client.hset(prefix.rsplit(":", 2)[0] + f":{keys.WATERMARK}", "state", new)

    # nothing is compared while the partition is being repaired
    with_client(hall, lambda client, prefix: state(client, prefix, "repairing"))
    command = [sys.executable, "-m", "worker", "verify", "--repair", "--yes", "--partition", "1"]
    process = subprocess.Popen(command, env={**os.environ, **hall.environment}, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        identity = next(line.split()[1] for line in lines if line.startswith("operation "))
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"attendance verify --resume {identity}" in rest
    with_client(hall, lambda client, prefix: state(client, prefix, "live"))
    with_client(hall, remove(keys.NO_SHOWS))
    resumed = verify(hall, "--resume", identity)
    assert (resumed["code"], len(resumed["differences"]), resumed["remaining"]) == (0, 1, [])
    again = hall.run_cli("verify", "--resume", identity)
    assert (again.returncode, again.stderr) == (1, f"{identity} is DONE: there is nothing to resume\n")
