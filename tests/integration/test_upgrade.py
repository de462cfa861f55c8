"""The upgrade from the first released format, live: its worker and its API run, events arrive, readers ask all the time."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import oracle
from tests.support.commands import Command, shared_commands
from tests.support.first_release import NAMESPACE
from tests.support.first_release.programs import FirstRelease
from tests.support.first_release.readers import Reader
from tests.support.first_release.reading import all_attendances
from tests.support.first_release.snapshot import Restored, Snapshot, binary, read, until_idle
from tests.support.services import Broker, RedisServer
from tests.support.services.processes import wait_until
from tests.support.serving import Api
from tests.support.system import WorkerProcess
from worker.read_model.keys import LAYOUT_VERSION
from worker.redis.client import create_redis


@pytest.mark.slow
def test_the_first_release_is_upgraded_under_readers(kafka: Broker, own_redis: RedisServer, tmp_path: Path) -> None:
    release, snapshot = FirstRelease(tmp_path), read()
    with Restored(kafka, own_redis, snapshot) as system:
        old = release.start_worker(system)
        until_idle(system)
        with release.api(system) as old_api, Api(system, tmp_path, tokens=False) as api:
            assert system.run_cli("topics", "create").returncode == 0
            refused = system.start_worker()
            assert refused.wait(30) == 1
            assert "attendance rebuild" in refused.said()
            stable = _stable(snapshot)
            with Reader(old_api, stable) as before, Reader(api, stable, waits=True) as after, Live(system):
                rebuild = _start_rebuild(system)
                worker = _start_once_there_is_a_build(system)
                assert rebuild.wait(120) == 0, (rebuild.out, rebuild.err, worker.said())
                # the old API goes on with the old namespace until it is dropped
                shown = before.answers + 100, after.answers + 100
                assert wait_until(lambda: before.answers > shown[0] and after.answers > shown[1], 20)
            assert before.errors + after.errors == []
            ended = json.loads(rebuild.out.splitlines()[-1])
            assert ended["live"].startswith(f"{NAMESPACE}:{LAYOUT_VERSION}.")
        assert old.terminate() == 0, old.said()
        tables = str(int(ended["live"].rpartition(".")[2]) + 1)
        system.settings = system.settings.model_copy(update={"tables": tables})
        system.until_settled()
        # the first release makes a dead letter of a booking record in a wrong partition
        replayed = system.run_cli("dead-letters", "replay", "--topic", "bookings", "--yes")
        assert replayed.returncode == 0, replayed
        system.until_settled()
        outcome = system.outcome()
        assert outcome == oracle.outcome(*snapshot.arguments())
        attendances = [
            {"bookingId": pair[0], "sessionId": pair[1], **each} for pair, each in sorted(outcome.attendances.items())
        ]
        assert attendances == snapshot.attendances
        dropped = system.run_cli("rebuild", "--drop-old", "--yes")
        assert dropped.returncode == 0, dropped
        assert system.run_cli("verify").stdout.splitlines()[-3:] == ["differences: 0", "remaining: 0", "unreached: 0"]
        assert system.open_alerts_of_topic() == outcome.alerts
        assert _namespaces(system) == {ended["live"]}
        assert system.outcome() == outcome


def _namespaces(system: Restored) -> set[str]:
    """Those of which Redis has keys."""

    async def asking() -> set[str]:
        client = create_redis(system.settings)
        try:
            return {key.decode().split(":{")[0] async for key in client.scan_iter("*:{*", count=1000)}
        finally:
            await client.aclose()

    return asyncio.run(asking())


def _start_rebuild(system: Restored) -> Command:
    arguments = ("--refold", "--yes", "--json")
    return shared_commands().start("rebuild", *arguments, **system.environment)


@pytest.mark.slow
def test_the_upgrade_is_aborted_and_rolled_back(kafka: Broker, own_redis: RedisServer, tmp_path: Path) -> None:
    release, snapshot = FirstRelease(tmp_path), read()
    own_redis.ask("FLUSHALL")
    with Restored(kafka, own_redis, snapshot) as system:
        release.start_worker(system)
        until_idle(system)
        assert system.run_cli("topics", "create").returncode == 0
        with release.api(system) as old_api, Api(system, tmp_path, tokens=False) as api:
            with Reader(old_api, snapshot.served) as reader:
                refused = system.run_cli("rebuild", "--yes")
                assert (refused.returncode, "--refold" in refused.stderr) == (1, True), refused
                built = system.run_cli("rebuild", "--refold", "--yes", "--no-switch", "--json")
                assert built.returncode == 0, built
                assert len(_namespaces(system)) == 2
                operation = json.loads(built.stdout.splitlines()[-1])["id"]
                assert system.run_cli("rebuild", "--abort", operation).returncode == 0
                assert _namespaces(system) == {f"{NAMESPACE}:4.0"}

                rebuild = _start_rebuild(system)
                worker = _start_once_there_is_a_build(system)
                assert rebuild.wait(120) == 0, (rebuild.out, rebuild.err, worker.said())
                assert {each["id"] for each in all_attendances(api)} == {each["id"] for each in snapshot.served}
                for step in ("--rollback", "--drop-old"):
                    taken = system.run_cli("rebuild", step, "--yes")
                    assert taken.returncode == 0, taken
                    assert api.query().status_code == 503
                assert worker.wait(30) == 1
                assert "attendance rebuild" in worker.said()
                assert _namespaces(system) == {f"{NAMESPACE}:4.0"}
            assert reader.errors == []
            assert all_attendances(old_api) == snapshot.served


class Live:
    """Publishes what the first release had not yet received, bit by bit; all of it on leaving."""

    def __init__(self, system: Restored) -> None:
        self._system = system
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _publish(self) -> None:
        for at in range(0, len(self._system.snapshot.later), 5):
            self._system.publish_later(slice(at, at + 5))
            self._stopping.wait(0.5)


def _start_once_there_is_a_build(system: Restored) -> WorkerProcess:
    """A worker of today: its supervisor starts it until it no longer ends."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        worker = system.start_worker()
        if wait_until(lambda: not worker.running or "event=assigned" in worker.said(), 30) and worker.running:  # noqa: B023
            return worker
    raise AssertionError(worker.said())


def _stable(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Attendances that the upgrade does not change, of bookings that nothing later concerns."""
    touched = {_booking_id(record) for record in snapshot.later}
    final = {(each["bookingId"], each["sessionId"]): each for each in snapshot.attendances}
    return [
        each
        for each in snapshot.served
        if each["bookingId"].lower() not in touched
        and final.get((each["bookingId"], each["sessionId"])) == {name: value for name, value in each.items() if name != "id"}
    ]


def _booking_id(record: list[Any]) -> str:
    """The booking that a record concerns, as it is written there; its key where the value names none."""
    _topic, _partition, key, value, _headers = record
    try:
        document = json.loads(binary(value) or b"null")
        return str(document.get("data", document)["bookingId"]).strip().lower()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return (binary(key) or b"").decode(errors="replace")
