"""The port of a worker: what it answers, and to whom, while others keep it busy."""

import json
import os
import re
import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from threading import Event, Thread
from time import monotonic, process_time

import httpx
import pytest

from tests.support.services.processes import wait_until
from worker.monitoring import server
from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.server import PORTS, MonitoringServer
from worker.monitoring.state import PartitionState, Phase, WorkerState
from worker.ops import worker_status
from worker.ops.worker_status import describe, worker_statuses
from worker.settings import Settings, SettingsError

LIVE = WorkerState(0.0, has_joined=True, partitions=(PartitionState(0, Phase.LIVE, None, {"events": 2, "bookings": 1}),))


def settings(port: int, **others: str) -> Settings:
    return Settings(_env_file=None, metrics_bind=f"127.0.0.1:{port}", **others)  # type: ignore[call-arg]


@pytest.fixture
def metrics() -> WorkerMetrics:
    made = WorkerMetrics("1", lambda: 0.0)
    made.state = LIVE._replace(at=monotonic())
    return made


@pytest.fixture
def port(metrics: WorkerMetrics) -> Iterator[MonitoringServer]:
    with MonitoringServer(settings(0), metrics) as running:
        yield running


def test_a_healthy_worker_is_alive_and_ready(port: MonitoringServer) -> None:
    for path in ("/livez", "/readyz", "/status", "/metrics", "/readyz?verbose=1"):
        answer, head = httpx.get(port.address + path), httpx.head(port.address + path)
        assert (answer.status_code, head.status_code, head.content) == (200, 200, b"")
        assert answer.headers["content-length"] == str(len(answer.content))
    assert httpx.get(port.address + "/status").json()["partitions"] == [
        {"partition": 0, "state": "live", "freshnessSeconds": None, "lag": {"events": 2, "bookings": 1}}
    ]


def test_a_blocked_worker_is_neither_alive_nor_ready(port: MonitoringServer, metrics: WorkerMetrics) -> None:
    metrics.state = LIVE._replace(at=monotonic() - 60)
    for path, name in (("/livez", "live"), ("/readyz", "ready")):
        answer = httpx.get(port.address + path)
        assert answer.status_code == 503
        document = answer.json()
        # a second more, if this machine is slow
        assert re.fullmatch(r"the event loop has not run for 6\d s", document.pop("reason"))
        assert document == {name: False}


def test_other_paths_and_methods_are_refused(port: MonitoringServer) -> None:
    assert "/metrics" in httpx.get(port.address + "/").json()["message"]
    assert httpx.get(port.address + "/").status_code == 404
    url = httpx.URL(port.address)
    with socket.create_connection((url.host, url.port or 0), 5) as client:
        client.sendall(b"GET http://[ HTTP/1.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 404"
    assert httpx.post(port.address + "/metrics").status_code == 501


def test_clients_that_send_nothing_do_not_keep_others_out(port: MonitoringServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CONNECTION_SECONDS", 0.5)
    url = httpx.URL(port.address)
    with ExitStack() as stack:
        for number in range(PORTS + 4):
            silent = stack.enter_context(socket.create_connection((url.host, url.port or 0), 5))
            if number % 2:
                silent.sendall(b"GET /livez HTTP/1.1\r\nHost:")

        def answers() -> bool:
            try:
                return httpx.get(port.address + "/livez", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        assert wait_until(answers, 20)


def test_a_second_worker_takes_the_next_port(metrics: WorkerMetrics) -> None:
    with MonitoringServer(settings(0), metrics) as first:
        taken = httpx.URL(first.address).port or 0
        with MonitoringServer(settings(taken), metrics) as second:
            assert taken < (httpx.URL(second.address).port or 0) < taken + PORTS
            found = worker_statuses(settings(taken))
            assert {each["address"] for each in found} >= {first.address, second.address}
            assert worker_statuses(settings(taken, topic_prefix="another")) == []


def test_an_address_of_another_machine_is_named(metrics: WorkerMetrics) -> None:
    with pytest.raises(SettingsError, match=r"ATTENDANCE_METRICS_BIND: cannot listen at 192\.0\.2\.1:9464"):
        MonitoringServer(Settings(_env_file=None, metrics_bind="192.0.2.1:9464"), metrics)  # type: ignore[call-arg]


def test_a_worker_whose_ports_are_all_taken_serves(metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PORTS", 1)
    with MonitoringServer(settings(0), metrics) as first:
        taken = httpx.URL(first.address).port or 0
        with MonitoringServer(settings(taken), metrics) as second:
            assert httpx.get(second.address + "/livez").status_code == 200


def test_what_is_no_worker_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert worker_statuses(settings(silent.getsockname()[1])) == []


def serve(listening: socket.socket, answer: Iterable[bytes]) -> None:
    """Sends these bytes to one client, for a client that waits: a part each tenth of a second."""
    with suppress(OSError), listening.accept()[0] as connection:
        for part in answer:
            connection.sendall(part)
            Event().wait(0.1)


@pytest.mark.parametrize("endless", [b"H", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\n\r\n["])
def test_what_answers_without_an_end_is_passed_over(endless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_status, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=serve, args=(listening, repeat(endless)), daemon=True).start()
        begun = monotonic()
        assert worker_statuses(settings(listening.getsockname()[1])) == []
        assert monotonic() - begun < 5


def test_a_status_follows_no_redirect(port: MonitoringServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        redirect = f"HTTP/1.0 302 Found\r\nLocation: {port.address}/status\r\n\r\n".encode()
        Thread(target=serve, args=(listening, [redirect]), daemon=True).start()
        number = listening.getsockname()[1]
        assert f"http://127.0.0.1:{number}" not in [each["address"] for each in worker_statuses(settings(number))]


def test_no_port_is_asked_where_workers_have_any() -> None:
    assert worker_statuses(settings(0)) == []


def test_without_descriptors_the_port_takes_little_cpu(port: MonitoringServer) -> None:
    """The connection stays in the queue, so that the server is called at once again and again."""
    url = httpx.URL(port.address)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        free = os.dup(client.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            client.connect((url.host, url.port))
            client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            begun = process_time()
            assert not wait_until(lambda: process_time() - begun > 0.3, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.settimeout(5)
        assert client.recv(15) == b"HTTP/1.0 200 OK"


def test_of_a_name_the_first_address_that_is_here_is_used(metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of localhost, where it is ::1 too and IPv6 is switched off."""
    here, elsewhere = (socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0] for host in ("127.0.0.1", "192.0.2.1"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [elsewhere, here])
    with MonitoringServer(settings(0), metrics) as running:
        assert running.address.startswith("http://127.0.0.1:")


def test_a_status_is_one_line(port: MonitoringServer) -> None:
    status = {**httpx.get(port.address + "/status").json(), "address": port.address, "pid": 7}
    assert describe(status) == f"{port.address} pid 7: ready; partitions: live 0; freshness: unknown; lag: 3"
    status |= json.loads('{"ready": false, "reason": "stopping", "partitions": []}')
    assert describe(status) == f"{port.address} pid 7: not ready (stopping); partitions: none; freshness: unknown; lag: 0"


def test_a_worker_started_again_takes_its_port(metrics: WorkerMetrics) -> None:
    """The server closes first, so the system remembers the connection for a minute: Prometheus would not find the next port."""
    with MonitoringServer(settings(0), metrics) as before:
        assert httpx.get(before.address + "/livez").status_code == 200
    number = int(before.address.rpartition(":")[2])
    with MonitoringServer(settings(number), metrics) as after:
        assert after.address == before.address
