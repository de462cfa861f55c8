"""`attendance dev`: everything in one process tree, ready in seconds, gone when it ends however it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.services.processes import exists, tail_of_file, wait_until
from tests.support.system import ROOT

TOTALS = "bookings=680 sessions=32 attended=17780 not_attended=3980 frequent_no_shows=39"
START_SECONDS = 60

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")


def environment() -> dict[str, str]:
    """This process's, without what the settings would take from it; dev starts its own services then."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ATTENDANCE_")}


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def children(pid: int) -> dict[int, str]:
    """Every living descendant with its command line."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found: dict[int, str] = {}
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        for child in wanted:
            with suppress(OSError):
                found[child] = command_of(child)
    return {child: command for child, command in found.items() if exists(child)}


class Dev:
    """A running `attendance dev`."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "worker", "dev", *arguments]
        # where commands look for it, so that they do not find one of another test
        self.environment = {**environment(), "TMPDIR": str(log.parent)}
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sink
            )
        self.children: dict[int, str] = {}

    def until(self, condition: Callable[[], bool], what: str, timeout: float = START_SECONDS) -> None:
        ended = not wait_until(lambda: condition() or self.process.poll() is not None, timeout) or not condition()
        assert not ended, f"not {what}\n{self.said()}"

    def until_ready(self) -> None:
        self.until(lambda: "ready" in self.said(), "ready")
        self.children = children(self.process.pid)
        assert len(self.children) >= 4, self.children

    def said(self) -> str:
        return tail_of_file(self.log, 500)

    def run(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in another terminal, where only these variables are set."""
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def gone(self) -> bool:
        return not any(map(exists, self.children))

    def end(self) -> None:
        """Nothing of it is left."""
        self.children |= children(self.process.pid) if self.process.poll() is None else {}
        self.process.kill()
        for pid, command in self.children.items():
            with suppress(OSError):
                if command_of(pid) == command:  # and not somebody else's by now
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def started(*arguments: str) -> Iterator[Dev]:
    with tempfile.TemporaryDirectory(prefix="attendance-test-") as folder:
        dev = Dev(Path(folder) / "stderr.log", *arguments)
        try:
            yield dev
        finally:
            dev.end()


@contextmanager
def taken(*ports: int) -> Iterator[None]:
    """Ports that this process listens at.

    A `dev` of another test, which runs beside this one, may have one of them and end at any moment: it is waited for. Whoever
    keeps one for longer is taken to keep it through the test.
    """

    with ExitStack() as stack:

        def listens(port: int) -> bool:
            with ExitStack() as kept, suppress(OSError):
                listening = kept.enter_context(closing(socket.socket()))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(("127.0.0.1", port))
                listening.listen()
                stack.push(kept.pop_all())
                return True
            return False

        for port in ports:
            wait_until(partial(listens, port), 60)
        yield


def test_the_demo_prints_its_totals_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", "dev", "--demo", "--once"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == TOTALS


def test_the_demo_has_a_session_that_runs_and_fills() -> None:
    with started("--demo") as dev:
        dev.until_ready()
        address = re.findall(r"screen and API on (http://127\.0\.0\.1:\d+)", dev.said().splitlines()[0])[0]

        def tally() -> dict[str, Any]:
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{address}/v1/sessions/concert-rush-1") as answer:
                return dict(json.load(answer))
            return {"attended": 0}

        # events may be folded before the booking that says when the session begins
        dev.until(lambda: (now := tally())["attended"] > 0 and now["startsAt"] is not None, "filling")
        before = tally()
        assert datetime.fromisoformat(before["startsAt"]) < datetime.now(UTC) < datetime.fromisoformat(before["endsAt"])
        dev.until(lambda: tally()["attended"] > before["attended"], "filling further")


def test_the_api_answers_this_machine_without_a_token() -> None:
    with started() as dev:
        dev.until_ready()
        (address,) = re.findall(r"API on (http://127\.0\.0\.1:\d+)", dev.said())
        with urllib.request.urlopen(f"{address}/v1/status", timeout=5) as said:
            assert [each["state"] for each in json.load(said)["partitions"]] == ["live"] * 4


def test_dev_takes_other_ports_where_the_usual_are_taken() -> None:
    with taken(9092, 6379, 8080), started() as dev:
        dev.until_ready()
        said = dev.said()
        for usual in (9092, 6379, 8080):
            (line,) = [line for line in said.splitlines() if f"port {usual} is in use" in line]
            chosen = int(re.findall(r"127\.0\.0\.1:(\d+)", line)[0])
            assert chosen != usual
            with closing(socket.create_connection(("127.0.0.1", chosen), 2)):
                pass  # somebody answers there
            # the API is told by its environment
            assert usual == 8080 or any(str(chosen) in command for command in dev.children.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_child(number: signal.Signals) -> None:
    with started("--demo") as dev:
        dev.until_ready()
        dev.process.send_signal(number)
        assert wait_until(dev.gone, 5), {pid: dev.children[pid] for pid in dev.children if exists(pid)}
        assert dev.process.wait(5) == 0
        assert "Traceback" not in dev.said()


@pytest.mark.parametrize("so_many", [1, 2, 3])
def test_a_signal_during_the_start_ends_every_child(so_many: int) -> None:
    with started() as dev:
        dev.until(lambda: len(children(dev.process.pid)) >= so_many, "starting")
        dev.children = children(dev.process.pid)
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(6) == 0, dev.said()
        assert wait_until(dev.gone, 1)
        assert "Traceback" not in dev.said()


@pytest.mark.parametrize(
    ("part", "name"),
    [("worker worker", "worker"), ("worker api", "api"), ("broker", "broker"), ("valkey|redis", "redis")],
)
def test_a_child_that_dies_ends_the_rest(part: str, name: str) -> None:
    with started() as dev:
        dev.until_ready()
        (victim,) = [pid for pid, command in dev.children.items() if re.search(part, command)]
        os.kill(victim, signal.SIGKILL)
        assert dev.process.wait(10) == 1, dev.said()
        assert wait_until(dev.gone, 1), dev.children
        last = dev.said().splitlines()[-1]
        assert "exited" in last, dev.said()
        assert re.search(name, last), last
        assert "Traceback" not in dev.said()


def test_a_parent_that_dies_takes_its_children_along() -> None:
    with started() as dev:
        dev.until_ready()
        dev.process.kill()
        dev.process.wait(5)
        assert wait_until(dev.gone, 15), {pid: dev.children[pid] for pid in dev.children if exists(pid)}


def test_commands_in_another_terminal_find_it() -> None:
    time = datetime.now(UTC).isoformat()
    data = {"bookingId": "BK-1", "sessionId": "yoga-1", "numberOfAttendees": 0}
    event = {"specversion": "1.0", "id": "1", "source": "/me", "type": "attendance.check_in", "time": time, "data": data}
    with taken(9092, 6379, 8080), started() as dev:
        dev.until_ready()
        broker, redis = re.findall(r"(?:broker|Redis) on 127\.0\.0\.1:(\d+)", dev.said(), re.IGNORECASE)[:2][::-1]
        used = f"the running dev (pid {dev.process.pid}) is used: kafka://127.0.0.1:{broker}, redis://127.0.0.1:{redis}/0"

        def run(*arguments: str, stdin: str = "", more: tuple[str, ...] = ()) -> str:
            done = dev.run(*arguments, stdin=stdin)
            assert (done.returncode, done.stderr.splitlines()) == (0, [used, *more])
            return done.stdout

        assert "all topics exist" in run("topics", "create")
        run("topics", "check")
        assert "BAD" not in run("doctor")
        run("publish", "-", stdin=json.dumps(event), more=("published 1 events",))
        run("simulate", "--count", "10", "--bookings", "2", more=("published 10 events",))
        assert wait_until(lambda: "yoga-1" in dev.run("query", "--booking", "BK-1").stdout, 20)
        assert "bookings: 1" in run("session", "yoga-1")
        assert "noShowRate" in run("booking", "BK-1")
        assert "STATUS_COUNT_MISMATCH" in run("alerts", "--session", "yoga-1")
        with second("worker", dev) as log:
            assert wait_until(lambda: "event=recovered" in log.read_text(), 30), log.read_text()
            assert log.read_text().startswith(f"{used}\n")
        with second("api", dev, "--workers", "2") as log:
            assert wait_until(lambda: "event=serving" in log.read_text(), 30), log.read_text()
            port = int(re.findall(r"127\.0\.0\.1:(\d+)", log.read_text().partition("event=serving")[2])[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/sessions/yoga-1", timeout=5) as answer:
                assert json.load(answer)["bookings"] == 1
        dev.process.kill()
        dev.process.wait(5)
        done = dev.run("session", "yoga-1", ATTENDANCE_REDIS="redis://127.0.0.1:1")
        assert "dev" not in done.stderr


@contextmanager
def second(command: str, dev: Dev, *arguments: str) -> Iterator[Path]:
    """A worker or an API that somebody starts beside it; yields its log."""
    log = dev.log.with_name(f"second-{command}.log")
    with log.open("wb") as sink:
        variables = {**dev.environment, "ATTENDANCE_API_BIND": "127.0.0.1:0"}
        process = subprocess.Popen([sys.executable, "-m", "worker", command, *arguments], cwd=ROOT, env=variables, stderr=sink)
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
