"""Kills a command at a chosen moment: its requests to Redis pass through a gate that counts them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.commands import Command
from tests.support.services.ports import LOOPBACK

#: An argument of the request that begins or resumes an operation (`operation.lua`).
_TAKES = b"\r\ntake\r\n"


class Moment(NamedTuple):
    """When a command is killed."""

    request: int = 1
    """At so manyth request to Redis, counted from the one that begins or resumes its operation, or from `after`, …"""
    arrives: bool = True
    """… after Redis got it; else instead of it."""
    pause: float = 0.0
    """And so much later, seconds."""
    after: bytes = _TAKES
    """What the first of these requests holds."""


class Gate:
    """An address of a Redis for one command. If the request of the moment must not arrive, nothing passes from it on."""

    def __init__(self, redis: str, moment: Moment) -> None:
        self.reached = threading.Event()
        parts = urlsplit(redis)
        self._target = (parts.hostname, parts.port or 6379)
        self._moment = moment
        self._requests = 0
        self._listener = socket.create_server((LOOPBACK, 0))
        user, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{user}{at}{LOOPBACK}:{self._listener.getsockname()[1]}").geturl()
        self._open = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                threading.Thread(target=self._requests_pass, args=(client, server), daemon=True).start()
                threading.Thread(target=_pass, args=(server, client), daemon=True).start()

    def _requests_pass(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._requests += bool(self._requests) or self._moment.after in data
                is_reached = self._requests >= self._moment.request
                if not is_reached or self._moment.arrives:
                    server.sendall(data)
                if is_reached:
                    self.reached.set()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


def kill_at(moment: Moment, start: Callable[[str], Command], redis: str) -> Command:
    """Kills a command at a moment, if it has not ended before; returns it when it has ended.

    Args:
        moment: see `Moment`.
        start: starts it with this address of Redis.
        redis: the address of Redis.
    """
    with Gate(redis, moment) as gate:
        command = start(gate.url)
        while not gate.reached.wait(0.05) and command.runs(0):
            pass
        command.runs(moment.pause)
        command.kill()
        command.wait()
    return command
