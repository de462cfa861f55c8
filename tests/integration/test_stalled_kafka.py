"""A Kafka that takes connections and does not answer: Ctrl-C ends each long command within seconds, and it can be resumed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from time import monotonic
from typing import Any

import pytest

from tests.support.bad_records import envelope
from tests.support.services import KafkaCluster, Redis
from tests.support.services.processes import wait_until
from tests.support.system import ROOT, Record, System, running
from worker.cli.long_commands import get_operation
from worker.ops import archive_plan, replay_sources
from worker.ops.dead_letters import Selection, packed_selection
from worker.read_model.operations import STOP_SECONDS, Operations, State
from worker.redis.client import create_redis

#: Of a machine that is busy: the modules of the command are loaded before.
_END_SECONDS = STOP_SECONDS + 10


@pytest.fixture(scope="module")
def stalled(redis_server: Redis) -> Iterator[tuple[System, KafkaCluster]]:
    """A system with a few records, no worker, and a broker of its own."""
    with ExitStack() as stack:
        kafka = stack.enter_context(KafkaCluster())
        system = stack.enter_context(running(System(kafka, redis_server, partitions=1)))
        topics = system.topics
        document = envelope("attendance.check_in", "1", "2026-11-22T10:00:00Z", {"bookingId": "b", "sessionId": "s"})
        event = system.event(document)
        records = [Record(topic, event.key, event.value, [], 0) for topic in (topics.events, topics.dead_letters)]
        system.publish(each for each in records for _ in range(10))
        system.until_settled()
        assert system.workers[0].terminate() == 0
        yield system, kafka


def paused(system: System, requests: dict[str, tuple[str, dict[str, Any], dict[str, Any]]]) -> dict[str, str]:
    """The ids of operations that were interrupted before they did anything, by command."""

    async def pausing() -> dict[str, str]:
        client = create_redis(system.settings)
        try:
            ids, known = {}, Operations(client, system.settings.redis_namespace)
            for command, (target, request, end) in requests.items():
                running = await known.begin(command, target, request, end)
                await running.pause()
                ids[command] = running.operation.id
            return ids
        finally:
            await client.aclose()

    return asyncio.run(pausing())


@pytest.mark.slow
def test_ctrl_c_ends_what_waits_for_kafka(stalled: tuple[System, KafkaCluster], tmp_path: Path) -> None:
    system, kafka = stalled
    folder, letters = tmp_path / "archive", {"selection": packed_selection(Selection()), "windows": {"0": [0, 10]}}
    folder.mkdir()
    plan = asyncio.run(archive_plan.make_plan(system.settings, folder, system.topics[:2]))
    everything: dict[str, Any] = {name: [] for name in replay_sources.Selection._fields}
    window = {**everything, "rate": 1, "files": {}, "start": {"0": 0}}
    ids = paused(
        system,
        {
            "replay": ("events", window, {"0": 10}),
            "archive": (plan.target, plan.request(), {}),
            "dead-letters export": ("file", {**letters, "file": str(tmp_path / "letters.jsonl")}, {"0": 10}),
            "dead-letters unpark": ("dead-letters", letters, {"0": 10}),
        },
    )
    with ExitStack() as stack:
        processes = {"replay": stack.enter_context(resuming(system, "replay", ids["replay"]))}
        assert wait_until(lambda: get_operation(system.settings, ids["replay"]).counts.get("read", 0) > 0, 60)
        kafka.pause()
        stack.callback(kafka.resume)
        for name in ids.keys() - {"replay"}:
            processes[name] = stack.enter_context(resuming(system, name, ids[name]))
        for name in ids:
            assert wait_until(lambda: get_operation(system.settings, ids[name]).state is State.RUNNING, 60), name  # noqa: B023
        began = monotonic()
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for name, process in processes.items():
            _, said = process.communicate(timeout=60)
            assert process.returncode == 130, (name, said)
            assert f"`attendance {name} --resume {ids[name]}` goes on" in said
        assert monotonic() - began < _END_SECONDS
    assert {get_operation(system.settings, each).state for each in ids.values()} == {State.PAUSED}


@contextmanager
def resuming(system: System, name: str, operation_id: str) -> Iterator[Popen[str]]:
    """The command that goes on with an operation; it is killed in the end."""
    command = [sys.executable, "-m", "worker", *name.split(), "--resume", operation_id]
    environment = {**os.environ, **system.environment}
    with Popen(command, stdout=PIPE, stderr=PIPE, env=environment, cwd=ROOT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
