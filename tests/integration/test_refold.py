"""A build with tables of its own: handed to running workers, switched to and back, and the only one left in the end."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client

from tests.integration.test_main_job import World
from tests.support.commands import shared_commands
from tests.support.oracle import Outcome
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import System, running
from worker.ops import topics
from worker.read_model.keys import LAYOUT_VERSION
from worker.topics import TopicNames


def rebuilt(system: System, *arguments: str, **environment: str) -> dict[str, Any]:
    """What the command prints at its end; it succeeds."""
    done = system.run_cli("rebuild", *arguments, "--yes", "--json", **environment)
    assert done.returncode == 0, (done.stderr, [each.said() for each in system.workers])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def until(system: System, world: World, outcome: Callable[[System], Outcome] = System.outcome) -> None:
    """Until readers see what the oracle counts: of tables that are not live commits are not looked at."""
    deadline, expected = time.monotonic() + 60, world.outcome()
    while (found := _read(system, outcome)) != expected:
        assert time.monotonic() < deadline, (found, expected, [each.said() for each in system.workers])
        time.sleep(0.3)


def _read(system: System, outcome: Callable[[System], Outcome]) -> Outcome | AssertionError:
    """What readers see; answers that contradict each other, since it changes between them."""
    try:
        return outcome(system)
    except AssertionError as contradiction:
        return contradiction


def open_alerts(system: System) -> set[Any]:
    return set(system.outcome().alerts)


def test_new_tables_are_served_by_the_workers_that_run(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=3, events=2000)
    with running(System(kafka, redis_server), 2) as system:
        records = world.records(system, random.Random(1))
        system.publish(records[:1000])
        system.until_settled()
        summary = rebuilt(system, "--refold")
        assert (summary["state"], summary["differences"]) == ("SWITCHED", 0)
        assert summary["live"] == f"{system.settings.redis_namespace}:{LAYOUT_VERSION}.1"
        system.publish(records[1000:])
        until(system, world)
        # both are written, so going back and forth loses nothing
        for live in (f"{LAYOUT_VERSION}.0", f"{LAYOUT_VERSION}.1"):
            assert rebuilt(system, "--rollback")["live"].endswith(live)
            until(system, world)
        rebuilt(system, "--drop-old")
        done = system.run_cli("verify")
        assert done.returncode == 0, done.stdout
        assert set(system.open_alerts_of_topic()) == open_alerts(system)
        # a worker that starts now uses the live tables
        for worker in list(system.workers):
            worker.terminate()
        system.workers.clear()
        system.start_worker()
        system.until_serving()
        until(system, world)
        assert "ATTENDANCE_TABLES=2" in system.workers[0].said()


@pytest.mark.slow
def test_a_setting_that_shapes_results_is_changed(kafka: Broker, redis_server: Redis) -> None:
    """The differences are listed, and accepted; alerts follow; workers with the new setting take over."""
    world = World(seed=4, events=800)
    with running(System(kafka, redis_server), 1) as system:
        system.publish(world.records(system, random.Random(1)))
        system.until_settled()
        before = open_alerts(system)
        new = {"ATTENDANCE_CONFLICT_WINDOW": "0s", "ATTENDANCE_CLOCK_TOLERANCE": "1s"}
        done = system.run_cli("rebuild", "--refold", "--yes", "--json", **new)
        assert done.returncode == 1, done.stderr
        ready = json.loads(done.stdout.splitlines()[-1])
        assert ready["state"] == "READY"
        assert ready["differences"] == ready["check"]["differences"] > 0
        # the others are not switched to, and it is shown where it stands
        assert open_alerts(system) == before
        worker = system.start_worker(**new)
        assert wait_until(lambda: "ATTENDANCE_TABLES=2" in worker.said(), 60), worker.said()
        resumed = system.run_cli("rebuild", "--resume", ready["id"], "--accept", "1000000", "--yes", "--json", **new)
        assert resumed.returncode == 0, (resumed.stderr, worker.said())
        summary = json.loads(resumed.stdout.splitlines()[-1])
        assert summary["state"] == "SWITCHED"
        after = open_alerts(system)
        assert after != before
        assert wait_until(lambda: set(system.open_alerts_of_topic()) == after, 30)
        marked = [json.loads(each.value) for each in system.consume(system.topics.alerts) if each.value]
        assert {each["backfill"] for each in marked if "backfill" in each} == {ready["id"]}
        # the old workers go on with the old tables
        assert rebuilt(system, "--rollback")["state"] == "SWITCHED"
        assert open_alerts(system) == before


@pytest.mark.slow
def test_a_build_of_its_own_is_aborted_clean(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=6, events=300)
    with running(System(kafka, redis_server), 1) as system:
        system.publish(world.records(system, random.Random(1)))
        system.until_settled()
        ready = rebuilt(system, "--refold", "--no-switch")
        done = system.run_cli("rebuild", "--abort", ready["id"], "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "ABORTED"
        names = TopicNames.of(system.settings.topic_prefix, "2")
        assert wait_until(lambda: not names_left(system, names), 30)
        until(system, world)


@pytest.mark.slow
def test_a_killed_process_of_a_load_ends_the_command(kafka: Broker, redis_server: Redis) -> None:
    """It says so in one line, the other processes end too, and it can be resumed."""
    world = World(seed=7, events=300)
    # in memory: workers, and those that they start for other tables, end with no file open
    with running(System(kafka, redis_server, store="memory://"), 1) as system:
        system.publish(world.records(system, random.Random(1)))
        system.until_settled()
        command = shared_commands().start("rebuild", "--refold", "--yes", **system.environment)
        assert wait_until(lambda: children_of(command.pid), 60, step=0.005), command.err
        children = children_of(command.pid)
        os.kill(children[0], signal.SIGKILL)
        assert command.wait() == 1
        operation, *paused, killed = [line for line in command.err.splitlines() if "rebuild-" in line]
        name = operation.removeprefix("operation ")
        assert paused == [f"{name} is paused: `attendance rebuild --resume {name}` goes on"]
        cure = f"is memory short? --resume {name} goes on"
        assert (
            re.sub("[0-3](, [0-3])*", "N", killed, count=1)
            == f"the process that loads partitions N was killed by SIGKILL: {cure}"
        )
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        done = system.run_cli("rebuild", "--resume", name, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["state"], summary["differences"], summary["partitions"]) == ("SWITCHED", 0, 4)
        until(system, world)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def names_left(system: System, names: TopicNames) -> list[str]:
    """Keys of the build, and its changelogs."""
    with Client.from_url(system.settings.redis.get_secret_value()) as client:
        left = [key.decode() for key in client.scan_iter(f"{system.settings.redis_namespace}:{LAYOUT_VERSION}.1:*")]
    return left + [topic for topic in names[4:] if exists(system, topic)]


def exists(system: System, topic: str) -> bool:
    return asyncio.run(topics.exists(system.settings, topic))
