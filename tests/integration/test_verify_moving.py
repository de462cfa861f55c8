"""`attendance verify` beside others: another repair, workers that come and go, an attendance that never rests."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.test_main_job import World
from tests.integration.test_verify import Client, count, remove, verified, verify, with_client
from tests.support.services import Broker, Redis
from tests.support.serving import event
from tests.support.system import System, running
from worker.ops import comparison
from worker.ops.partition_report import PartitionReport
from worker.read_model import keys


@pytest.fixture(scope="module")
def hall(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with running(System(kafka, redis_server, partitions=2)) as system:
        system.publish(World(seed=71, events=800).records(system, random.Random(1)))
        system.until_settled()
        yield system


@contextmanager
def load(publish: Callable[[int], None]) -> Iterator[None]:
    """Calls this with 0, 1, … meanwhile; it has not failed when this ends."""
    stop, failed = threading.Event(), list[BaseException]()

    def publishing() -> None:
        try:
            for number in itertools.count():
                if stop.is_set():
                    return
                publish(number)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=publishing)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed


def worlds(system: System) -> Callable[[int], None]:
    """Publishes a part of a world each time."""

    def publish(number: int) -> None:
        world, part = divmod(number, 10)
        records = World(seed=1000 + world, events=400).records(system, random.Random(world))
        size = len(records) // 10 + 1
        system.publish(records[part * size : (part + 1) * size])

    return publish


def found_by(system: System, times: int) -> list[PartitionReport]:
    async def scenario(client: Client, _: str) -> list[PartitionReport]:
        return [report for _ in range(times) for report in await verified(system, client, (0, 1))]

    return with_client(system, scenario)


def is_right(report: PartitionReport) -> bool:
    return (report.differences, report.unreached) == ([], "")


@pytest.mark.slow
def test_nothing_differs_under_load_slice_by_slice(hall: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_SETTLED_AT_ONCE", 5)
    with load(worlds(hall)):
        reports = found_by(hall, 2)
    assert [each for each in reports if not is_right(each)] == []


def test_an_attendance_that_never_rests_is_no_difference(hall: System) -> None:
    """Its document, its indexes, its tally, its summary and its alert change with each batch."""
    statuses = ("ATTENDED", "NOT_ATTENDED", "NOT_SET")

    def publish(_: int) -> None:
        changes = [{"status": statuses[each % 3], "numberOfAttendees": each % 3} for each in range(20)]
        hall.publish([hall.event(event("set", "restless", "s0", **change)) for change in changes])

    with load(publish):
        reports = found_by(hall, 2)
    assert [each for each in reports if not is_right(each)] == []


@pytest.mark.parametrize("most_pairs", [comparison._MOST_PAIRS, 0])
def test_a_counter_that_drifted_is_found_under_load(hall: System, monkeypatch: pytest.MonkeyPatch, most_pairs: int) -> None:
    """Of a session that is read with its pairs, and of one that is too large for that."""
    monkeypatch.setattr(comparison, "_MOST_PAIRS", most_pairs)

    async def damage(client: Client, prefix: str) -> str:
        return (await count("reported", 1)(client, prefix))[0]

    key = with_client(hall, damage)
    with load(worlds(hall)):
        found = found_by(hall, 1)[1]
    assert [each.key for each in found.differences] == [key]

    async def undo(client: Client, prefix: str) -> None:
        await count("reported", -1)(client, prefix)

    with_client(hall, undo)


def test_a_second_repair_is_refused_in_one_line(hall: System) -> None:
    async def set_state(client: Client, prefix: str, state: str) -> None:
        await client.hset(prefix.rsplit(":", 2)[0] + f":{keys.WATERMARK}", "state", state)

    with_client(hall, remove(keys.NO_SHOWS))
    # the first waits for a repair that is under way
    with_client(hall, lambda client, prefix: set_state(client, prefix, "repairing"))
    command = [sys.executable, "-m", "worker", "verify", "--repair", "--yes", "--partition", "1", "--json"]
    first = subprocess.Popen(
        command, env={**os.environ, **hall.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert first.stderr is not None
        identity = next(line.split()[1] for line in iter(first.stderr.readline, "") if line.startswith("operation "))
        second = hall.run_cli("verify", "--repair", "--yes", "--partition", "1")
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.splitlines()[-1:] == [
            f"{identity} works on {hall.settings.topic_prefix} read models: wait until it has ended, or --abort it"
        ]
        with_client(hall, lambda client, prefix: set_state(client, prefix, "live"))
        first.communicate(timeout=60)
        assert first.returncode == 0
    finally:
        first.kill()
        first.wait()
    assert verify(hall)["code"] == 0


@pytest.mark.slow
def test_answers_are_right_while_partitions_move(hall: System) -> None:
    """Workers come, go and die; a partition that could not be compared is named with what to do."""
    stop = threading.Event()

    def move() -> None:
        for ending in itertools.cycle((signal.SIGTERM, signal.SIGKILL)):
            worker = hall.start_worker()
            if stop.wait(3):
                break
            worker.signal(ending)
            worker.wait(30)
            if stop.wait(1):
                break

    moving = threading.Thread(target=move)
    moving.start()
    try:
        with load(worlds(hall)):
            reports = found_by(hall, 2)
    finally:
        stop.set()
        moving.join()
    assert [each.differences for each in reports if each.differences] == []
    assert all("then verify again" in each.unreached for each in reports if each.unreached)
    hall.until_settled()
    assert verify(hall)["code"] == 0


@pytest.mark.parametrize("command", [("verify",), ("explain", "b1", "s1")])
def test_rules_that_differ_are_refused_with_the_cure(hall: System, command: tuple[str, ...]) -> None:
    rules = {"CLOCK_TOLERANCE": "5m", "CONFLICT_WINDOW": "10m", "MAX_EVENT_AGE": "30d"}
    for name, recorded in rules.items():
        done = hall.run_cli(*command, **{f"ATTENDANCE_{name}": "61s"})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].startswith(
            f"ATTENDANCE_{name}: the tables were created with {recorded}, here it is 61s: set {recorded}, or "
        )
