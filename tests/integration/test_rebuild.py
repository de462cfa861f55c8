"""`attendance rebuild` from outside: readers see whole answers all the time; whatever is killed, nothing is left."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_main_job import World
from tests.support import oracle
from tests.support.commands import Command
from tests.support.killed_operations import with_redis
from tests.support.killing import Moment, kill_at
from tests.support.rebuilding import RESTING, Asking, Flow, begin, operation_of, publish_resting, set_back, until_only
from tests.support.services import Broker, Redis, RedisServer
from tests.support.system import System, running
from worker.read_model import keys
from worker.read_model.builds import read_registry
from worker.read_model.keys import PartitionKeys, namespace
from worker.read_model.operations import ENDED, State

QUICK = (1, 3)
SEEDS = [pytest.param(seed, marks=[] if seed in QUICK else pytest.mark.slow) for seed in range(1, 21)]
_VICTIMS = ("redis", "command", "worker", "redis that loses")
#: Sizes of Redis' file of the last second, of which it goes back to one.
_LOST_SIZES = 20
#: A rebuild takes about so long, seconds.
_SECONDS = 4.0
#: Requests to Redis at which a command is killed: the first ones, any until it has switched, those from READY on.
_MOMENTS = ((40, b"take"), (1200, b"take"), (12, b"READY"))


@pytest.fixture(params=["server", pytest.param("cluster", marks=pytest.mark.slow)])
def redis(request: pytest.FixtureRequest) -> Redis:
    """One server, then a cluster."""
    found: Redis = request.getfixturevalue("redis_server" if request.param == "server" else "redis_cluster")
    return found


@pytest.fixture(scope="module")
def lasting_redis() -> Iterator[RedisServer]:
    """A Redis that keeps what it holds over a restart."""
    with RedisServer(append_only=True) as server:
        yield server


def outcome_without_resting(system: System) -> oracle.Outcome:
    """What is served of the world."""
    found = system.outcome()
    for pair in [each for each in found.attendances if each[0] == RESTING]:
        del found.attendances[pair]
        del found.tallies[pair[1]]
        found.arrivals.pop(pair[1], None)
    found.summaries.pop(RESTING)
    found.devices.pop("resting", None)
    return found


def summary_of(command: Command, code: int = 0) -> dict[str, Any]:
    """What a command printed, once it has ended."""
    assert command.wait(120) == code, command.err
    summary: dict[str, Any] = json.loads(command.out)
    return summary


def test_readers_see_nothing_of_a_rebuild_or_a_rollback(kafka: Broker, redis: Redis) -> None:
    world = World(seed=31, events=1500)
    with running(System(kafka, redis), workers=2) as system:
        publish_resting(system)
        flow = Flow(system, world, 31)
        flow.publish(0.5)
        system.until_settled()
        base = system.settings.redis_namespace
        first, second = namespace(base), namespace(base, 1)
        with Asking(system) as asking, flow:
            summary = summary_of(begin(system, "--yes", "--json"))
            assert (summary["state"], summary["live"], summary["kept"]) == ("SWITCHED", second, first)
            assert summary["check"]["differences"] == 0
            assert summary["check"]["compared"]["attendances"] >= 5
            until_only(system, first, second)
            assert "is kept: drop it first" in refusal(system, "--yes")
            summary_of(begin(system, "--rollback", "--yes", "--json"))
            assert live_of(system) == first
            summary_of(begin(system, "--rollback", "--yes", "--json"))
            assert live_of(system) == second
            summary_of(begin(system, "--drop-old", "--yes", "--json"))
            until_only(system, second)
        assert asking.wrong == []
        assert asking.asked > 10
        logs = "".join(worker.log.read_text() for worker in system.workers)
        assert logs.count("event=filling") == system.settings.partitions
        assert "build lost" not in logs
        flow.publish(1)
        system.until_settled()
        assert outcome_without_resting(system) == world.outcome()
        verified = system.run_cli("verify", "--yes")
        assert verified.returncode == 0, verified.stderr


def refusal(system: System, *arguments: str) -> str:
    """The last line of a command that is refused."""
    command = begin(system, *arguments)
    assert command.wait(60) == 1
    return command.err.splitlines()[-1]


def live_of(system: System) -> str | None:
    """The live namespace."""
    live = with_redis(system.settings, lambda client: read_registry(client, system.settings.redis_namespace)).live
    return live and live.name


def test_a_build_that_differs_is_switched_to_if_accepted(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server, partitions=2)) as system:
        publish_resting(system)
        system.until_settled()
        base = system.settings.redis_namespace
        first, second = namespace(base), namespace(base, 1)
        ready = summary_of(begin(system, "--yes", "--json", "--no-switch"))
        assert (ready["state"], ready["check"]["differences"], live_of(system)) == ("READY", 0, first)

        async def plant(client: Any) -> None:
            for number in range(2):
                partition = PartitionKeys(second, number)
                prefix = partition.prefix((await client.hget(partition.watermark, "keys")).decode())
                if await client.exists(f"{prefix}{keys.TALLY}resting-1"):
                    await client.hincrby(f"{prefix}{keys.TALLY}resting-1", "companions", 1)

        with_redis(system.settings, plant)
        found = summary_of(begin(system, "--resume", ready["id"], "--yes", "--json"), 1)
        assert (found["state"], found["check"]["differences"], live_of(system)) == ("READY", 1, first)
        assert [(each["kind"], each["id"]) for each in found["check"]["shown"]] == [("session", "resting-1")]
        switched = summary_of(begin(system, "--resume", ready["id"], "--accept", "1", "--yes", "--json"))
        assert (switched["state"], live_of(system)) == ("SWITCHED", second)
        summary_of(begin(system, "--rollback", "--yes", "--json"))
        summary_of(begin(system, "--drop-old", "--yes", "--json"))
        until_only(system, first)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_it_is_resumed_or_aborted(kafka: Broker, lasting_redis: RedisServer, seed: int) -> None:
    """The command, a worker or Redis, at a random moment, while events come; nothing is lost, and no key is left over.

    Redis is restarted, or loses what was written to it within up to a second.
    """
    chance = random.Random(seed)
    victim, is_aborted = _VICTIMS[seed % 4], chance.random() < 0.4
    world = World(seed=seed, events=600)
    with running(System(kafka, lasting_redis, partitions=2), workers=2) as system:
        publish_resting(system)
        flow = Flow(system, world, seed)
        flow.publish(0.5)
        system.until_settled()
        base = system.settings.redis_namespace
        first, second = namespace(base), namespace(base, 1)
        watching: Any = Asking(system) if victim in ("command", "worker") else contextlib.nullcontext()
        with watching as asking, flow:
            command = _killed(system, victim, lasting_redis, chance)
            live = _ended(system, command, is_aborted=is_aborted)
        assert is_aborted or live != first
        # of a build that Redis has lost the name may stay reserved
        assert live in (first, second) or victim == "redis that loses"
        if asking is not None:
            assert asking.wrong == []
        flow.publish(1)
        system.until_settled()
        assert outcome_without_resting(system) == world.outcome()
        if live != first:
            summary_of(begin(system, "--drop-old", "--yes", "--json"))
        until_only(system, live)


def _killed(system: System, victim: str, redis: RedisServer, chance: random.Random) -> Command:
    """A rebuild, of which one part was killed at a random moment."""
    if victim == "command":
        most, after = chance.choice(_MOMENTS)
        moment = Moment(chance.randint(1, most), chance.random() < 0.5, chance.uniform(0, 0.1), after)
        return kill_at(moment, lambda url: begin(system, "--yes", "--json", ATTENDANCE_REDIS=url), redis.url)
    command = begin(system, "--yes", "--json")
    # the moment of the kill, often just after it has ended
    deadline, sizes = time.monotonic() + chance.uniform(0, 2 * _SECONDS), deque([redis.appended], _LOST_SIZES)
    while time.monotonic() < deadline and command.runs(1 / _LOST_SIZES):
        sizes.append(redis.appended)
    if victim == "worker":
        chance.choice(system.workers).kill()
        system.start_worker()
    elif victim == "redis":
        redis.restart()
    else:
        redis.lose(chance.choice(sizes))
        redis.start()
    return command


def _ended(system: System, command: Command, *, is_aborted: bool) -> str:
    """Resumes or aborts a rebuild until it has ended; returns the live namespace."""
    if is_aborted:
        command.runs(0.5)
        command.kill()
    command.wait(120)
    for _ in range(5):
        set_back(system)
        operation = operation_of(system)
        if operation is None or (operation.state is State.ABORTED and not is_aborted):
            command = begin(system, "--yes", "--json")
        elif operation.state in ENDED:
            break
        elif is_aborted or "lost it: --abort" in command.err:
            command = begin(system, "--abort", operation.id, "--json")
        else:
            command = begin(system, "--resume", operation.id, "--yes", "--json")
        command.wait(120)
    else:
        pytest.fail(f"it does not end: {command.err}")
    live = live_of(system)
    assert live is not None, command.err
    assert operation.state in (State.ABORTED, State.SWITCHED), command.err
    assert (operation.state is State.SWITCHED) == (live != namespace(system.settings.redis_namespace))
    return live
