"""HTTP on a connection: uvicorn's, with bounds on what comes before a request reaches the app, and our shape for its errors."""

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_CONNECTIONS = 4096
#: One read of the event loop may bring this much, a body's beginning among it.
_READ_BYTES = 256 * 1024


class _HeadTooLarge(Exception):
    """Raised inside the parser, which ends the request."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses heads that are too large, requests that take too long to arrive, and connections beyond a number.

    ``seconds``: how long a request may take to arrive, from its first byte, or from the beginning of the connection.
    """

    seconds = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arriving: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._head_complete = False
        self._await_request()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "TOO_MANY_CONNECTIONS", "this process has too many connections: ask again")

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_request()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._arriving is None:
            self._await_request()
        if not self._head_complete:
            # a header that never ends is kept by the parser until it does
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._head_complete and self._head_bytes > MAX_HEAD_BYTES + _READ_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_complete = False
        self._parsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            raise _HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_complete, self._head_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._forget_request()
        self._head_complete = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - as uvicorn calls it
        """Of whatever the parser does not take for HTTP."""
        if self._parsed_bytes > MAX_HEAD_BYTES or (self.headers is not None and len(self.headers) >= MAX_HEADERS):
            self._refuse_head()
        else:
            self._refuse(400, "MALFORMED_REQUEST", "this is no HTTP/1.1 request")

    _parsed_bytes = 0

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _await_request(self) -> None:
        self._arriving = self.loop.call_later(self.seconds, self._too_slow)

    def _forget_request(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _too_slow(self) -> None:
        self._arriving = None
        if self.transport.is_closing():
            return
        if self._head_bytes and not self._head_complete:
            self._refuse(400, "REQUEST_TOO_SLOW", f"the request was not there within {self.seconds:g} s")
        else:
            # nothing was asked, or the app has answered and only the rest of a body is missing
            self.transport.close()

    def _refuse_head(self) -> None:
        said = f"line and headers have more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
        self._refuse(400, "HEAD_TOO_LARGE", said)

    def _refuse(self, status: int, code: str, description: str) -> None:
        """Answers without the app, and ends the connection."""
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            # in the middle of another answer nothing can be said
            self.transport.close()
            return
        details = {"applicationError": {"code": code, "description": description, "data": {}}}
        body = orjson.dumps({"message": description, "details": details})
        reason = {400: b"Bad Request", 503: b"Service Unavailable"}[status]
        head = [
            b"HTTP/1.1 %d %b" % (status, reason),
            *(b"%b: %b" % header for header in self.server_state.default_headers),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
            *([b"retry-after: 1"] if status == 503 else []),
        ]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self.transport.close()
