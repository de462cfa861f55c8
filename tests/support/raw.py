"""A connection to the API on which tests write bytes as they like."""

import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

SECONDS = 40.0


class Answer(NamedTuple):
    """One answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error in the API's own shape."""
        document = json.loads(self.body)
        assert set(document) == {"message", "details"}
        return str(document["details"]["applicationError"]["code"])


class Closed(Exception):
    """The server closed the connection instead."""


class Raw:
    """One connection; every wait ends after `SECONDS`."""

    def __init__(self, address: tuple[str, int], receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(SECONDS)
        self.socket.connect(address)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Self:
        for part in parts:
            self.socket.sendall(part)
        return self

    def answer(self, method: str = "GET") -> Answer:
        """The next answer. Raises Closed where there is none."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        size = 0 if method == "HEAD" or status < 200 or status == 204 else int(headers["content-length"])
        while len(self._buffer) < size:
            self._more()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(status, headers, body)

    def until_closed(self) -> bytes:
        """What else the server says until it closes the connection; fails where it does not within `SECONDS`."""
        try:
            while True:
                self._more()
        except Closed:
            return self._buffer

    def _more(self) -> None:
        try:
            received = self.socket.recv(65536)
        except ConnectionError:
            received = b""
        if not received:
            raise Closed
        self._buffer += received


def request(method: str, path: str, *headers: str, body: bytes = b"", token: str = "", host: str = "localhost") -> bytes:
    """A request's bytes: Host, the token and a length are added, the last where there is a body and no other framing."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*parts: bytes) -> bytes:
    """A body in chunked framing, without trailers."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def asked(answer: Answer) -> Any:
    """The JSON of an answer that must be a 200."""
    assert answer.status == 200, answer
    return json.loads(answer.body)
