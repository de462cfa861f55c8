"""What the port of a worker answers while it recovers, while something is missing, and once it is wedged."""

import json
import random
import signal
from time import monotonic
from typing import Any

import httpx
import pytest

from tests.integration.test_main_job import World
from tests.support.odd_worker import odd
from tests.support.services import Broker, KafkaCluster, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import System, WorkerProcess, running


def asked(worker: WorkerProcess, path: str) -> tuple[int, Any]:
    """The status and the document; 0 if nobody answers."""
    try:
        answer = httpx.get(worker.monitoring + path, timeout=5)
    except (httpx.HTTPError, httpx.UnsupportedProtocol):
        return 0, {}
    return answer.status_code, answer.json()


def reason_of(worker: WorkerProcess, *, live: bool, ready: bool) -> str:
    """The reason, if the worker has this health now; empty otherwise."""
    (of_live, alive), (of_ready, document) = asked(worker, "/livez"), asked(worker, "/readyz")
    has_it = (of_live, of_ready) == (200 if live else 503, 200 if ready else 503)
    return (document["reason"] or "ready") if has_it and alive["live"] == live else ""


def until(worker: WorkerProcess, what: str, *, live: bool, ready: bool = False, seconds: float = 30) -> None:
    """Waits until the worker has this health, for a reason that begins so."""
    assert wait_until(lambda: reason_of(worker, live=live, ready=ready).startswith(what), seconds), worker.said()


def filled(system: System, seed: int = 61) -> None:
    system.publish(World(seed=seed, events=400).records(system, random.Random(5)))


@pytest.mark.slow
def test_a_recovering_worker_is_alive_and_shows_its_progress(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server, store="memory://")) as system:
        # one record batch of the changelogs at least for each, and a fetch takes one
        for seed in range(6):
            filled(system, seed)
            system.until_applied()
        system.until_settled()
        system.workers[0].terminate()
        worker = system.start_worker(odd("recovers slowly"))
        until(worker, "recovering partitions 0, 1, 2, 3: ", live=True)
        seen: set[tuple[int, int]] = set()

        def progresses() -> bool:
            recovery = asked(worker, "/status")[1].get("recovery")
            if recovery and recovery["remaining"]:
                seen.add((recovery["offsets"], recovery["remaining"]))
            return len(seen) > 2

        assert wait_until(progresses, 30), worker.said()
        assert all(0 < remaining <= offsets for offsets, remaining in seen)
        metrics = httpx.get(worker.monitoring + "/metrics").text
        assert 'attendance_worker_partitions{state="recovering"}' in metrics
        assert "attendance_worker_recovery_remaining_records" in metrics
        until(worker, "ready", live=True, ready=True, seconds=60)


def test_a_worker_without_a_service_is_alive_but_not_ready(kafka: Broker, redis_server: Redis) -> None:
    with KafkaCluster() as broker, RedisServer() as server, running(System(broker, server)) as system:
        (worker,) = system.workers
        until(worker, "ready", live=True, ready=True)
        server.stop()
        until(worker, "waiting for redis", live=True)
        server.start()
        until(worker, "ready", live=True, ready=True, seconds=60)
        broker.pause()
        until(worker, "waiting for kafka", live=True)
        broker.resume()
        until(worker, "ready", live=True, ready=True, seconds=60)


@pytest.mark.parametrize(
    ("service", "address"),
    [("kafka", {"ATTENDANCE_BROKER": "kafka://127.0.0.1:1"}), ("redis", {"ATTENDANCE_REDIS": "redis://127.0.0.1:1"})],
)
def test_a_worker_that_waits_to_start_is_alive_but_not_ready(
    kafka: Broker, redis_server: Redis, service: str, address: dict[str, str]
) -> None:
    with System(kafka, redis_server, metrics_bind="127.0.0.1:21484") as system:
        worker = system.start_worker(**address)

        def states() -> list[tuple[str, bool, bool, str]]:
            given = system.run_cli("worker", "--status", "--json").stdout
            found = [json.loads(line) for line in given.splitlines()]
            return [(each["pid"], each["live"], each["ready"], each["reason"]) for each in found]

        assert wait_until(lambda: states() == [(worker.pid, True, False, f"waiting for {service}")], 30), worker.said()


@pytest.mark.parametrize(
    ("oddity", "reason"),
    [("swallows acknowledgements", "no offset of "), ("blocks", "the event loop has not run for ")],
)
def test_a_wedged_worker_is_neither_alive_nor_ready(kafka: Broker, redis_server: Redis, oddity: str, reason: str) -> None:
    with System(kafka, redis_server) as system:
        worker = system.start_worker(odd(oddity))
        until(worker, "ready", live=True, ready=True)
        filled(system)
        until(worker, reason, live=False)


def test_a_new_owner_knows_how_old_the_read_models_are(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server)) as system:

        def ages() -> list[float]:
            return [each.fresh_age for each in system.read(lambda reader: reader.status())]

        assert wait_until(lambda: max(ages()) < 3, 20), ages()
        system.workers[0].kill()
        assert wait_until(lambda: min(ages()) > 4, 20), ages()
        filled(system)
        # it applies nothing, so nothing becomes fresh
        worker = system.start_worker(odd("swallows acknowledgements"))

        def known() -> list[float]:
            found = [each["freshnessSeconds"] for each in asked(worker, "/status")[1].get("partitions", ())]
            return [] if None in found else found

        assert wait_until(lambda: len(known()) == 4, 30), worker.said()
        assert min(known()) > 4
        assert min(ages()) > 4


def test_answers_that_waited_in_a_stopped_worker_are_old(kafka: Broker, redis_server: Redis) -> None:
    """The answer to the last fetch comes before the events, and is read after them."""
    with System(kafka, redis_server, session_timeout="30s") as system:
        worker = system.start_worker(odd("swallows acknowledgements"))
        until(worker, "ready", live=True, ready=True)

        def partitions() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = asked(worker, "/status")[1].get("partitions", [])
            return found

        def ages() -> list[float]:
            return [each.fresh_age for each in system.read(lambda reader: reader.status())]

        assert wait_until(lambda: max(ages()) < 3, 20), ages()
        worker.signal(signal.SIGSTOP)
        filled(system)
        published = monotonic()
        assert wait_until(lambda: monotonic() - published > 5, 20)
        worker.signal(signal.SIGCONT)
        assert wait_until(lambda: all(each["lag"].get("events") for each in partitions()) and partitions() != [], 20)
        for _ in range(5):
            assert min(each["freshnessSeconds"] for each in partitions()) > 5
            assert min(ages()) > 5


def test_a_frozen_redis_goes_on_with_the_right_ages(kafka: Broker, redis_server: Redis) -> None:
    """It still carries out the heartbeat that it got before it froze, of a worker that is gone."""
    with RedisServer() as server, running(System(kafka, server)) as system:
        (worker,) = system.workers
        until(worker, "ready", live=True, ready=True)

        def ages() -> list[float]:
            return [each.fresh_age for each in system.read(lambda reader: reader.status())]

        assert wait_until(lambda: max(ages()) < 3, 20), ages()
        server.pause()
        frozen = monotonic()
        until(worker, "waiting for redis", live=True, seconds=8)
        assert wait_until(lambda: monotonic() - frozen > 5, 20)
        worker.kill()
        server.resume()
        assert min(ages()) > 4


def test_the_status_of_workers_is_a_line_each(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server, metrics_bind="127.0.0.1:21464") as system:
        none = system.run_cli("worker", "--status")
        assert none.returncode == 1
        assert none.stdout == ""
        assert "no worker of " in none.stderr
        for _ in range(2):
            system.start_worker()
        system.until_serving()
        assert wait_until(lambda: system.run_cli("worker", "--status").returncode == 0, 30)
        lines = system.run_cli("worker", "--status").stdout.splitlines()
        assert sorted(line.split(" ")[2] for line in lines) == sorted(f"{worker.pid}:" for worker in system.workers)
        assert all(": ready; partitions: live " in line and line.endswith("; lag: 0") for line in lines)
        documents = [json.loads(line) for line in system.run_cli("worker", "--status", "--json").stdout.splitlines()]
        assert {each["address"] for each in documents} == {worker.monitoring for worker in system.workers}
        assert sum(len(each["partitions"]) for each in documents) == 4
        assert system.run_cli("worker", "--json").returncode == 2
        examined = system.run_cli("doctor").stdout
        assert all(f"{worker.monitoring} pid {worker.pid}: ready" in examined for worker in system.workers)
