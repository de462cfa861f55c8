"""`attendance api --workers N`: one address, one set of figures, and processes that are replaced."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.raw import Raw, request
from tests.support.services.processes import exists, wait_until
from tests.support.serving import API, Api, booking_name, identity
from worker.settings import load_settings
from worker.web.http.server import bind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")


@pytest.fixture(scope="module")
def several(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Two processes that serve."""
    folder = tmp_path_factory.mktemp("several")
    with Api(api.system, folder, "--workers", "2", TMPDIR=str(folder)) as one:
        assert wait_until(lambda: serving(one) == 2, 30), one.process.said()
        yield one


def serving(api: Api) -> int:
    return api.process.said().count("event=serving")


def figures(api: Api) -> dict[str, list[float]]:
    """The samples of /metrics, by name and labels; the text is Prometheus' own and has each family once."""
    text = httpx.get(f"{api.url}/metrics").text
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families)), "Prometheus takes no family twice"
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.setdefault(f"{sample.name}{{{labels}}}", []).append(sample.value)
    return found


def count(api: Api, route: str, method: str = "POST", status: int = 200) -> float:
    name = f"attendance_api_request_seconds_count{{method={method},route={route},status={status}}}"
    return sum(figures(api).get(name, [0]))


def test_each_thing_is_counted_once(several: Api) -> None:
    before = count(several, "/bookings/v2/attendance/count")
    for _ in range(12):
        # each with a connection of its own, so that both processes take some
        with several.client_of("all") as client:
            assert client.post("/bookings/v2/attendance/count", json={}).status_code == 200
    assert wait_until(lambda: count(several, "/bookings/v2/attendance/count") == before + 12, 5)
    for _ in range(5):
        # a scrape leaves nothing behind that the next one finds beside its own
        with httpx.Client(base_url=several.url) as client:
            client.get("/metrics")
    assert wait_until(lambda: "attendance_partition_lag{partition=0}" in figures(several), 10)
    found = figures(several)
    assert all(len(values) == 1 for values in found.values()), found
    assert not [name for name in found if "pid=" in name]


def test_what_one_process_sets_the_other_shows(several: Api) -> None:
    booking = booking_name()
    for number in range(6):
        attendance = {"bookingId": booking, "sessionId": "s1", "status": "ATTENDED", "numberOfAttendees": number}
        with several.client_of("all") as client:
            done = client.post("/bookings/v2/attendance/set", json={"attendance": attendance})
            assert done.json()["attendance"]["numberOfAttendees"] == number


def test_a_token_reads_one_history_in_all_processes(api: Api, tmp_path: Path) -> None:
    path = f"/v1/attendance/{identity('b', 's1')}/history?bookingId=b&sessionId=s1"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        changed = {"ATTENDANCE_BROKER": f"kafka://127.0.0.1:{silent.getsockname()[1]}", "ATTENDANCE_API_REQUEST_TIMEOUT": "4s"}
        with Api(api.system, tmp_path, "--workers", "2", TMPDIR=str(tmp_path), **changed) as one:
            assert wait_until(lambda: serving(one) == 2, 30), one.process.said()
            connections = one_of_each_process(one)

            def codes(*tokens: str) -> list[str]:
                for raw, token in zip(connections, tokens, strict=True):
                    raw.send(request("GET", path, token=one.tokens[token]))
                return sorted(raw.answer().code for raw in connections)

            assert codes("read", "read") == ["HISTORY_BUSY", "HISTORY_TOO_LONG"]
            assert codes("read", "all") == ["HISTORY_TOO_LONG", "HISTORY_TOO_LONG"], "the tokens have turns of their own"
            assert codes("all", "all") == ["HISTORY_BUSY", "HISTORY_TOO_LONG"]
            for raw in connections:
                raw.socket.close()


def one_of_each_process(api: Api) -> list[Raw]:
    """Connections, each to another process of the API."""
    found: dict[int, Raw] = {}
    children = children_of(api.process.pid)
    for _ in range(200):
        raw = Raw(api.address)
        assert raw.send(request("GET", "/healthz")).answer().status == 200
        if found.setdefault(server_of(raw, children), raw) is not raw:
            raw.socket.close()
        if len(found) == len(children):
            return list(found.values())
    raise AssertionError("one process takes every connection")


def server_of(raw: Raw, processes: list[int]) -> int:
    """The process that has accepted a connection."""
    own, other = (f":{number:04X}" for number in (raw.socket.getsockname()[1], raw.socket.getpeername()[1]))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(other) and row[2].endswith(own))
    for process in processes:
        for link in Path(f"/proc/{process}/fd").iterdir():
            if link.is_symlink() and os.readlink(link) == f"socket:[{inode}]":
                return process
    raise AssertionError("nobody has accepted it")


def test_a_process_that_is_killed_is_replaced(several: Api) -> None:
    first, second = children_of(several.process.pid)
    held = [Raw(several.address) for _ in range(8)]
    for raw in held:
        assert raw.send(request("GET", "/healthz")).answer().status == 200
    before = serving(several)
    os.kill(first, signal.SIGKILL)
    # the other goes on, also while the first is replaced
    for _ in range(50):
        assert httpx.get(f"{several.url}/healthz").status_code == 200
    assert wait_until(lambda: serving(several) == before + 1, 30), several.process.said()
    now = children_of(several.process.pid)
    assert len(now) == 2
    assert second in now
    assert "an API process exited" in several.process.said()
    assert wait_until(lambda: figures(several)["attendance_api_requests_in_flight{}"] == [1.0], 5), "the dead have none"
    for raw in held:
        raw.socket.close()


@pytest.mark.slow
def test_all_processes_killed_are_replaced(several: Api) -> None:
    before, children = serving(several), children_of(several.process.pid)
    # the same process within 5.5 s of being replaced would be a crash loop, which ends them all
    assert wait_until(lambda: all(time.time() - Path(f"/proc/{child}").stat().st_mtime > 6 for child in children), 15)
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert wait_until(lambda: serving(several) == before + 2, 30), several.process.said()
    assert httpx.get(f"{several.url}/healthz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_with_all_its_processes(api: Api, tmp_path: Path, number: signal.Signals) -> None:
    with Api(api.system, tmp_path, "--workers", "2", TMPDIR=str(tmp_path)) as one:
        assert wait_until(lambda: serving(one) == 2, 30), one.process.said()
        children = children_of(one.process.pid)
        assert list(tmp_path.glob("attendance-api-*"))
        one.process.signal(number)
        assert one.process.wait(20) == 0, one.process.said()
        assert wait_until(lambda: not any(map(exists, children)), 5)
        assert not list(tmp_path.glob("attendance-api-*")), "the folder of figures is gone"
        assert "Traceback" not in one.process.said()


def test_its_processes_do_not_outlive_it(api: Api, tmp_path: Path) -> None:
    with Api(api.system, tmp_path, "--workers", "2", TMPDIR=str(tmp_path)) as one:
        assert wait_until(lambda: serving(one) == 2, 30), one.process.said()
        children = children_of(one.process.pid)
        one.process.signal(signal.SIGKILL)
        assert wait_until(lambda: not any(map(exists, children)), 15)


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_a_port_that_is_taken_is_one_line(arguments: tuple[str, ...]) -> None:
    with closing(bind(load_settings(_env_file=None, api_bind="127.0.0.1:0"))) as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTENDANCE_")}
        given = {**environment, "ATTENDANCE_API_BIND": address, "TMPDIR": tempfile.gettempdir()}
        done = subprocess.run((*API, *arguments), env=given, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n"), address in done.stderr) == (1, 1, True), done.stderr


def children_of(pid: int) -> list[int]:
    """Its own children that serve: the resource tracker of multiprocessing is none."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
