"""Bytes that are meant to hold, to fill or to slow the API: each ends in a bound that is counted, not timed."""

import contextlib
import gzip
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.raw import Answer, Closed, Raw, chunked, request
from tests.support.services.processes import wait_until
from tests.support.serving import Api
from worker.web.auth import Scope, create_token

STATUS, QUERY = "/v1/status", "/bookings/v2/attendance/query"
JSON, TE = "Content-Type: application/json", "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def tight(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with little patience, which drops clients that read nothing after a second."""
    limits = {"ATTENDANCE_API_BODY_TIMEOUT": "1s", "ATTENDANCE_API_MAX_REQUESTS": "6"}
    with Api(api.system, tmp_path_factory.mktemp("tight"), **limits) as one:
        yield one


def post(api: Api, *headers: str, body: bytes = b"", token: str = "all") -> bytes:
    return request("POST", QUERY, JSON, *headers, body=body, token=api.tokens[token])


def rests_on_nothing(api: Api) -> None:
    """Nothing of an attack is left: no request is under way but the one that asks."""
    assert wait_until(lambda: "attendance_api_requests_in_flight 1.0" in httpx.get(f"{api.url}/metrics").text, 10)
    assert "Traceback" not in api.process.said()


@pytest.mark.parametrize("name", ["Authorization", "Content-Length", "X-Other"])
def test_trailers_are_refused(api: Api, name: str) -> None:
    trailers = f"0\r\n{name}: Bearer {api.tokens['all']}\r\n\r\n".encode()
    for token, status in (("", 401), (api.tokens["all"], 400)):
        with Raw(api.address) as raw:
            raw.send(request("POST", QUERY, JSON, TE, f"Trailer: {name}", body=b"2\r\n{}\r\n" + trailers, token=token))
            assert raw.answer().status == status


@pytest.mark.parametrize("line", [b"X: " + b"y" * 1000 + b"\r\n", b"X" * 1000, b"\r\r\r\r", b"a:\r\n" * 300])
def test_a_trailer_that_never_ends_is_ended(api: Api, line: bytes) -> None:
    for head in (post(api, TE), request("GET", STATUS, TE), request("GET", "/healthz", TE)):
        with Raw(api.address) as raw, contextlib.suppress(ConnectionError):
            raw.send(head, b"2\r\n{}\r\n0\r\n")
            for _ in range(10_000):
                raw.send(line)
            pytest.fail("ten megabytes of a trailer were taken")
    rests_on_nothing(api)


@pytest.mark.parametrize("chunk", [b"1\r\n \r\n", b"1;" + b"e" * 200 + b"\r\n \r\n", b"00000001\r\n \r\n"])
def test_bodies_in_single_bytes_are_bounded(api: Api, chunk: bytes) -> None:
    with Raw(api.address) as raw, contextlib.suppress(ConnectionError, Closed):
        raw.send(post(api, TE), *(chunk * 20 for _ in range(2000)))
        assert raw.answer().status == 400
    rests_on_nothing(api)


def test_chunks_of_a_byte_within_the_bound_are_a_body(api: Api) -> None:
    body = b'{"query": {}}'.ljust(900)
    with Raw(api.address) as raw:
        sent = chunked(*(body[at : at + 1] for at in range(len(body))))
        assert raw.send(post(api, TE, body=sent)).answer().status == 200


@pytest.mark.parametrize("path", [STATUS, "/healthz", "/nowhere"])
def test_a_body_nobody_asked_for_ends_the_connection(api: Api, path: str) -> None:
    with Raw(api.address) as raw, contextlib.suppress(ConnectionError):
        raw.send(request("GET", path, TE, token=api.tokens["all"]))
        assert raw.answer().status in (200, 404)
        for _ in range(10_000):
            raw.send(b"400\r\n" + b"a" * 1024 + b"\r\n")
        pytest.fail("ten megabytes that nobody asked for were taken")


#: bodies that never end, and what each is refused for
UNENDED = [
    (("Content-Length: 100",), b"{", "BODY_TOO_SLOW"),
    ((TE,), b"1\r\n{\r\n", "BODY_TOO_SLOW"),
    ((TE,), b"5\r\n{", "BODY_TOO_SLOW"),
    ((TE,), b"", "BODY_TOO_SLOW"),
    ((TE,), chunked(*(b" " * 4096,) * 256, b" ").removesuffix(b"0\r\n\r\n"), "BODY_TOO_LARGE"),
    ((TE,), b"1\r\n \r\n" * 1100, "BODY_FRAGMENTED"),
    ((TE, "Content-Encoding: gzip"), b"4\r\nabcd\r\n", "MALFORMED_BODY"),
]


@pytest.mark.parametrize("is_slow", [True, False])
def test_bodies_that_never_end_leave_no_connection_open(api: Api, tmp_path: Path, is_slow: bool) -> None:
    # many at once: what is given up and what is answered meet in every order; and what is refused for what it holds is not
    # refused for its time, however busy this machine is
    limits = {"ATTENDANCE_API_BODY_TIMEOUT": "1s" if is_slow else "60s", "ATTENDANCE_API_MAX_REQUESTS": "100"}
    with Api(api.system, tmp_path, **limits, ATTENDANCE_API_REQUEST_TIMEOUT="90s") as one:
        for framing, begun, code in UNENDED:
            for _ in range(2 if is_slow == (code == "BODY_TOO_SLOW") else 0):
                with ExitStack() as stack:
                    many = [stack.enter_context(Raw(one.address)) for _ in range(20)]
                    for raw in many:
                        raw.send(post(one, *framing), begun)
                    assert {raw.answer().code for raw in many} == {code}
                    assert {raw.until_closed() for raw in many} == {b""}
        rests_on_nothing(one)


@pytest.mark.parametrize("method", ["POST", "QUERY", "OPTIONS", "BREW"])
def test_other_methods_spoil_no_public_answer(api: Api, method: str) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        with Raw(api.address) as raw:
            raw.send(request(method, path), request("GET", path))
            assert [raw.answer().status, raw.answer().status] == [405, 200]


def test_heads_that_come_too_slowly_and_silence_are_closed(tight: Api) -> None:
    for begun in (b"", b"GET /v1/status HTTP/1.1\r\nHost: local", request("GET", "/healthz")):
        with Raw(tight.address) as raw:
            raw.send(begun)
            assert b" 200 " in raw.until_closed() or begun != request("GET", "/healthz")


def test_slow_bodies_of_one_token_leave_room_for_others(tight: Api) -> None:
    other = create_token(tight.tokens_file, [Scope.READ], "another", None, 0)
    assert wait_until(lambda: get(tight, other).status == 200, 5)
    with ExitStack() as stack:
        slow = [stack.enter_context(Raw(tight.address)) for _ in range(12)]
        for raw in slow:
            raw.send(post(tight, "Content-Length: 100"), b"{")
        answers = [raw.answer() for raw in slow]
        codes = [each.code for each in answers]
        assert (codes.count("BODY_TOO_SLOW"), codes.count("TOO_MANY_REQUESTS")) == (3, 9), "half of six, for one token"
        assert all(each.headers["retry-after"] == "1" for each in answers if each.status == 429)
    with ExitStack() as stack:
        slow = [stack.enter_context(Raw(tight.address)) for _ in range(3)]
        for raw in slow:
            raw.send(post(tight, "Content-Length: 100"), b"{")
        assert wait_until(lambda: get(tight, tight.tokens["all"]).status == 429, 5)
        assert get(tight, other).status == 200
        assert get(tight, tight.tokens["all"], "/healthz").status == 200
    assert wait_until(lambda: get(tight, tight.tokens["all"]).status == 200, 10)


def get(api: Api, token: str, path: str = STATUS) -> Answer:
    with Raw(api.address) as raw:
        return raw.send(request("GET", path, token=token)).answer()


def test_idle_connections_hold_up_nobody(api: Api) -> None:
    with ExitStack() as stack:
        for _ in range(4096):
            stack.enter_context(socket.create_connection(api.address, 20))
        assert get(api, api.tokens["all"]).status == 200
        assert api.client.post(QUERY, json={}).status_code == 200
    rests_on_nothing(api)


@pytest.mark.parametrize("size", [10_000, 1_048_577, 50_000_000])
def test_gzip_is_decoded_within_the_limit(api: Api, size: int) -> None:
    packed = gzip.compress(b'{"query": {}}'.ljust(size), 9)
    for headers, sent in ((("Content-Encoding: gzip",), packed), (("Content-Encoding: GZIP", TE), chunked(packed))):
        with Raw(api.address) as raw:
            answer = raw.send(post(api, *headers, body=sent)).answer()
        assert (answer.status == 200) if size < 1_048_577 else (answer.code == "BODY_TOO_LARGE")
    rests_on_nothing(api)


def test_gzip_in_several_members_and_parts(api: Api) -> None:
    packed = gzip.compress(b'{"query"') + gzip.compress(b": {}}")
    with Raw(api.address) as raw:
        sent = chunked(*(packed[at : at + 3] for at in range(0, len(packed), 3)))
        assert raw.send(post(api, TE, "Content-Encoding: x-gzip", body=sent)).answer().status == 200


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:-8] + b"12345678", lambda b: b + b"more", lambda b: b"{}"])
def test_a_body_that_is_no_gzip_is_malformed(api: Api, spoil) -> None:  # type: ignore[no-untyped-def]
    with Raw(api.address) as raw:
        sent = spoil(gzip.compress(b"{}"))
        assert raw.send(post(api, "Content-Encoding: gzip", body=sent)).answer().code == "MALFORMED_BODY"


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "gzip;q=1", "x"])
@pytest.mark.parametrize("path", [QUERY, "/v1/events", "/bookings/v2/bulk/attendance/set", "/bookings/v2/attendance/count"])
def test_other_codings_are_refused_by_name(api: Api, path: str, coding: str) -> None:
    kind = "application/cloudevents+json" if path == "/v1/events" else "application/json"
    said = api.client.post(path, content=b"{}", headers={"content-type": kind, "content-encoding": coding})
    assert said.status_code == 415
    assert said.headers["accept-encoding"] == "gzip"
    error = said.json()["details"]["applicationError"]
    assert (error["code"], "Content-Encoding" in error["description"]) == ("CONTENT_ENCODING_NOT_SUPPORTED", True)


@pytest.mark.parametrize("coding", ["", "identity", "Identity,identity"])
def test_identity_is_accepted_as_no_coding(api: Api, coding: str) -> None:
    assert api.client.post(QUERY, json={}, headers={"content-encoding": coding}).status_code == 200


def test_a_name_that_comes_twice_among_many(api: Api) -> None:
    many = ",".join(f'"{n}": 1' for n in range(80_000))
    said = api.client.post(QUERY, content=f'{{{many}, "79999": 1}}', headers={"content-type": "application/json"})
    assert "'79999' occurs twice" in said.json()["message"]


def fill(raw: Raw, token: str) -> None:
    """Asks and reads nothing, until the buffers of both sides are full."""
    raw.socket.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while True:
            raw.send(request("GET", "/openapi.json", token=token) * 100)


def test_a_client_that_takes_no_answer_is_dropped(api: Api, tmp_path: Path) -> None:
    shorter = "from worker.cli.commands import main; from worker.web.http import server; server.UNREAD_SECONDS = 1; main()"
    with Api(api.system, tmp_path, command=(sys.executable, "-c", shorter, "api")) as one, Raw(one.address, 4096) as raw:
        fill(raw, one.tokens["all"])

        def is_dropped() -> bool:
            with contextlib.suppress(TimeoutError):
                try:
                    raw.send(b"x")
                except ConnectionError:
                    return True
            return False

        assert wait_until(is_dropped, 30)
        rests_on_nothing(one)


def test_a_client_that_takes_no_answer_holds_up_no_stop(api: Api, tmp_path: Path) -> None:
    with Api(api.system, tmp_path, ATTENDANCE_API_STOP_TIMEOUT="1s") as one, ExitStack() as stack:
        for _ in range(3):
            fill(stack.enter_context(Raw(one.address, 4096)), one.tokens["all"])
        stack.enter_context(Raw(one.address)).send(b"GET /v1/status HTT")
        assert get(one, one.tokens["all"], "/healthz").status == 200
        one.process.signal(signal.SIGTERM)
        assert one.process.wait(15) == 0, one.process.said()
        assert re.search(r"event=\"stopped with connections open\" connections=[34]\b", one.process.said())
        assert "Traceback" not in one.process.said()
