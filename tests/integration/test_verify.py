"""`attendance verify`: it finds each kind of difference, planted one at a time, has it repaired, and finds nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_main_job import World
from tests.support.services import Broker, Redis
from tests.support.system import System, running


@pytest.fixture(scope="module")
def hall(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A running system in which much has happened."""
    with running(System(kafka, redis_server, partitions=2)) as system:
        system.publish(World(seed=11, events=1500).records(system, random.Random(1)))
        system.until_settled()
        yield system


def verify(system: System, *arguments: str) -> dict[str, Any]:
    """What `attendance verify --json` prints, and its exit code."""
    done = system.run_cli("verify", "--json", *arguments)
    assert done.stdout, done.stderr
    return json.loads(done.stdout) | {"code": done.returncode, "stderr": done.stderr}


def test_nothing_differs_where_all_is_well(hall: System) -> None:
    answer = verify(hall, "--from", "0")
    assert answer["differences"] == []
    assert answer["unreached"] == {}
    assert answer["code"] == 0
    assert answer["summary"]["compared"] > 500
    assert answer["summary"]["events"] == sum(hall.ends()[hall.topics.events])
