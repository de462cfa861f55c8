"""Kafka really compacts the topics of an erased booking: then its id is in no segment on disk, and the rest is still there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.integration.test_erased_for_good import Guest, erase
from tests.support.services import KafkaCluster, RedisServer
from tests.support.services.kafka import MAX_MESSAGE_BYTES
from tests.support.services.processes import wait_until
from tests.support.system import System

#: Raw segments are searched: no batch may be compressed.
_PLAIN = {
    "cleanup.policy": "compact",
    "compression.type": "uncompressed",
    "min.compaction.lag.ms": "3600000",
    "max.message.bytes": str(MAX_MESSAGE_BYTES),
}
#: Segments end after a second, and are compacted at once; deletions leave with the next compaction.
_AT_ONCE = {
    **_PLAIN,
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.001",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "0",
    "file.delete.delay.ms": "0",
}


@pytest.fixture
def compacting() -> Iterator[KafkaCluster]:
    """A broker whose cleaner looks often for something to do."""
    with KafkaCluster(settings={"log.cleaner.backoff.ms": "200"}) as cluster:
        yield cluster


def configure(system: System, settings: Mapping[str, str]) -> None:
    """Replaces the settings of the changelogs and of the alerts topic."""

    async def altering() -> None:
        admin = AIOKafkaAdminClient(**system.settings.kafka_client())
        await admin.start()
        try:
            resources = [ConfigResource(ConfigResourceType.TOPIC, topic, configs=settings) for topic in compacted(system)]
            for answer in await admin.alter_configs(resources):
                assert all(code == 0 for code, *_ in answer.resources), answer
        finally:
            await admin.close()

    asyncio.run(altering())


def compacted(system: System) -> tuple[str, ...]:
    return system.topics.attendance_changelog, system.topics.bookings_changelog, system.topics.alerts


def on_disk(cluster: KafkaCluster, system: System, text: str) -> list[str]:
    """The files of the compacted topics that hold a text."""
    data = cluster.nodes[0].folder / "data"
    paths = sorted(path for topic in compacted(system) for path in data.glob(f"{topic}-*/*"))
    return [f"{path.parent.name}/{path.name}" for path in paths if text.encode() in content_of(path)]


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # the cleaner has replaced it meanwhile
        return b""


@pytest.mark.slow
def test_after_a_compaction_no_segment_has_the_id(compacting: KafkaCluster, own_redis: RedisServer) -> None:
    now = time.time_ns() // 1000
    with System(compacting, own_redis, partitions=1) as system:
        configure(system, _PLAIN)
        system.start_worker()
        system.until_serving()
        gone, stays = (Guest(system, f"{name}-{uuid4().hex}", now) for name in ("gone", "stay"))
        system.publish(record for each in (gone, stays) for record in (each.record(), *each.events()))
        system.until_settled()
        partitions = {f"{topic}-0" for topic in compacted(system)}
        assert {name.partition("/")[0] for name in on_disk(compacting, system, gone.name)} == partitions
        erase(system, "--booking", gone.name)
        system.publish([gone.record("booking.deleted")])
        system.until_settled()
        configure(system, _AT_ONCE)
        until_compacted(compacting, system, gone, stays)
        before = system.outcome()
        assert {name.partition("/")[0] for name in on_disk(compacting, system, stays.name)} == partitions
        assert {name for name, _ in before.attendances} == {stays.name}
        # a worker refuses topics that are compacted so soon
        configure(system, _PLAIN)
        for worker in system.workers:
            worker.kill()
        assert own_redis.ask("FLUSHALL") == "+OK"
        worker = system.start_worker(ATTENDANCE_STORE="memory://")
        assert wait_until(lambda: "event=repaired" in worker.log.read_text(), 60), worker.said()
        system.until_settled()
        assert system.outcome() == before
        assert system.run_cli("verify").returncode == 0


def until_compacted(cluster: KafkaCluster, system: System, gone: Guest, stays: Guest, timeout: float = 120) -> None:
    """Each topic gets records of another booking: Kafka never compacts the last segment, and begins one when a record comes."""
    deadline, number = time.monotonic() + timeout, 0
    while found := on_disk(cluster, system, gone.name):
        assert time.monotonic() < deadline, found
        number += 1
        at = stays.now + stays.ahead + number
        changed = stays.event("set", 2, at, status="ATTENDED", numberOfAttendees=9 if number % 2 else 1)
        listed = stays.record(sessions=[*stays.sessions, f"further session {number}"])
        system.publish([changed, listed])
        system.until_settled()
