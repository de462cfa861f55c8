"""Workers on a Redis Cluster of three masters: what happens to one of these, the read models are what the oracle counts."""

import random
from collections.abc import Iterator

import pytest

from tests.integration.test_faults import split
from tests.integration.test_main_job import World
from tests.support.services import Broker, RedisCluster
from tests.support.services.processes import wait_until
from tests.support.slots import owner_of
from tests.support.system import System, running
from worker.read_model.keys import PartitionKeys, namespace


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[RedisCluster]:
    """Three masters of the module's own, which it may kill."""
    with RedisCluster(3) as cluster:
        yield cluster


def watermarks(system: System) -> list[str]:
    where = namespace(system.settings.redis_namespace)
    return [PartitionKeys(where, number).watermark for number in range(system.settings.partitions)]


def test_a_master_that_comes_back_empty_is_filled_again(kafka: Broker, own_cluster: RedisCluster) -> None:
    world = World(seed=51, events=900)
    with running(System(kafka, own_cluster, partitions=6)) as system:
        owners = [owner_of(own_cluster, key) for key in watermarks(system)]
        assert set(owners) == set(own_cluster.nodes), "each master has a partition"
        records = world.records(system, random.Random(1))
        system.publish(records[: len(records) // 2])
        system.until_applied()
        killed = owners[0]
        killed.kill()
        try:
            system.publish(records[len(records) // 2 :])
            assert wait_until(lambda: "waiting" in system.workers[0].said(), 20)
        finally:
            killed.start()
        assert wait_until(own_cluster.is_whole, 30)
        system.until_applied()
        assert system.outcome() == world.outcome()
        assert system.open_alerts_of_topic() == world.outcome().alerts
        assert system.workers[0].running


def test_a_master_that_forgets_the_scripts_is_told_again(kafka: Broker, own_cluster: RedisCluster) -> None:
    world = World(seed=52, events=600)
    with running(System(kafka, own_cluster)) as system:
        records = world.records(system, random.Random(2))
        for part, node in zip(split(records, 3), own_cluster.nodes, strict=True):
            assert node.ask("SCRIPT", "FLUSH") == "+OK"
            system.publish(part)
            system.until_applied()
        assert system.outcome() == world.outcome()
        assert "repairing" not in system.workers[0].said()


def test_two_workers_share_the_partitions_of_a_cluster(kafka: Broker, own_cluster: RedisCluster) -> None:
    world = World(seed=53, events=600)
    with running(System(kafka, own_cluster, partitions=6), workers=2) as system:
        system.publish(world.records(system, random.Random(3)))
        system.until_applied()
        assert system.outcome() == world.outcome()


def test_a_worker_that_is_given_one_server_of_a_cluster_says_so(kafka: Broker, own_cluster: RedisCluster) -> None:
    with System(kafka, own_cluster.nodes[0]) as system:
        worker = system.start_worker()
        assert worker.wait(60) == 1
        assert "redis+cluster://" in worker.said().splitlines()[-1]
