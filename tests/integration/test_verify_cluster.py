"""`attendance verify` on a Redis Cluster of three masters."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.integration.test_main_job import World
from tests.integration.test_verify import Client, Plant, add, remove, verified, verify, with_client
from tests.support.services import Broker, RedisCluster
from tests.support.slots import owner_of
from tests.support.system import System, running
from worker.read_model import keys
from worker.read_model.keys import PartitionKeys, namespace

PARTITIONS = 6


@pytest.fixture(scope="module")
def hall(kafka: Broker, redis_cluster: RedisCluster) -> Iterator[System]:
    with running(System(kafka, redis_cluster, partitions=PARTITIONS)) as system:
        system.publish(World(seed=61, events=1200).records(system, random.Random(1)))
        system.until_settled()
        yield system


def test_nothing_differs_on_a_healthy_cluster(hall: System, redis_cluster: RedisCluster) -> None:
    where = namespace(hall.settings.redis_namespace)
    owners = {owner_of(redis_cluster, PartitionKeys(where, number).watermark) for number in range(PARTITIONS)}
    assert owners == set(redis_cluster.nodes), "each master has a partition"
    answer = verify(hall, "--from", "0")
    assert (answer["code"], answer["differences"], answer["unreached"]) == (0, [], {})
    assert answer["summary"]["compared"] > 500


@pytest.mark.parametrize(
    ("plant", "problem"),
    [(remove(keys.DOC), "missing"), pytest.param(add(keys.BY_STATUS), "surplus", marks=pytest.mark.slow)],
)
def test_what_is_damaged_on_each_master_is_repaired(hall: System, plant: Plant, problem: str) -> None:
    for number in range(PARTITIONS):

        async def damage(client: Client, prefix: str) -> str:
            return (await plant(client, prefix))[0]

        key = with_client(hall, damage, number)

        async def repair(client: Client, _: str, number: int = number, key: str = key) -> None:
            found, after = await verified(hall, client, [number], repair=True)
            assert [(each.key, each.problem) for each in found.differences] == [(key, problem)]
            assert after.is_equal

        with_client(hall, repair, number)
    assert verify(hall)["code"] == 0
