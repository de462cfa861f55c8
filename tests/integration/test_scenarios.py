"""`attendance simulate SCENARIO` on a real Kafka: what the read models show after each."""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from tests.support.services import Broker, Redis
from tests.support.services.processes import tail_of_file, wait_until
from tests.support.system import ROOT, System, running
from worker.ops.scenarios import NORTH, SOUTH, ScenarioName
from worker.read_model.reader import AttendanceReader


@pytest.fixture(scope="module")
def system(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with running(System(kafka, redis_server)) as one:
        yield one


def simulate(system: System, name: ScenarioName) -> None:
    done = system.run_cli("simulate", name, "--seed", "3", "--speed", "600")
    assert (done.returncode, done.stdout) == (0, "")
    summary, expect, published = done.stderr.splitlines()
    assert (summary.split(":")[0], expect.split(":")[0]) == (name, "expect")
    assert re.fullmatch(r"published \d+ events", published)
    system.until_applied()


def alerts_by_source(system: System, name: ScenarioName) -> dict[str, set[str]]:
    """The sources of the open alerts of a scenario, by kind."""
    found: dict[str, set[str]] = {}
    for alert in system.read(lambda reader: reader.alerts(limit=100_000)):
        if f"-{name}-3" in alert["bookingId"]:
            found.setdefault(alert["kind"], set()).add(alert["attendance"]["source"])
    return found


def test_each_scenario_raises_its_alerts_alone(system: System) -> None:
    for name in ScenarioName:
        simulate(system, name)
    raised = {name: alerts_by_source(system, name) for name in ScenarioName}
    assert {name: found for name, found in raised.items() if found} == {
        ScenarioName.CLOCK_AHEAD: {"CLOCK_AHEAD": {NORTH[1]}},
        ScenarioName.BROKEN_SCANNER: {"STATUS_COUNT_MISMATCH": {SOUTH[1]}, "CONFLICTING_REPORTS": {SOUTH[1]}},
    }
    letters = system.run_cli("dead-letters", "list", "--max", "10000", "--json").stdout
    sources = Counter(re.findall(r'"source": ?"([^"]+)"', letters))
    assert set(sources) >= set(NORTH), letters[:2000]
    tally = system.read(lambda reader: reader.session("concert-rush-3"))
    assert tally is not None
    assert tally["bookings"] == 1200
    assert tally["attended"] > 400


async def _begun(reader: AttendanceReader) -> object:
    return await reader.session("pool-quiet-day-9")


def test_ctrl_c_ends_a_scenario(system: System, tmp_path: Path) -> None:
    log, environment = tmp_path / "stderr", {**os.environ, **system.environment}
    command = [sys.executable, "-m", "worker", "simulate", "quiet-day", "--seed", "9"]
    with log.open("wb") as sink, Popen(command, stdin=PIPE, stderr=sink, env=environment, cwd=ROOT) as process:
        try:
            assert wait_until(lambda: system.read(_begun) is not None, 30), tail_of_file(log, 20)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()
    assert re.search(r"published \d+ events\n$", log.read_text()), log.read_text()
