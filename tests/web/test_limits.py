"""Requests that are too large, too slow, too many or no HTTP at all."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.support.services.processes import wait_until
from tests.support.serving import Api
from tests.web.test_attendances import problem

SET = "/bookings/v2/attendance/set"
QUERY = b"POST /bookings/v2/attendance/query HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def tight(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with little patience."""
    limits = {"ATTENDANCE_API_BODY_TIMEOUT": "1s", "ATTENDANCE_API_MAX_BODY": "2048", "ATTENDANCE_API_MAX_REQUESTS": "3"}
    folder: Path = tmp_path_factory.mktemp("tight")
    with Api(api.system, folder, **limits) as one:
        yield one


def authorized(api: Api) -> bytes:
    return f"Authorization: Bearer {api.tokens['all']}\r\n".encode()


def code_of(said: bytes, status: int) -> str:
    """The code of a raw answer, which is whole and the last on its connection."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), said
    assert b"content-length: %d" % len(body) in head.lower()
    document = json.loads(body)
    assert set(document) == {"message", "details"}
    return str(document["details"]["applicationError"]["code"])


def test_a_body_that_is_too_large_is_refused(tight: Api) -> None:
    for size in (2049, 50_000, 3_000_000):
        said = tight.client.post(SET, content=b" " * size, headers={"content-type": "application/json"})
        assert problem(said, 413) == "BODY_TOO_LARGE"
        assert said.json()["details"]["applicationError"]["data"] == {"maxBytes": 2048}
    # nobody said how much would come
    for parts in (3, 200):
        said = tight.client.post(SET, content=(b" " * 1000 for _ in range(parts)), headers={"content-type": "application/json"})
        assert problem(said, 413) == "BODY_TOO_LARGE"
    whole = {"attendance": {"bookingId": "b", "sessionId": "s", "status": "ATTENDED"}}
    body = json.dumps(whole).encode().ljust(2048)
    assert tight.client.post(SET, content=body, headers={"content-type": "application/json"}).status_code == 200


def test_an_unknown_token_is_refused_before_the_body(tight: Api) -> None:
    # refused before the body is asked for
    said = tight.raw(QUERY + b"Content-Length: 1000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
    assert code_of(said, 401) == "UNAUTHENTICATED"


def test_a_body_that_is_too_slow_is_refused(tight: Api) -> None:
    said = tight.raw(QUERY + authorized(tight) + b"Content-Length: 100\r\n\r\n", b"{")
    assert code_of(said, 400) == "BODY_TOO_SLOW"
    assert b"connection: close" in said.lower()


def test_a_body_that_nobody_asked_for_and_that_never_ends(tight: Api) -> None:
    began = time.monotonic()
    head = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + authorized(tight) + b"\r\n"
    said = tight.raw(head, b"1\r\na\r\n", timeout=30)
    assert said.startswith(b"HTTP/1.1 200 ")
    # the connection is closed long before a keep-alive connection would be
    assert time.monotonic() - began < 20


def test_methods_and_paths_that_are_not_there(api: Api) -> None:
    said = api.client.put("/bookings/v2/attendance/x")
    assert problem(said, 405) == "METHOD_NOT_ALLOWED"
    assert said.headers["allow"] == "DELETE, GET, HEAD"
    assert api.client.get("/bookings/v2/attendance/set").status_code == 404
    for method, allow in (("GET", "POST"), ("PATCH", "POST"), ("OPTIONS", "POST"), ("TRACE", "POST")):
        assert api.client.request(method, "/v1/events").headers["allow"] == allow
    for path in (
        "/v1/",
        "/v1/nothing",
        "/bookings/v2/attendance/",
        "/bookings/v2/attendance/a/b",
        "/docs",
        "/redoc",
        "//v1/status",
    ):
        assert problem(api.client.get(path), 404) == "NOT_FOUND"
    head = api.client.head("/v1/events")
    assert (head.status_code, head.headers["allow"], head.content) == (405, "POST", b"")


def test_more_requests_than_are_worked_on_at_once(tight: Api) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(closing(socket.create_connection(tight.address, 10)))
            waiting.sendall(QUERY + authorized(tight) + b"Content-Length: 100\r\n\r\n{")
        assert wait_until(lambda: tight.client.get("/v1/status").status_code == 429, 5)
        assert tight.client.get("/healthz").status_code == 200, "health is told at all times"
    assert wait_until(lambda: tight.client.get("/v1/status").status_code == 200, 10)


def test_a_client_that_goes_away_leaves_nothing_behind(api: Api) -> None:
    for part in (QUERY, QUERY + authorized(api) + b"Content-Length: 100\r\n\r\n{"):
        with closing(socket.create_connection(api.address, 10)) as gone:
            gone.sendall(part)
    assert wait_until(lambda: in_flight(api) == 1, 5), "the one that asks"
    assert "Traceback" not in api.process.said()


def in_flight(api: Api) -> float:
    figures = httpx.get(f"{api.url}/metrics").text
    (line,) = [line for line in figures.splitlines() if line.startswith("attendance_api_requests_in_flight ")]
    return float(line.split()[1])
