"""Real workers on logs that end oddly or cannot be read: nobody takes them for stalled, and nothing else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.engine.test_log_ends import Writer
from tests.support.broken_log import bad_checksum, damage
from tests.support.services import Broker, KafkaCluster, RedisServer
from tests.support.services.processes import wait_until
from tests.support.station import trim
from tests.support.system import System, WorkerProcess, running
from worker.ops import topics as topic_ops
from worker.read_model.reader import AttendanceReader, Partition, ReaderError
from worker.topics import partition_of

#: Longer than a worker lets a partition stand still, and Kafka is then asked twice, seconds.
QUIET_SECONDS = 60.0
PARTITIONS = range(4)
BAD = 1


def check_in(system: System, partition: int) -> Any:
    """An event of a new booking in this partition."""
    booking = next(name for name in iter(lambda: uuid4().hex, "") if partition_of(name, len(PARTITIONS)) == partition)
    now = datetime.now(UTC).isoformat()
    data = {"bookingId": booking, "sessionId": "odd"}
    event = {"specversion": "1.0", "id": booking, "source": "/odd", "type": "attendance.check_in", "time": now, "data": data}
    return system.event(event)


def booked(system: System, partition: int) -> Any:
    """A booking of this partition."""
    record = check_in(system, partition)
    event = {"specversion": "1.0", "id": "1", "source": "/odd", "type": "booking.upserted", "time": "2026-01-01T00:00:00Z"}
    return system.booking({**event, "data": {"bookingId": record.key.decode(), "numberOfParticipants": 1}})


def marks(system: System) -> list[Partition]:
    return system.read(lambda reader: reader.status())


def applied(system: System, partition: int, topic: str) -> tuple[int, int]:
    """Offset applied, and end."""
    mark = marks(system)[partition].mark
    return int(mark.get(f"{topic}.offset", 0)), int(mark.get(f"{topic}.end", 0))


def test_an_unreadable_batch_stops_one_partition_of_a_worker(kafka: Broker, own_redis: RedisServer) -> None:
    """Without taking each partition by itself: the worker ends, and every other in turn."""
    if not isinstance(kafka, KafkaCluster):
        pytest.skip("the log of a broker that is given cannot be damaged")
    with System(kafka, own_redis, partitions=len(PARTITIONS)) as system:
        events, bookings = system.topics.events, system.topics.bookings
        for _ in range(2):
            system.publish([check_in(system, p) for p in PARTITIONS])
        damage(kafka, events, 1, bad_checksum, BAD)

        def stands() -> bool:
            at = marks(system)[BAD].mark
            return at.get("events.unreadable") == "1" and at.get("events.offset") == "1"

        def others_go_on() -> bool:
            ends = system.ends()
            done = [applied(system, p, "events")[0] == ends[events][p] for p in PARTITIONS if p != BAD]
            return all(done) and applied(system, BAD, "bookings")[0] == ends[bookings][BAD]

        for _ in range(2):
            worker = system.start_worker()
            assert wait_until(lambda: _fresh(system) and stands(), 30), worker.said()
            system.publish([check_in(system, p) for p in PARTITIONS] + [booked(system, BAD)])
            assert wait_until(others_go_on, 30), worker.said()
            assert stands()
            (line,) = [line for line in worker.log.read_text().splitlines() if "cannot be read" in line]
            assert f"topic={events}" in line
            assert f"partition={BAD}" in line
            if len(system.workers) == 1:
                assert worker.terminate() == 0
        asyncio.run(trim(kafka.bootstrap, events, 2, BAD))
        system.until_applied()
        assert wait_until(lambda: marks(system)[BAD].mark["events.unreadable"] == "", 10)
        assert worker.running


def _fresh(system: System) -> bool:
    with contextlib.suppress(ReaderError):
        return all(each.state == "live" and each.lag is not None for each in marks(system))
    return False


def test_a_missing_codec_is_named_before_the_worker_starts(kafka: Broker, own_redis: RedisServer, tmp_path: Any) -> None:
    (tmp_path / "cramjam.py").write_text("raise ImportError\n")
    with System(kafka, own_redis) as system:
        for command in (["topics", "check"], ["worker"]):
            done = system.run_process(*command, PYTHONPATH=str(tmp_path))
            assert done.returncode == 1
            (line,) = [line for line in done.stderr.splitlines() if "cramjam" in line]
            assert "snappy, lz4, zstd cannot be decoded here: install cramjam" in line


class Log:
    """One partition of a topic; what is appended changes nothing."""

    def __init__(self, system: System, kafka: Broker, topic: str, partition: int) -> None:
        self._system, self._kafka, self._topic, self._partition = system, kafka, topic, partition

    def begin(self) -> Writer:
        writer = Writer(self._kafka, self._topic)
        writer.begin(2, self._partition, None)
        return writer

    def empty(self) -> None:
        """Deletes all of it, as an operator may though it is compacted."""
        self.begin().commit()
        end = self._system.ends()[self._topic][self._partition]
        asyncio.run(_delete(self._system, self._kafka, self._topic, end, self._partition))


def ends_in_a_commit(log: Log) -> None:
    log.begin().commit()


def ends_in_an_abort(log: Log) -> None:
    log.begin().abort()


def ends_in_an_open_transaction(log: Log) -> Writer:
    return log.begin()


def ends_in_deleted_records(log: Log) -> None:
    log.empty()


#: By partition.
ENDINGS: list[Callable[[Log], Writer | None]] = [
    ends_in_a_commit,
    ends_in_an_abort,
    ends_in_an_open_transaction,
    ends_in_deleted_records,
]
HELD = 2


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["events", "bookings", "attendance_changelog", "bookings_changelog"])
def test_workers_are_quiet_however_their_logs_end(kafka: Broker, own_redis: RedisServer, topic: str) -> None:
    """With the last record as progress: the worker ends after 50 s, and again after each start. The log of each partition
    ends in another way, first while the worker is away, then while it runs."""
    with running(System(kafka, own_redis, partitions=len(PARTITIONS))) as system:
        logs = [Log(system, kafka, getattr(system.topics, topic), partition) for partition in PARTITIONS]
        system.publish([record(system, p) for record in (check_in, booked) for p in PARTITIONS])
        system.until_applied()
        assert system.workers[0].terminate() == 0
        opened = [end(log) for end, log in zip(ENDINGS, logs, strict=True)][HELD]
        assert opened is not None
        worker = system.start_worker()
        # rows behind an open transaction in a changelog are waited for
        is_quiet(system, worker, {HELD} if "changelog" in topic else set())
        opened.commit()
        system.until(_is_at_its_end, 60, "without lag")
        opened = [end(log) for end, log in zip(ENDINGS, logs, strict=True)][HELD]
        assert opened is not None
        is_quiet(system, worker, set())
        opened.abort()
        system.until(_is_at_its_end, 60, "without lag")
        system.publish([check_in(system, p) for p in PARTITIONS])
        system.until(_is_at_its_end, 60, "without lag")
        assert worker.running


def is_quiet(system: System, worker: WorkerProcess, waiting: set[int]) -> None:
    """All partitions but these are without lag, and the worker still runs after longer than what is a stall."""

    def settled() -> bool:
        return {each.number for each in marks(system) if each.lag != 0} == waiting

    assert wait_until(settled, 60), (worker.said(), marks(system))
    assert not wait_until(lambda: not worker.running, QUIET_SECONDS), worker.said()
    assert settled(), (worker.said(), marks(system))
    assert "stalled" not in worker.log.read_text()


async def _is_at_its_end(reader: AttendanceReader) -> bool:
    return all(each.state == "live" and each.lag == 0 for each in await reader.status())


async def _delete(system: System, kafka: Broker, topic: str, end: int, partition: int) -> None:
    own = {plan.name: dict(plan.settings) for plan in topic_ops.plans(system.settings)}[topic]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        for configs in ({**own, "cleanup.policy": "compact,delete", "retention.ms": "-1"}, own):
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])
            if configs is not own:
                await trim(kafka.bootstrap, topic, end, partition)
    finally:
        await admin.close()
