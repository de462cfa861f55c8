"""Adapts Granian's own interface (RSGI) to ASGI for FastAPI.

Granian supports ASGI too, but then hides two things that have to be checked: the host of a request target in absolute form,
and whether a request has no Host header.
"""

import asyncio
from typing import Any

from granian.rsgi import Scope as RSGIScope
from starlette.types import ASGIApp, Message, Scope

from worker.web.http.connection import Connection

#: Key of the ASGI scope: the host of a request target in absolute form; None in origin form.
AUTHORITY = "attendance.authority"
#: Key of the ASGI scope: the names of headers whose values are not ASCII. RSGI omits those values.
UNREADABLE = "attendance.unreadable"
#: Key of the ASGI scope: the `Connection` of the request.
CONNECTION = "attendance.connection"
#: A part of a stream is not sent while the client has not taken this many bytes of the parts before.
_MOST_UNREAD_BYTES = 64 * 1024
_UNREAD_POLL_SECONDS = 0.1
#: How long a response before the end of the body waits until Granian releases the body.
_RELEASE_SECONDS = 0.05


class BodyBroken(Exception):
    """The body of a request was incomplete, had wrong framing, or had trailers."""


class Bridge:
    """An RSGI application that passes each request to an ASGI application, which must not raise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: RSGIScope, protocol: Any) -> None:
        asgi = _asgi_scope(scope)
        exchange = _Exchange(protocol, scope.headers.get("content-length"), asgi[CONNECTION])
        await self._app(asgi, exchange.receive, exchange.send)


def _asgi_scope(rsgi: RSGIScope) -> Scope:
    headers: Any = rsgi.headers
    items: list[tuple[str, str]] = headers.items()
    host, _, port = rsgi.client.rpartition(":")
    client = host.strip("[]"), int(port)
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if rsgi.http_version == "1" else rsgi.http_version,
        "method": rsgi.method,
        "scheme": rsgi.scheme,
        "path": rsgi.path,
        "root_path": "",
        "query_string": rsgi.query_string.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in items],
        "client": client,
        "server": None,
        AUTHORITY: rsgi.authority,
        CONNECTION: Connection(client),
    }
    if len(headers) > len({name for name, _ in items}):
        scope[UNREADABLE] = sorted(set(headers.keys()) - {name for name, _ in items})
    return scope


class _Exchange:
    """One request and its response."""

    def __init__(self, protocol: Any, content_length: str | None, connection: Connection) -> None:
        self._protocol = protocol
        self._connection = connection
        self._parts: Any = None
        #: bytes of the body that have not arrived; None without a Content-Length
        self._missing = int(content_length) if content_length and content_length.isdecimal() else None
        self._ended = False
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._stream: Any = None
        #: bytes of a stream that the client may not have taken yet, at the most
        self._unread = 0

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
            BodyBroken: the body does not end as HTTP requires.
        """
        if self._ended:
            await self._protocol.client_disconnect()
            return {"type": "http.disconnect"}
        if self._protocol is None:  # answered early
            return {"type": "http.disconnect"}
        if self._parts is None:
            self._parts = aiter(self._protocol)
        part = await anext(self._parts)
        if not part:
            await self._end()
        elif self._missing is not None:
            self._missing -= len(part)
            self._ended = self._missing <= 0
        return {"type": "http.request", "body": part, "more_body": not self._ended}

    async def _end(self) -> None:
        """An empty part ends the body. Another part after it means trailers or an error."""
        self._ended = True
        try:
            await anext(self._parts)
        except StopAsyncIteration:
            return
        raise BodyBroken

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
            self._head = message["status"], headers
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._stream is None:
            assert self._head is not None
            if not more:
                if self._parts is None or self._ended:
                    self._protocol.response_bytes(*self._head, body)
                else:
                    self._answer_early(body)
                return
            self._stream = self._protocol.response_stream(*self._head)
        elif more and self._unread > _MOST_UNREAD_BYTES:
            await self._until_read()
        self._unread += len(body)
        await self._stream.send_bytes(body)
        if not more:
            self._stream = None

    async def _until_read(self) -> None:
        """Waits until the client has taken most of what was sent: Granian would keep it without a limit."""
        while (unread := self._connection.unread()) > _MOST_UNREAD_BYTES:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(_UNREAD_POLL_SECONDS)
        self._unread = unread

    def _answer_early(self, content: bytes) -> None:
        """Answers before the end of the request's body.

        Granian holds the body until the application returns, and hyper only checks for that when it has something else to do.
        If the response ends before Granian releases the body, the connection stays open until the client sends something. So
        no reference to the body is kept here, and the response ends later.
        """
        assert self._head is not None
        stream = self._protocol.response_stream(*self._head)
        self._protocol = self._parts = None
        asyncio.get_running_loop().call_later(_RELEASE_SECONDS, stream.send_bytes, content)
