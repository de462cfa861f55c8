"""`topics create`, `topics check`, and a worker that refuses what it cannot use (deploy/README.md)."""

import asyncio
from subprocess import CompletedProcess

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import System, running
from worker.ops import topics as topic_ops


def _refused(done: CompletedProcess[str], *parts: str) -> None:
    """Exit code 1; each line of stderr is a sentence of its own, one of them with all the parts."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if all(part in line for part in parts)], done.stderr


def _alter(system: System, topic: str, settings: dict[str, str]) -> None:
    async def altering() -> None:
        admin = AIOKafkaAdminClient(**system.settings.kafka_client())
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=settings)])
        finally:
            await admin.close()

    asyncio.run(altering())


def _own_settings(system: System, topic: str) -> dict[str, str]:
    async def asking() -> dict[str, str]:
        admin = AIOKafkaAdminClient(**system.settings.kafka_client())
        await admin.start()
        try:
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        finally:
            await admin.close()
        return {name: value for name, value, _, source, *_ in answer.resources[0][4] if source == 1}

    return asyncio.run(asking())


def _delete(system: System, topic: str) -> None:
    async def deleting() -> None:
        admin = AIOKafkaAdminClient(**system.settings.kafka_client())
        await admin.start()
        try:
            await admin.delete_topics([topic])
        finally:
            await admin.close()

    asyncio.run(deleting())


def test_create_makes_what_is_missing_and_check_agrees(kafka: Broker, redis_server: Redis) -> None:
    system = System(kafka, redis_server)
    missing = system.run_cli("topics", "check")
    for topic in system.topics:
        _refused(missing, topic, "missing", "attendance topics create")
    first = system.run_cli("topics", "create")
    assert (first.returncode, first.stderr) == (0, "")
    assert all(topic in first.stdout for topic in system.topics)
    assert wait_until(lambda: system.run_cli("topics", "check").returncode == 0, 20)
    again = system.run_cli("topics", "create")
    assert (again.returncode, again.stderr) == (0, "")
    assert not any(topic in again.stdout for topic in system.topics)
    _delete(system, system.topics.alerts)
    _refused(system.run_cli("topics", "check"), system.topics.alerts, "missing", "attendance topics create")
    _refused(system.run_cli("worker"), system.topics.alerts, "missing", "attendance topics create")
    assert system.run_cli("topics", "create").stdout.count(f"{system.settings.topic_prefix}.") == 1


@pytest.mark.parametrize(
    ("topic", "setting", "bad", "wanted"),
    [
        ("events", "message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("events", "retention.ms", "86400000", "2592000000"),
        ("events", "cleanup.policy", "compact", "delete"),
        ("bookings", "cleanup.policy", "delete", "compact"),
        ("alerts", "cleanup.policy", "delete", "compact"),
        ("dead_letters", "cleanup.policy", "compact", "delete"),
    ],
)
def test_a_wrong_topic_setting_is_named(
    kafka: Broker, redis_server: Redis, topic: str, setting: str, bad: str, wanted: str
) -> None:
    with System(kafka, redis_server) as system:
        name = getattr(system.topics, topic)
        _alter(system, name, {setting: bad})
        assert wait_until(lambda: system.run_cli("topics", "check").returncode == 1, 20)
        for command in (["topics", "check"], ["worker"]):
            _refused(system.run_cli(*command), name, f"{setting}={bad}", wanted)
        doctor = system.run_cli("doctor")
        assert doctor.returncode == 1
        assert f"{setting}={bad}" in doctor.stdout


def test_create_sets_what_is_wrong_and_leaves_the_rest(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server) as system:
        bookings, events = system.topics.bookings, system.topics.events
        kept = {"segment.ms": "3600000", "cleanup.policy": "compact"}
        _alter(system, bookings, {**kept, "message.timestamp.type": "CreateTime", "max.message.bytes": "2097152"})
        size = {"max.message.bytes": "1000000"}
        _alter(system, events, {"retention.ms": "86400000", "message.timestamp.type": "LogAppendTime", **size})
        assert wait_until(lambda: len(asyncio.run(topic_ops.check(system.settings))) == 3, 20)
        _refused(system.run_cli("worker"), bookings, "message.timestamp.type=CreateTime", "`attendance topics create`")
        done = system.run_cli("topics", "create")
        assert (done.returncode, done.stderr) == (0, "")
        assert set(done.stdout.splitlines()) == {
            f"{bookings} had message.timestamp.type=CreateTime: now LogAppendTime",
            f"{events} had retention.ms=86400000: now 2592000000",
            f"{events} had max.message.bytes=1000000: now 2097152",
        }
        assert wait_until(lambda: asyncio.run(topic_ops.check(system.settings)) == [], 20)
        assert kept.items() <= _own_settings(system, bookings).items()


def test_a_longer_retention_is_fine(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server) as system:
        _alter(system, system.topics.events, {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"})
        assert wait_until(lambda: system.run_cli("topics", "check").returncode == 0, 20)


@pytest.mark.parametrize("other", [3, 5])
def test_another_number_of_partitions_is_refused(kafka: Broker, redis_server: Redis, other: int) -> None:
    with System(kafka, redis_server) as system:
        for command in (["topics", "check"], ["worker"]):
            done = system.run_cli(*command, ATTENDANCE_PARTITIONS=str(other))
            for topic in (system.topics.events, system.topics.bookings, system.topics.alerts):
                _refused(done, topic, "4 partitions", f"ATTENDANCE_PARTITIONS is {other}")


def test_a_worker_with_other_settings_than_the_tables(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server)) as system:
        assert system.workers[0].terminate() == 0
        others = {"CLOCK_TOLERANCE": "6m", "CONFLICT_WINDOW": "11m", "MAX_EVENT_AGE": "31d"}
        for name, value in others.items():
            done = system.run_cli("worker", ATTENDANCE_LOG_LEVEL="WARNING", **{f"ATTENDANCE_{name}": value})
            _refused(done, f"ATTENDANCE_{name}", "ATTENDANCE_TOPIC_PREFIX")
            assert len(done.stderr.splitlines()) == 1, done.stderr
        system.start_worker()
        system.until_serving()


def test_a_worker_with_other_partitions_than_redis(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server)) as system:
        other = System(kafka, redis_server, partitions=5, namespace=system.settings.redis_namespace)
        with other:
            done = other.run_cli("worker", ATTENDANCE_LOG_LEVEL="WARNING")
            _refused(done, "ATTENDANCE_PARTITIONS", "4", "5")
            assert len(done.stderr.splitlines()) == 1, done.stderr
        system.until_serving()
