"""Makes the snapshot: `python -m tests.support.first_release.make`. Needed once; the first release does not change."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.faults.world import World
from tests.support.first_release import NAMESPACE, PARTITIONS
from tests.support.first_release.programs import FirstRelease
from tests.support.first_release.reading import all_attendances
from tests.support.first_release.snapshot import Snapshot, dump_redis, plain_record, until_idle, write
from tests.support.oracle import Outcome
from tests.support.services import KafkaCluster, RedisServer
from tests.support.system import System
from worker.redis.client import create_redis

SEED = 1
EVENTS = 400
#: The part of the records that the first release receives.
RECEIVED = 0.7
SETTINGS = ("cleanup.policy", "retention.ms", "message.timestamp.type", "max.message.bytes", "min.compaction.lag.ms")


def main() -> None:
    """Writes the snapshot."""
    with tempfile.TemporaryDirectory() as folder, KafkaCluster(1) as kafka, RedisServer() as redis:
        system = System(kafka, redis, partitions=PARTITIONS, namespace=NAMESPACE)
        try:
            write(_make(system, FirstRelease(Path(folder))))
        finally:
            for worker in system.workers:
                worker.kill()


def _make(system: System, release: FirstRelease) -> Snapshot:
    created = release.run(system, "topics", "create")
    assert created.returncode == 0, created
    world = World(SEED)
    world.size = EVENTS
    records = [item.record for item in world.items(system)]
    received = round(len(records) * RECEIVED)
    worker = release.start_worker(system)
    system.publish(records[:received])
    _until_quiet(system)
    with release.api(system) as api:
        served = all_attendances(api)
    assert worker.terminate() == 0, worker.said()
    prefix = system.settings.topic_prefix
    dumped: dict[str, Any] = {"topics": {}, "records": {}}
    settings = asyncio.run(_settings(system))
    for topic in system.topics:
        name = topic.removeprefix(prefix)
        dumped["topics"][name] = settings[topic]
        found = system.consume(topic)
        for number in range(PARTITIONS):
            offsets = [record.offset for record in found if record.partition == number]
            assert offsets == list(range(len(offsets))), "the log has a gap"
        dumped["records"][name] = [plain_record(record) for record in found]
    outcome = world.outcome()
    return Snapshot(
        **dumped,
        commits=asyncio.run(_commits(system)),
        redis=asyncio.run(_redis(system)),
        served=served,
        later=[[each.topic.removeprefix(prefix), *plain_record(each)] for each in records[received:]],
        deliveries=[tuple(each) for each in world.deliveries],
        bookings=[tuple(each) for each in world.bookings],
        attendances=_attendances(outcome),
    )


def _until_quiet(system: System) -> None:
    """Until all is applied, with what the worker forwarded."""
    before = None
    while before != (before := system.ends()):
        until_idle(system)


def _attendances(outcome: Outcome) -> list[dict[str, Any]]:
    return [{"bookingId": pair[0], "sessionId": pair[1], **each} for pair, each in sorted(outcome.attendances.items())]


async def _settings(system: System) -> dict[str, dict[str, str]]:
    admin = AIOKafkaAdminClient(**system.settings.kafka_client())
    await admin.start()
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in system.topics])
        return {
            name: {entry[0]: entry[1] for entry in entries if entry[0] in SETTINGS}
            for answer in answers
            for _code, _message, _kind, name, entries in answer.resources
        }
    finally:
        await admin.close()


async def _commits(system: System) -> list[tuple[str, int, int]]:
    admin = AIOKafkaAdminClient(**system.settings.kafka_client())
    await admin.start()
    try:
        prefix = system.settings.topic_prefix
        found = await admin.list_consumer_group_offsets(prefix)
        return sorted((tp.topic.removeprefix(prefix), tp.partition, at.offset) for tp, at in found.items())
    finally:
        await admin.close()


async def _redis(system: System) -> list[tuple[str, str, Any]]:
    client = create_redis(system.settings)
    try:
        return await dump_redis(client)
    finally:
        await client.aclose()


if __name__ == "__main__":
    main()
