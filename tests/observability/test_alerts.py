"""Each alert fires where its process or service is away, and names its section of the runbook.

A real Prometheus scrapes a real worker and a real API, with the rules of deploy/prometheus whose durations are divided. Their
thresholds are as always: a minute is bad from 5 s on.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.observed import LATE, Program, observed
from tests.support.odd_worker import odd
from tests.support.services import Broker, KafkaCluster, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.serving import event
from worker.read_model.reader import ReaderError


def test_killed_workers_and_a_killed_api_alert(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program) as seen:
        seen.worker.kill()
        for name in ("AttendanceWorkersAbsent", "AttendancePartitionsWithoutWorker", "AttendanceFreshnessBurnFast"):
            seen.until_firing(name, 40)
        assert seen.until_firing("AttendanceTargetDown", 20).labels["job"] == "attendance-worker"
        assert not seen.others("AttendanceWorkersAbsent", "AttendancePartitionsWithoutWorker", "AttendanceTargetDown")
        seen.restart_worker()
        seen.until_quiet(40)
        seen.api.process.kill()
        seen.until_firing("AttendanceApiAbsent", 20)
        assert "AttendanceWorkersAbsent" not in seen.names()


@pytest.mark.slow
def test_one_frozen_worker_of_two_is_a_target_down(
    kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program
) -> None:
    with observed(kafka, redis_server, tmp_path, program, workers=2) as seen:
        seen.worker.signal(signal.SIGSTOP)
        try:
            alert = seen.until_firing("AttendanceTargetDown", 40)
        finally:
            seen.worker.signal(signal.SIGCONT)
        assert alert.labels["instance"] == seen.workers[-1][1].address
        assert not seen.others("AttendanceTargetDown", "AttendancePartitionsWithoutWorker")
        seen.until_quiet(40)


@pytest.mark.slow
def test_a_blocked_event_loop_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program, command=odd("blocks")) as seen:
        seen.system.publish([seen.system.event(event("check_in", "BK-1", "s"))])
        seen.until_firing("AttendanceWorkerWedged", 40)
        assert not seen.others("AttendanceWorkerWedged", "AttendancePartitionsWithoutWorker")
        seen.worker.kill()
        seen.restart_worker()
        seen.until_quiet(60)


@pytest.mark.slow
def test_a_worker_that_ends_itself_again_and_again_alerts(
    kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program
) -> None:
    """It makes no progress and ends with `stalled`, and its supervisor starts it; its 30 minutes are two here."""
    command = odd("swallows acknowledgements")
    with observed(kafka, redis_server, tmp_path, program, command=command, factor=15) as seen:
        number = 0

        def fires() -> bool:
            nonlocal number
            if not seen.worker.running:
                assert "stalled" in seen.worker.said()
                seen.restart_worker(command)
                seen.system.until_serving()
            # a log that goes on: what was read and is not acknowledged is behind
            number += 1
            seen.system.publish([seen.system.event(event("check_in", f"BK-{number % 8}", "s"))])
            return "AttendanceWorkerRestarting" in seen.names()

        assert wait_until(fires, 150, step=0.5), seen.described("AttendanceWorkerRestarting")
        seen.until_firing("AttendanceWorkerRestarting", 5)
        known = ("AttendanceWorkerRestarting", "AttendanceWorkerWedged", "AttendancePartitionsWithoutWorker")
        assert not seen.others(*known, "AttendanceWorkersAbsent")


@pytest.mark.slow
def test_a_frozen_kafka_alerts(redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with KafkaCluster(1) as kafka, observed(kafka, redis_server, tmp_path, program) as seen:
        kafka.pause()
        try:
            seen.until_firing("AttendanceKafkaAway", 40)
            seen.until_firing("AttendanceFreshnessBurnFast", 40)
        finally:
            kafka.resume()
        assert not seen.others("AttendanceKafkaAway")
        seen.until_quiet(60)


@pytest.mark.slow
def test_a_redis_that_is_away_alerts(kafka: Broker, own_redis: RedisServer, tmp_path: Path, program: Program) -> None:
    with observed(kafka, own_redis, tmp_path, program) as seen:
        own_redis.stop()
        try:
            for name in ("AttendanceRedisAway", *sorted(LATE)):
                seen.until_firing(name, 60)
        finally:
            own_redis.start()
        assert not seen.others("AttendanceRedisAway")
        seen.until_quiet(60)
        assert not seen.others("AttendanceRedisAway"), "the repair of what Redis lost is no loop"


@pytest.mark.slow
def test_a_redis_that_is_flushed_again_and_again_alerts(
    kafka: Broker, own_redis: RedisServer, tmp_path: Path, program: Program
) -> None:
    with observed(kafka, own_redis, tmp_path, program) as seen:
        assert own_redis.ask("FLUSHALL") == "+OK"
        seen.system.until_serving()

        def fires() -> bool:
            assert own_redis.ask("FLUSHALL") == "+OK"
            with suppress(ReaderError):
                seen.system.until_serving(20)
            return "AttendanceRepairLoop" in seen.names()

        assert wait_until(fires, 90, step=2), seen.described("AttendanceRepairLoop")
        seen.until_firing("AttendanceRepairLoop", 5)
        assert not seen.others("AttendanceRepairLoop")
