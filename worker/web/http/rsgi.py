"""Granian's own interface (RSGI) as ASGI, which FastAPI speaks.

Granian speaks ASGI too, but there it hides two things that have to be checked: the host of a request target in absolute
form, and that a request has no Host header.
"""

import asyncio
from typing import Any

from granian.rsgi import Scope as RSGIScope
from starlette.types import ASGIApp, Message, Scope

#: Where the ASGI scope keeps the host of a request target in absolute form; None for the usual form.
AUTHORITY = "attendance.authority"
#: Where it keeps the names of headers whose values are not ASCII: RSGI leaves those values out.
UNREADABLE = "attendance.unreadable"
#: How long the answer to a request whose body is given up waits for Granian to let go of that body.
_GIVE_UP_SECONDS = 0.05


class BodyBroken(Exception):
    """The request's body was cut short, was framed wrongly, or had trailers."""


class Bridge:
    """An RSGI application that passes each request on to an ASGI one; the ASGI application must not raise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: RSGIScope, protocol: Any) -> None:
        exchange = _Exchange(protocol, scope.headers.get("content-length"))
        await self._app(_asgi_scope(scope), exchange.receive, exchange.send)


def _asgi_scope(given: RSGIScope) -> Scope:
    headers: Any = given.headers
    items: list[tuple[str, str]] = headers.items()
    host, _, port = given.client.rpartition(":")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if given.http_version == "1" else given.http_version,
        "method": given.method,
        "scheme": given.scheme,
        "path": given.path,
        "root_path": "",
        "query_string": given.query_string.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in items],
        "client": (host.strip("[]"), int(port)),
        "server": None,
        AUTHORITY: given.authority,
    }
    if len(headers) > len({name for name, _ in items}):
        scope[UNREADABLE] = sorted(set(headers.keys()) - {name for name, _ in items})
    return scope


class _Exchange:
    """One request and its answer."""

    def __init__(self, protocol: Any, content_length: str | None) -> None:
        self._protocol = protocol
        self._parts: Any = None
        #: bytes still to come, where the request says how many
        self._missing = int(content_length) if content_length and content_length.isdecimal() else None
        self._ended = False
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._stream: Any = None

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
            BodyBroken: it does not end as HTTP has it.
        """
        if self._ended:
            await self._protocol.client_disconnect()
            return {"type": "http.disconnect"}
        if self._protocol is None:  # given up
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
        """After the empty part that ends a body nothing follows, unless that part stands for trailers or an error."""
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
                    self._give_up(body)
                return
            self._stream = self._protocol.response_stream(*self._head)
        await self._stream.send_bytes(body)
        if not more:
            self._stream = None

    def _give_up(self, answer: bytes) -> None:
        """Answers although the body has not ended.

        Granian holds the body until the application returns, and hyper looks whether it is held only when it has something
        to do: an answer that ends before that leaves the connection open for as long as the client sends nothing. So the
        answer ends later, and nothing here keeps the body.
        """
        assert self._head is not None
        stream = self._protocol.response_stream(*self._head)
        self._protocol = self._parts = None
        asyncio.get_running_loop().call_later(_GIVE_UP_SECONDS, stream.send_bytes, answer)
