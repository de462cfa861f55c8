"""A client of `GET /v1/live`: reads server-sent events as they come, in a thread."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from tests.support.services.processes import wait_until
from tests.support.serving import Api

Parameters = Sequence[tuple[str, str]]


class LiveEvent(NamedTuple):
    name: str
    id: str
    """The last event id after it, as a browser keeps it."""
    data: dict[str, Any]
    at: float
    """When it came, by `time.time`."""


class LiveStream:
    """One open stream; use as a context manager."""

    def __init__(self, api: Api, parameters: Parameters = (), *, token: str = "read", resume: str | None = None) -> None:
        self.events: list[LiveEvent] = []
        self.comments: list[str] = []
        self.retry_ms: list[int] = []
        self.has_ended = threading.Event()
        headers: dict[str, str] = {"authorization": f"Bearer {api.tokens[token]}"} if api.tokens else {}
        if resume is not None:
            headers["last-event-id"] = resume
        self._connection = HTTPConnection(*api.address, timeout=60)
        self._connection.request("GET", f"/v1/live?{urlencode(parameters)}", headers=headers)
        self.response: HTTPResponse = self._connection.getresponse()
        self.status, self.headers = self.response.status, dict(self.response.getheaders())
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()

    @property
    def values(self) -> dict[str, Any]:
        """All values as a client holds them: each snapshot begins anew, each update replaces what it names."""
        shown: dict[str, Any] = {}
        for each in list(self.events):
            if each.name == "snapshot":
                shown = {}
            if each.name in ("snapshot", "update"):
                for name, value in each.data.items():
                    shown[name] = {**shown.get(name, {}), **value} if name in ("sessions", "bookings") else value
        return shown

    def tally(self, session: str) -> Mapping[str, Any]:
        return self.values.get("sessions", {}).get(session) or {}

    def named(self, name: str) -> list[LiveEvent]:
        return [each for each in list(self.events) if each.name == name]

    def until(self, condition: Callable[[], object], timeout: float = 20) -> None:
        assert wait_until(lambda: bool(condition()), timeout), self.events[-5:]

    def _read(self) -> None:
        name, identity, data = "", "", ""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            while line := self.response.readline():
                text = line.decode().rstrip("\n")
                field, _, value = text.partition(": ") if not text.startswith(":") else (":", "", text[1:].strip())
                if field == ":":
                    self.comments.append(value)
                elif field in ("id", "id:"):
                    identity = value
                elif field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif field == "retry":
                    self.retry_ms.append(int(value))
                elif not text and name:
                    self.events.append(LiveEvent(name, identity, json.loads(data), time.time()))
                    name = data = ""
        self.has_ended.set()
