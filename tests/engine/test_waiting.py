"""A real worker that waits: one partition while the others go on, all of them while Redis is away."""

import asyncio
import random

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.integration.test_faults import BUSY, agrees, split
from tests.integration.test_main_job import World
from tests.support.services import Broker, KafkaCluster, RedisServer
from tests.support.services.processes import wait_until
from tests.support.station import Line, acknowledge, run, until
from tests.support.system import System, WorkerProcess, running
from worker.ops import topics as topic_ops
from worker.read_model.keys import PartitionKeys, namespace
from worker.tasks import cancel_all

PARTITIONS = range(4)
STUCK = 1
_SPOIL = "redis.call('RENAME', KEYS[1], KEYS[1] .. '-away'); return redis.call('SET', KEYS[1], 'not a hash')"


def committed(system: System) -> list[int]:
    """What the group has committed of the events topic, by partition."""

    async def asking() -> list[int]:
        settings = system.settings
        consumer = AIOKafkaConsumer(**settings.kafka_client(), group_id=settings.topic_prefix, enable_auto_commit=False)
        await consumer.start()
        try:
            return [await consumer.committed(TopicPartition(system.topics.events, p)) or 0 for p in PARTITIONS]
        finally:
            await consumer.stop()

    return asyncio.run(asking())


def waits(worker: WorkerProcess, partition: int) -> list[str]:
    said = worker.log.read_text().splitlines()
    return [line for line in said if "event=waiting" in line and f"partition={partition}" in line]


def resumes(worker: WorkerProcess, partition: int) -> list[str]:
    said = worker.log.read_text().splitlines()
    return [line for line in said if "event=resumed" in line and f"partition={partition}" in line]


def only_the_stuck_one_lags(system: System, ends: list[int]) -> bool:
    done = committed(system)
    return all(done[p] == ends[p] for p in PARTITIONS if p != STUCK)


def test_while_one_partition_waits_for_redis_the_others_go_on(kafka: Broker, own_redis: RedisServer) -> None:
    """Its watermark is of a wrong type, so every write of that partition is refused; then it is back as it was."""
    world = World(seed=41, events=1200)
    with running(System(kafka, own_redis)) as system:
        worker = system.workers[0]
        first, *rounds = split(world.records(system, random.Random(9)), 5)
        system.publish(first)
        system.until_applied()
        stuck_at = committed(system)[STUCK]
        key = PartitionKeys(namespace(system.settings.redis_namespace), STUCK).watermark
        # moved in one step, so that no heartbeat finds it missing in between
        assert own_redis.ask("EVAL", _SPOIL, "1", key) == "+OK"
        for part in rounds:
            system.publish(part)
            ends = system.ends()[system.topics.events]
            assert wait_until(lambda e=ends: only_the_stuck_one_lags(system, e), 30), worker.said()  # type: ignore[misc]
        now = committed(system)[STUCK]
        assert stuck_at <= now < system.ends()[system.topics.events][STUCK]
        assert len(waits(worker, STUCK)) == 1, "one line when the wait begins, however many attempts"
        assert resumes(worker, STUCK) == []
        assert own_redis.ask("RENAME", f"{key}-away", key) == "+OK"
        agrees(system, world.outcome())
        assert worker.running


def test_nothing_is_committed_until_redis_is_available_again(kafka: Broker, own_redis: RedisServer) -> None:
    world = World(seed=42, events=1200)
    with System(kafka, own_redis) as system:
        worker = system.start_worker(BUSY)
        system.until_serving()
        first, second, *more = split(world.records(system, random.Random(10)), 8)
        system.publish(first)
        system.until_applied()
        # what is applied is committed a moment later
        before = system.ends()[system.topics.events]
        assert wait_until(lambda: committed(system) == before, 30), worker.said()
        own_redis.stop()
        try:
            system.publish(second)
            assert wait_until(lambda: all(waits(worker, p) for p in PARTITIONS), 30), worker.said()
            for part in more:
                system.publish(part)
                assert not wait_until(lambda: not worker.running, 1.5), worker.said()
            assert committed(system) == before
        finally:
            own_redis.start()
        agrees(system, world.outcome())
        assert worker.running
        for partition in PARTITIONS:
            assert len(waits(worker, partition)) == len(resumes(worker, partition)) == 1, worker.said()


async def _limit_changelogs(system: System, size: int | None) -> None:
    """Has the broker take no larger batch for them; None: as they were created."""
    names = (system.topics.attendance_changelog, system.topics.bookings_changelog)
    own = {plan.name: dict(plan.settings) for plan in topic_ops.plans(system.settings)}
    limit = {} if size is None else {"max.message.bytes": str(size)}
    admin = AIOKafkaAdminClient(**system.settings.kafka_client())
    await admin.start()
    try:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, configs={**own[name], **limit}) for name in names]
        await admin.alter_configs(resources)
    finally:
        await admin.close()


def test_while_a_changelog_takes_nothing_nothing_is_committed(kafka: Broker, own_redis: RedisServer) -> None:
    """Stock Faust only logs such an error, and commits."""
    world = World(seed=43, events=400)
    with running(System(kafka, own_redis)) as system:
        worker = system.workers[0]
        first, second = split(world.records(system, random.Random(11)), 2)
        system.publish(first)
        system.until_applied()
        # what is applied is committed a moment later
        before = system.ends()[system.topics.events]
        assert wait_until(lambda: committed(system) == before, 30), worker.said()
        asyncio.run(_limit_changelogs(system, 1))
        system.publish(second)
        assert wait_until(lambda: all(waits(worker, p) for p in PARTITIONS), 30), worker.said()
        assert not wait_until(lambda: not worker.running, 1.5), worker.said()
        assert committed(system) == before
        asyncio.run(_limit_changelogs(system, None))
        agrees(system, world.outcome())
        assert all(len(waits(worker, p)) == len(resumes(worker, p)) == 1 for p in PARTITIONS), worker.said()


def test_what_is_away_is_named_with_its_address(own_redis: RedisServer) -> None:
    """An idle worker too: it has nothing to send that would fail."""
    with KafkaCluster() as kafka, running(System(kafka, own_redis)) as system:
        log = system.workers[0].log
        services = (
            (kafka, f"what=kafka address={kafka.bootstrap}"),
            (own_redis, f"what=heartbeat address={own_redis.address}"),
        )
        for service, named in services:
            service.pause()
            try:
                assert wait_until(lambda n=named: f"event=waiting {n}" in log.read_text(), 30), log.read_text()  # type: ignore[misc]
            finally:
                service.resume()
            assert wait_until(lambda n=named: f"event=resumed {n}" in log.read_text(), 30), log.read_text()  # type: ignore[misc]


@pytest.mark.slow
def test_no_error_of_a_client_is_left_unhandled(own_redis: RedisServer) -> None:
    """Python logs the traceback of an exception that nobody retrieved from a future."""
    world = World(seed=44, events=200)
    with KafkaCluster() as kafka, running(System(kafka, own_redis)) as system:
        worker = system.workers[0]
        first, second, last = split(world.records(system, random.Random(12)), 3)
        system.publish(first)
        kafka.kill()
        assert wait_until(lambda: "event=waiting what=kafka" in worker.log.read_text(), 30), worker.said()
        kafka.start()
        system.publish(second)
        own_redis.kill()
        assert wait_until(lambda: "what=heartbeat" in worker.log.read_text(), 30), worker.said()
        own_redis.start()
        system.publish(last)
        agrees(system, world.outcome())
        assert worker.terminate() == 0, worker.said()
        assert "never retrieved" not in worker.log.read_text()
        assert "Traceback" not in worker.log.read_text()


def test_a_client_that_starts_while_kafka_is_away_waits_for_it() -> None:
    """Without it: Kafka that goes away in the moment between the worker's own check and Faust's start ends the worker."""
    broker = KafkaCluster()

    async def scenario(line: Line) -> None:
        await line.publish(10)
        broker.kill()
        station = line.station(acknowledge)
        starting = asyncio.create_task(station.app.start())
        with structlog.testing.capture_logs() as logs:
            await until(lambda: logs or starting.done())
            await asyncio.to_thread(broker.start)
            await until(lambda: len(station.offsets) == 10, 40)
        await starting
        await station.app.stop()
        assert [each["event"] for each in logs if each.get("what") == "kafka"] == ["waiting", "resumed"]

    async def stopped_meanwhile(line: Line) -> None:
        broker.kill()
        station = line.station(acknowledge)
        starting = asyncio.create_task(station.app.start())
        with structlog.testing.capture_logs() as logs:
            await until(lambda: logs or starting.done())
        await asyncio.wait_for(station.app.stop(), 12)
        await cancel_all((starting,))

    with broker:
        run(broker, scenario)
        run(broker, stopped_meanwhile)
