"""Each alert fires for its cause on the real system, and names its section of the runbook.

A real Prometheus scrapes a real worker and a real API, with the rules of deploy/prometheus whose durations are divided. Their
thresholds are as always: a minute is bad from 5 s on.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.odd_worker import odd
from tests.support.prometheus import Alert, Prometheus, dashboard_queries, deployed_alerts
from tests.support.services import Broker, KafkaCluster, Redis, RedisServer
from tests.support.services.ports import ReservedPort
from tests.support.services.processes import wait_until
from tests.support.serving import Api, event
from tests.support.system import WORKER, System, WorkerProcess
from tests.unit.repository.test_documents import RUNBOOK, anchors
from worker.kafka import create_producer
from worker.read_model.reader import ReaderError

Program = Callable[[str, str], Path]
#: An hour is two minutes, the minute of the objective 2 s; Prometheus scrapes twice a second.
FACTOR = 30
LATE = {"AttendanceFreshnessBurnFast", "AttendanceFreshnessBurnSlow"}
"""May fire beside every cause that keeps readers from seeing new events."""


class Observed:
    """A tenant with workers and an API, and the Prometheus that scrapes them."""

    def __init__(
        self, system: System, api: Api, workers: list[tuple[WorkerProcess, ReservedPort]], prometheus: Prometheus
    ) -> None:
        self.system, self.api, self.workers, self.prometheus = system, api, workers, prometheus

    @property
    def worker(self) -> WorkerProcess:
        return self.workers[-1][0]

    def restart_worker(self, command: Sequence[str] = WORKER) -> None:
        """Another worker at the port of the last one, as a supervisor would start it."""
        _, port = self.workers[-1]
        self.workers[-1] = (self.system.start_worker(command, ATTENDANCE_METRICS_BIND=port.address), port)

    def until_firing(self, name: str, timeout: float) -> Alert:
        """Waits for an alert; its annotations name its section of the runbook and have no empty value."""
        assert wait_until(lambda: name in self.names(), timeout, step=0.2), self.described(name)
        (alert, *_) = [each for each in self.prometheus.firing() if each.name == name]
        page, anchor = alert.annotations["runbook"].split("#")
        assert page == "deploy/README.md"
        assert anchor == name.lower()
        assert anchor in anchors(RUNBOOK)
        assert {"summary", "description"} < alert.annotations.keys()
        assert "<no value>" not in " ".join(alert.annotations.values())
        return alert

    def until_quiet(self, timeout: float, *, beside: set[str] = LATE) -> None:
        """Waits until no alert fires but these."""
        assert wait_until(lambda: self.names() <= beside, timeout, step=0.2), self.described("none")

    def names(self) -> set[str]:
        return {each.name for each in self.prometheus.firing()}

    def others(self, *expected: str) -> set[str]:
        """Alerts that fired at some time and are none of these."""
        return self.prometheus.have_fired() - {*expected} - LATE

    def described(self, name: str) -> str:
        alerts = [(each["labels"]["alertname"], each["state"]) for each in self.prometheus.ask("alerts")["alerts"]]
        expression = deployed_alerts().get(name, {"expr": "up"})["expr"]
        logs = "\n".join(worker.said()[-3000:] for worker, _ in self.workers)
        return f"expected {name}, seen {alerts}\nup: {self.prometheus.query('up')}\n{expression}\n{logs}"


@contextmanager
def observed(
    kafka: Broker,
    redis: Redis,
    folder: Path,
    program: Program,
    *,
    workers: int = 1,
    command: Sequence[str] = WORKER,
    factor: int = FACTOR,
) -> Iterator[Observed]:
    path = program("prometheus", "prometheus")
    with ExitStack() as stack:
        system = stack.enter_context(System(kafka, redis))
        started = []
        for _ in range(workers):
            port = ReservedPort()
            stack.callback(port.release)
            started.append((system.start_worker(command, ATTENDANCE_METRICS_BIND=port.address), port))
        system.until_serving()
        api = stack.enter_context(Api(system, folder))
        host, number = api.address
        targets = {"attendance-api": [f"{host}:{number}"], "attendance-worker": [port.address for _, port in started]}
        prometheus = stack.enter_context(closing(Prometheus(path, targets, factor)))
        prometheus.start()
        found = Observed(system, api, started, prometheus)
        # it takes up its targets seconds after its start: without them, all is absent
        up = f"count(up == 1) == {workers + 1}"
        assert wait_until(lambda: bool(prometheus.query(up)) and not found.names(), 30), found.described("none")
        prometheus.forget()
        yield found


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
            seen.until_firing("AttendanceRedisAway", 40)
            seen.until_firing("AttendanceFreshnessBurnFast", 40)
        finally:
            own_redis.start()
        assert not seen.others("AttendanceRedisAway")
        seen.until_quiet(60)
        assert not seen.others("AttendanceRedisAway"), "the repair of what Redis lost is no loop"


@pytest.mark.slow
def test_a_fleet_that_sends_rubbish_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program) as seen:
        sent = seen.system.run_cli("simulate", "--count", "4000", "--bad-payloads", "0.9", "--bookings", "200")
        assert sent.returncode == 0, sent.stderr
        alert = seen.until_firing("AttendanceDeadLetters", 40)
        assert "%" in alert.annotations["summary"]
        seen.until_firing("AttendanceMostEventsBad", 20)
        assert not seen.others("AttendanceDeadLetters", "AttendanceMostEventsBad")


@pytest.mark.slow
def test_a_device_that_falls_silent_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    """An hour is one minute here: the device reports for 15 s, and is silent for longer than the minute."""
    with observed(kafka, redis_server, tmp_path, program, factor=60) as seen:
        number = 0

        def report(*devices: str) -> None:
            nonlocal number
            number += 1
            seen.system.publish(
                seen.system.event({**event("check_in", f"BK-{number % 8}", "s"), "source": device}) for device in devices
            )

        def regular() -> bool:
            report("/gates/north", "/gates/south", "/gates/west")
            minutes = seen.prometheus.query("attendance:source_minutes:changes6h")
            return len(minutes) == 3 and min(minutes.values()) >= 12

        assert wait_until(regular, 60, step=0.5), seen.prometheus.query("attendance:source_minutes:changes6h")

        def fires() -> bool:
            report("/gates/north", "/gates/south")
            return "AttendanceDeviceSilent" in seen.names()

        assert wait_until(fires, 120, step=0.5), seen.described("AttendanceDeviceSilent")
        assert seen.until_firing("AttendanceDeviceSilent", 5).labels["source"] == "/gates/west"
        assert not seen.others("AttendanceDeviceSilent")

        def resolves() -> bool:
            report("/gates/north", "/gates/south", "/gates/west")
            return not seen.names()

        assert wait_until(resolves, 30, step=0.5), seen.described("none")


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


@pytest.mark.slow
def test_a_transaction_that_stays_open_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program) as seen:

        async def hold() -> Alert:
            producer = create_producer(seen.system.settings, transactional_id=seen.system.settings.topic_prefix)
            await producer.start()
            try:
                async with producer.transaction():
                    record = seen.system.event(event("check_in", "BK-1", "s"))
                    await producer.send_and_wait(record.topic, record.value, key=record.key, partition=record.partition)
                    return await asyncio.to_thread(seen.until_firing, "AttendanceRecordsHeld", 60)
            finally:
                await producer.stop()

        assert asyncio.run(hold()).labels["topic"] == "events"
        seen.until_quiet(30)
        assert not seen.others("AttendanceRecordsHeld")


#: Panels whose queries find nothing while all is well, all of them or some.
EMPTY_WHILE_ALL_IS_WELL = {
    "Alerts of Prometheus",
    "Devices that report",
    "Partitions that are stopped, held or not served",
    "Recovery",
}


@pytest.mark.slow
def test_every_panel_of_the_dashboard_shows_data(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program, factor=60) as seen:
        seed = 0

        def empty() -> set[str]:
            nonlocal seed
            seed += 1
            sent = seen.system.run_cli("simulate", "--count", "100", "--bad-payloads", "0.05", "--seed", str(seed))
            assert sent.returncode == 0, sent.stderr
            assert seen.api.client.get("/v1/status").status_code == 200
            assert httpx.get(f"{seen.api.url}/v1/status").status_code == 401
            queries = dashboard_queries()
            return {query.panel for query in queries if not seen.prometheus.query(query.expression)}

        assert wait_until(lambda: empty() <= EMPTY_WHILE_ALL_IS_WELL, 60, step=0.5), empty()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_none_fires_in_an_hour_of_a_quiet_day(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    """Devices send five events a second, all of them good; the hour is five minutes here."""
    quiet = ("--rate", "5", "--count", "500", "--bad-payloads", "0", "--bad-clocks", "0", "--offline", "0")
    with observed(kafka, redis_server, tmp_path, program, workers=2, factor=12) as seen:
        began, seed = time.monotonic(), 0
        while time.monotonic() - began < 300:
            seed += 1
            sent = seen.system.run_cli("simulate", *quiet, "--seed", str(seed))
            assert sent.returncode == 0, sent.stderr
        assert not seen.prometheus.have_fired()
        ((_, minutes),) = seen.prometheus.query("count_over_time(attendance:freshness_minute:bad[1d])").items()
        assert minutes >= 55, "the objective was not measured"
        assert sum(seen.prometheus.query("attendance:events_usable:increase15m").values()) > 300
        assert sum(seen.prometheus.query("attendance:sources_reporting:count").values()) > 10
