"""`attendance api` as a process: where it listens, whom it serves, how it ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.services.ports import ReservedPort
from tests.support.services.processes import wait_until
from tests.support.serving import API, Api, booking_name
from tests.support.system import ROOT, WorkerProcess
from tests.web.test_attendances import problem
from worker.settings import Settings, load_settings
from worker.web.http.server import ServeError, bind
from worker.web.middleware import is_loopback


def settings(**given: object) -> Settings:
    return load_settings(_env_file=None, **given)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080", "example.org:80"])
def test_without_tokens_this_machine_alone_is_bound(address: str) -> None:
    with pytest.raises(ServeError, match="ATTENDANCE_API_TOKENS"):
        bind(settings(api_bind=address))


def test_the_command_says_so_in_one_line() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTENDANCE_")} | {
        "ATTENDANCE_API_BIND": "0.0.0.0:0"
    }
    done = subprocess.run(API, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"ATTENDANCE_API_BIND: without ATTENDANCE_API_TOKENS .*\n", done.stderr), done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.9.9.9:0"])
def test_names_of_loopback_are_bound_to_loopback(address: str) -> None:
    with closing(bind(settings(api_bind=address))) as bound:
        assert is_loopback(bound.getsockname()[0])


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
def test_a_malformed_file_of_tokens_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    spoiled = tmp_path / "tokens.json"
    spoiled.write_text("{")
    given = {"ATTENDANCE_API_BIND": "127.0.0.1:0", "ATTENDANCE_API_TOKENS": str(spoiled)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTENDANCE_")} | given
    done = subprocess.run(
        [*API, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r".*tokens\.json: is not a valid token file .*\n", done.stderr), done.stderr


def test_an_address_that_is_taken_is_refused() -> None:
    with closing(bind(settings(api_bind="127.0.0.1:0"))) as first:
        taken = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(ServeError, match=taken):
            bind(settings(api_bind=taken))


@pytest.mark.parametrize(
    "text", ["8080", "localhost", "localhost:", "localhost:x", "localhost:99999", "http://localhost:1", "a@b:1", ""]
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="ATTENDANCE_API_BIND"):
        settings(api_bind=text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("0.0.0.0", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.fixture(scope="module")
def open_api(api: Api, tmp_path_factory: pytest.TempPathFactory):
    """An API without tokens."""
    with Api(api.system, tmp_path_factory.mktemp("open"), tokens=False) as one:
        yield one


def test_without_tokens_this_machine_is_served(open_api: Api) -> None:
    assert "without tokens" in open_api.process.said()
    assert open_api.set(booking_name(), "s1", "ATTENDED").status_code == 200
    assert open_api.client.get("/v1/status", headers={"authorization": "Bearer whatever"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example.org"},
        {"host": "evil.example.org:8080"},
        {"host": "127.0.0.1.evil.example.org"},
        {"host": "localhost@evil.example.org"},
        {"forwarded": "for=192.0.2.1"},
        {"x-forwarded-for": "192.0.2.1"},
        {"x-forwarded-host": "localhost"},
        {"x-real-ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
        {"origin": "https://evil.example.org"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_without_tokens_web_pages_are_not(open_api: Api, headers: dict[str, str]) -> None:
    attendance = {"bookingId": booking_name(), "sessionId": "s1", "status": "ATTENDED"}
    said = open_api.client.post("/bookings/v2/attendance/set", json={"attendance": attendance}, headers=headers)
    assert problem(said, 403) == "LOOPBACK_ONLY"
    assert problem(open_api.client.get("/healthz", headers=headers), 403) == "LOOPBACK_ONLY"


@pytest.mark.parametrize("headers", [{"host": "localhost:1"}, {"host": "[::1]:1"}, {"origin": "http://localhost:3000"}])
def test_without_tokens_its_own_names_are(open_api: Api, headers: dict[str, str]) -> None:
    assert open_api.client.get("/v1/status", headers=headers).status_code == 200


def test_a_body_of_a_web_form_is_refused(open_api: Api) -> None:
    said = open_api.client.post("/bookings/v2/attendance/set", content=b"{}", headers={"content-type": "text/plain"})
    assert problem(said, 400) == "CONTENT_TYPE_NOT_SUPPORTED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_under_way_is_finished(api: Api, tmp_path: Path, number: signal.Signals) -> None:
    with Api(api.system, tmp_path) as one:

        async def asking() -> httpx.Response:
            headers = {"authorization": f"Bearer {one.tokens['all']}"}
            async with httpx.AsyncClient(base_url=one.url, headers=headers, timeout=30) as client:

                async def body():
                    yield b'{"attendance": {"bookingId": "'
                    one.process.signal(number)
                    # it has stopped listening, and still waits for this
                    assert await asyncio.to_thread(wait_until, lambda: refuses(one.address), 10)
                    yield booking_name().encode() + b'", "sessionId": "s1", "status": "ATTENDED"}}'

                kind = {"content-type": "application/json"}
                return await client.post("/bookings/v2/attendance/set", content=body(), headers=kind)

        assert asyncio.run(asking()).status_code == 200
        assert one.process.wait(10) == 0
        assert "Traceback" not in one.process.said()


def refuses(address: tuple[str, int]) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(address) != 0


def test_a_request_that_takes_too_long_does_not_keep_it(api: Api, tmp_path: Path) -> None:
    with (
        Api(api.system, tmp_path, ATTENDANCE_API_STOP_TIMEOUT="1s") as one,
        closing(socket.create_connection(one.address, 10)) as slow,
    ):
        slow.sendall(
            b"POST /bookings/v2/attendance/set HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            + f"Authorization: Bearer {one.tokens['all']}\r\n\r\n".encode()
        )
        assert wait_until(lambda: "requests_in_flight 2.0" in httpx.get(f"{one.url}/metrics").text, 5)
        one.process.signal(signal.SIGTERM)
        assert b"STOPPING" in b"".join(iter(lambda: slow.recv(65536), b""))
        assert one.process.wait(10) == 0


def test_each_request_is_logged_where_the_access_log_is_on(api: Api, tmp_path: Path) -> None:
    with Api(api.system, tmp_path, ATTENDANCE_API_ACCESS_LOG="true") as one:
        one.client.get("/v1/status")
        one.client.get("/v1/sessions/a%0Ab%1B")
        httpx.post(f"{one.url}/bookings/v2/attendance/query", json={})
        logged = [line for line in one.process.said().splitlines() if "event=request " in line and "/healthz" not in line]
        assert [re.sub(r"^.* event=request | ms=[0-9.]+", "", line) for line in logged] == [
            "method=GET path=/v1/status status=200 token=all client=127.0.0.1",
            "method=GET path=/v1/sessions/a%0Ab%1B status=404 token=all client=127.0.0.1",
            "method=POST path=/bookings/v2/attendance/query status=401 token= client=127.0.0.1",
        ]
        assert "event=serving" in one.process.said()
        assert "ATTENDANCE_API_ACCESS_LOG=True" in one.process.said()
    assert "event=request" not in api.process.said()


def test_every_line_of_the_api_has_one_format(api: Api, tmp_path: Path) -> None:
    """Also with processes of its own, and after requests that the HTTP server refuses itself."""
    port = ReservedPort()
    bind = f"127.0.0.1:{port.number}"
    variables = {**os.environ, **api.system.environment, "ATTENDANCE_API_BIND": bind, "ATTENDANCE_LOG_FORMAT": "json"}
    variables["ATTENDANCE_API_ACCESS_LOG"] = "true"
    command = (sys.executable, "-m", "worker", "api", "--workers", "2")
    process = WorkerProcess(command, variables, tmp_path / "api.log")
    try:
        assert wait_until(lambda: process.said().count('"event": "serving"') == 2 or not process.running, 40), process.said()
        assert httpx.get(f"http://{bind}/no-such").status_code == 404
        with socket.create_connection(("127.0.0.1", port.number), 5) as connection:
            connection.sendall(b"no request\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert process.terminate() == 0
    finally:
        process.kill()
        port.release()
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert {"serving", "request"} <= {line["event"] for line in lines}
    assert all(line["logger"].startswith("worker.web.") and line["level"] and line["timestamp"] for line in lines)
