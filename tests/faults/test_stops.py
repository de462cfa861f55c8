"""A worker that is told to stop is gone within 15 s, whatever is away, frozen or rebalancing, and leaves nothing undone."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.test_main_job import World
from tests.support.services import KafkaCluster, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import System, WorkerProcess

SECONDS = 15.0
#: Tenants of one round, each with two workers that are told to stop.
TENANTS = 2
#: What happens to Kafka and to Redis; the end of it by the same word.
FAULTS = {
    "Kafka killed": ("kill", ""),
    "Kafka frozen": ("pause", ""),
    "Redis killed": ("", "kill"),
    "Redis frozen": ("", "pause"),
    "both killed": ("kill", "kill"),
    "both frozen": ("pause", "pause"),
    "nothing": ("", ""),
}
_END = {"kill": "start", "pause": "resume"}
Services = tuple[KafkaCluster, RedisServer]


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with KafkaCluster() as kafka, RedisServer() as redis:
        yield kafka, redis


def stop_among(services: Services, fault: tuple[str, str], seed: int) -> None:
    """Workers of some tenants under load and in a rebalance; the fault; all are told to stop."""
    kafka, redis = services
    chance, world = random.Random(seed), World(seed=seed, events=300)
    with ExitStack() as stack:
        systems = [stack.enter_context(System(kafka, redis)) for _ in range(TENANTS)]
        for system in systems:
            system.start_worker()
        for system in systems:
            system.until_serving()
            # the second one joins: the first is in a rebalance, or just through it
            system.start_worker()
            system.publish(world.records(system, chance))
        time.sleep(chance.uniform(0, 3))  # the moment of the fault is the seed's
        for service, begin in zip(services, fault, strict=True):
            if begin:
                stack.callback(getattr(service, _END[begin]))
                getattr(service, begin)()
        time.sleep(chance.uniform(0, 2))
        # one that was still about to join when Kafka went may have ended by itself, with its one line
        workers = [worker for system in systems for worker in system.workers if worker.running]
        first = {system.workers[0] for system in systems}
        assert first <= {*workers}, "what has joined waits for Kafka and Redis"
        took = _stop(workers)
        for worker, seconds in took.items():
            assert seconds < SECONDS, worker.said()
            # one that was still loading its modules ends by the signal itself
            is_loading = worker not in first and not worker.said()
            assert worker.wait(0) == (-15 if is_loading else 0), worker.said()
            assert "Traceback" not in worker.said()
            assert seconds < 5 or " step=" in worker.said(), "a slow stop logs its step"


def _stop(workers: list[WorkerProcess]) -> dict[WorkerProcess, float]:
    """How long each was there after it was told to stop, seconds."""
    begun = time.monotonic()
    for worker in workers:
        worker.signal(15)
    took: dict[WorkerProcess, float] = {}

    def gone() -> bool:
        for worker in workers:
            if worker not in took and not worker.running:
                took[worker] = time.monotonic() - begun
        return len(took) == len(workers)

    wait_until(gone, 2 * SECONDS)
    return {worker: took.get(worker, 2 * SECONDS) for worker in workers}


@pytest.mark.parametrize(("what", "seed"), [pytest.param("Kafka frozen", 1, marks=pytest.mark.slow), ("both killed", 2)])
def test_workers_stop_in_time_whatever_is_away(services: Services, what: str, seed: int) -> None:
    stop_among(services, FAULTS[what], seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 115))
def test_sixty_workers_stop_in_time(services: Services, seed: int) -> None:
    stop_among(services, FAULTS[sorted(FAULTS)[seed % len(FAULTS)]], seed)
