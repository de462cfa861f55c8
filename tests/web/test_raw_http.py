"""HTTP/1.1 as it comes over the wire: what is one request, what is none, and what is never read as another."""

import contextlib
import itertools
import json

import pytest

from tests.support.raw import Closed, Raw, chunked, request
from tests.support.serving import Api, booking_name, event

STATUS, QUERY, EVENTS = "/v1/status", "/bookings/v2/attendance/query", "/v1/events"
JSON, CLOUDEVENT = "Content-Type: application/json", "Content-Type: application/cloudevents+json"
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
WEBSOCKET = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhl", "Sec-WebSocket-Version: 13")
UPGRADES = [(), H2C, WEBSOCKET, ("Connection: Upgrade", "Upgrade: TLS/1.0, h2c"), ("Upgrade: h2c",)]


def check_in() -> bytes:
    return json.dumps(event("check_in", booking_name(), "s1")).encode()


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("split", [False, True])
def test_an_upgrade_is_a_request_like_any_other(api: Api, upgrade: tuple[str, ...], framing: str, split: bool) -> None:
    body, extra = check_in(), () if framing == "length" else ("Transfer-Encoding: chunked",)
    sent = chunked(body[:20], body[20:]) if extra else body
    whole = request("POST", EVENTS, CLOUDEVENT, *upgrade, *extra, body=sent, token=api.tokens["publish"])
    with Raw(api.address) as raw:
        for _ in range(2):
            # the body in a segment of its own, as Java's client sends it
            raw.send(*((whole[: -len(sent)], sent) if split else (whole,)))
            answer = raw.answer()
            assert (answer.status, json.loads(answer.body)) == (202, {"accepted": 1})
            assert "upgrade" not in answer.headers


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("with_token", [True, False])
def test_a_body_is_never_another_request(api: Api, upgrade: tuple[str, ...], with_token: bool) -> None:
    token = api.tokens["all"] if with_token else ""
    hidden = request("GET", STATUS, token=api.tokens["all"])
    for path, framed in itertools.product((QUERY, STATUS, "/healthz", "/nowhere"), (False, True)):
        method = "POST" if path == QUERY else "GET"
        extra = ("Transfer-Encoding: chunked",) if framed else ()
        whole = request(method, path, JSON, *upgrade, *extra, body=chunked(hidden) if framed else hidden, token=token)
        with Raw(api.address) as raw:
            with contextlib.suppress(ConnectionError):
                raw.send(whole[:-10], whole[-10:], request("GET", "/openapi.json", "Connection: close"))
            answers = [raw.answer()]
            try:
                answers.append(raw.answer())
            except Closed:
                # whoever answers without the body may end the connection
                continue
            assert answers[1].status == 401, "what follows the body is the next request, and has no token"
            assert raw.until_closed() == b""


def test_requests_that_are_sent_ahead_are_answered_in_order(api: Api) -> None:
    token = api.tokens["all"]
    with Raw(api.address) as raw:
        raw.send(
            request("GET", "/healthz"),
            request("POST", QUERY, JSON, body=b"{}", token=token),
            request("POST", QUERY, JSON, body=b"{", token=token),
            request("POST", QUERY, JSON, "Transfer-Encoding: chunked", body=chunked(b"{", b"}"), token=token),
            request("GET", STATUS, "Connection: close"),
        )
        assert [raw.answer().status for _ in range(5)] == [200, 200, 400, 200, 401]
        assert raw.until_closed() == b""


@pytest.mark.parametrize("size", [1, 7])
def test_a_request_may_come_byte_by_byte(api: Api, size: int) -> None:
    body = check_in()
    for extra, sent in (((), body), (("Transfer-Encoding: chunked",), chunked(body))):
        whole = request("POST", EVENTS, CLOUDEVENT, *extra, body=sent, token=api.tokens["publish"])
        with Raw(api.address) as raw:
            raw.send(*(whole[at : at + size] for at in range(0, len(whole), size)))
            assert raw.answer().status == 202


def test_expect_100_continue_is_answered(api: Api) -> None:
    body, expect = check_in(), "Expect: 100-continue"
    head = request("POST", EVENTS, CLOUDEVENT, expect, f"Content-Length: {len(body)}", token=api.tokens["publish"])
    with Raw(api.address) as raw:
        assert raw.send(head).answer().status == 100
        assert raw.send(body).answer().status == 202
    with Raw(api.address) as raw:
        # strangers send no body
        assert raw.send(request("POST", QUERY, expect, "Content-Length: 1000")).answer().code == "UNAUTHENTICATED"


def test_http_1_0_is_answered_and_closed(api: Api) -> None:
    with Raw(api.address) as raw:
        raw.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert raw.answer().status == 200
        assert raw.until_closed() == b""
    with Raw(api.address) as raw:
        for _ in range(2):
            raw.send(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert raw.answer().headers["connection"] == "keep-alive"


TE, BODY = "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (("Content-Length: 2", "Content-Length: 3"), b"{}"),
        (("Content-Length: 2, 2",), b"{}"),
        (("Content-Length: +2",), b"{}"),
        (("Content-Length: -1",), b"{}"),
        (("Content-Length: 0x2",), b"{}"),
        (("Content-Length: 99999999999999999999",), b"{}"),
        (("Content-Length : 2",), b"{}"),
        (("Content-Length:\t2\0",), b"{}"),
        (("Transfer-Encoding: gzip",), BODY),
        (("Transfer-Encoding: identity",), BODY),
        (("Transfer-Encoding: xchunked",), BODY),
        (("Transfer-Encoding: chunked, identity",), BODY),
        (("Transfer-Encoding: chunked, chunked",), BODY),
        ((TE, TE), BODY),
        (("Transfer-Encoding : chunked",), BODY),
        ((TE,), b"2\r\n{}\r\nzz\r\n"),
        ((TE,), b"-2\r\n{}\r\n0\r\n\r\n"),
        ((TE,), b"0x2\r\n{}\r\n0\r\n\r\n"),
        ((TE,), b" 2\r\n{}\r\n0\r\n\r\n"),
        ((TE,), b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ((TE,), b"2\n{}\n0\n\n"),
        ((TE,), b"2\r\n{}XX0\r\n\r\n"),
        ((TE,), b"2;a\nb\r\n{}\r\n0\r\n\r\n"),
        ((TE,), b"\r\n2\r\n{}\r\n0\r\n\r\n"),
        (("X: a", " folded"), b""),
        (("X: a\0b",), b""),
        (("X: a\rY: b",), b""),
        (("X\0: a",), b""),
        (("X y: a",), b""),
        (("no colon",), b""),
        ((": empty",), b""),
    ],
)
def test_malformed_framing_is_a_400(api: Api, headers: tuple[str, ...], body: bytes) -> None:
    hidden = request("GET", STATUS, token=api.tokens["all"])
    with Raw(api.address) as raw:
        whole = request("POST", QUERY, JSON, *headers, body=body, token=api.tokens["all"]) + hidden
        assert raw.send(whole).answer().status == 400
        assert raw.until_closed() == b"", "nothing on this connection is read any more"


def test_a_length_beside_chunked_framing_does_not_count(api: Api) -> None:
    hidden = request("GET", STATUS, token=api.tokens["all"])
    for headers in (("Content-Length: 2", TE), (TE, "Content-Length: 200")):
        with Raw(api.address) as raw:
            whole = request("POST", QUERY, JSON, *headers, body=BODY, token=api.tokens["all"])
            raw.send(whole + hidden)
            assert raw.answer().status == 200
            assert raw.until_closed() == b"", "the connection ends, since others may count by the length"


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET /v1/status\r\n\r\n",
        b"GET /v1/status HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /v1/status HTTP/1.2\r\nHost: localhost\r\n\r\n",
        b"GET /v1/sta\0tus HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET  /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/status HTTP/1.1\rHost: localhost\r\r",
        b"G@T /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example.org/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost:81/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Name: \xff\r\n\r\n",
    ],
)
def test_malformed_heads_are_refused(api: Api, head: bytes) -> None:
    with Raw(api.address) as raw:
        assert raw.send(head).answer().status in (400, 404)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "localhost:80"])
def test_a_request_target_that_names_the_host(api: Api, host: str) -> None:
    with Raw(api.address) as raw:
        assert raw.send(request("GET", f"http://{host}/healthz")).answer().status == 200


@pytest.mark.parametrize(
    ("line", "header"),
    [("/v1/status", "X-Long: " + "a" * 40_000), ("/" + "a" * 40_000, "X: 1"), ("/", "\r\n".join(["X: 1"] * 101))],
)
def test_heads_over_the_limit_are_refused(api: Api, line: str, header: str) -> None:
    with Raw(api.address) as raw:
        assert raw.send(request("GET", line, header)).answer().status == 431


def test_heads_within_the_limit_are_answered(api: Api) -> None:
    with Raw(api.address) as raw:
        assert raw.send(request("GET", "/healthz", "X-Long: " + "a" * 30_000)).answer().status == 200
        assert raw.send(request("GET", "/healthz", *["X: 1"] * 90)).answer().status == 200


def test_the_preface_of_http_2_is_refused(api: Api) -> None:
    with Raw(api.address) as raw:
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + request("GET", "/healthz"))
        assert b" 200 " not in raw.until_closed()
