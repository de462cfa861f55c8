"""Serves the API: binds, then runs one process or several on the same socket, and ends them gracefully."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from worker.ending import end
from worker.logs import configure_client_logs, configure_logs
from worker.settings import Settings, load_settings
from worker.web.app import create_app
from worker.web.gate import is_loopback
from worker.web.meters import FOLDER
from worker.web.protocol import BoundedProtocol
from worker.web.tokens import TokenFile

log = structlog.get_logger()
_LOOK_SECONDS = 0.1
_KEEP_ALIVE_SECONDS = 30
_BACKLOG = 1024


class ServeError(Exception):
    """The API cannot be served; the message says why and what to do."""


class _Server(uvicorn.Server):
    """Leaves signals to the command, which is asked to stop in its own way."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(settings: Settings) -> socket.socket:
    """A socket at ``ATTENDANCE_API_BIND``, listening.

    Raises:
        ServeError: the address is taken, is not this machine's, or is not its own while there are no tokens.
    """
    host, port = settings.api_address
    if settings.api_tokens is None and not is_loopback(host):
        raise ServeError(
            f"ATTENDANCE_API_BIND: without ATTENDANCE_API_TOKENS this machine alone is served, {host} would let others in: "
            "set 127.0.0.1:8080, or make tokens with `attendance tokens create`"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        said = error.strerror or str(error)
        raise ServeError(f"ATTENDANCE_API_BIND: cannot listen at {settings.api_bind} ({said}): set another address") from None
    bound.set_inheritable(True)
    return bound


async def serve(settings: Settings, stop: asyncio.Event, bound: socket.socket) -> None:
    """Serves in this process until ``stop``; then requests under way are finished, within ``ATTENDANCE_API_STOP_TIMEOUT``.

    Raises:
        worker.web.tokens.TokensError: the tokens' file cannot be used.
    """
    configure_logs(settings)
    configure_client_logs(settings)
    server = _server(settings, create_app(settings))
    served = "this machine alone, without a token" if settings.api_tokens is None else f"tokens of {settings.api_tokens}"
    # what was imported and built by now stays: a full collection would walk it for 50 ms, with requests waiting
    gc.collect()
    gc.freeze()
    log.info("serving", address=address_of(bound), to=served)
    if settings.api_tokens is not None and not settings.api_tokens.exists():
        log.warning("nobody gets in: the file of tokens is not there; `attendance tokens create` makes it")
    serving, stopped = asyncio.create_task(server.serve([bound])), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        await end((serving, stopped))


def serve_many(settings: Settings, bound: socket.socket, processes: int) -> int:
    """Serves in so many processes until SIGTERM or SIGINT; if one ends by itself, it ends the others. The exit code.

    Raises:
        worker.web.tokens.TokensError: the tokens' file cannot be used.
    """
    if settings.api_tokens is not None:
        TokenFile(settings.api_tokens)
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    with tempfile.TemporaryDirectory(prefix="attendance-api-") as folder:
        os.environ[FOLDER] = folder
        # new interpreters: a fork would share what threads hold
        context = get_context("spawn")
        children = [context.Process(target=_serve_child, args=(bound,)) for _ in range(processes)]
        for child in children:
            child.start()
        _until_one_ends(children, stopping)
        for child in children:
            child.terminate()
        grace = settings.api_stop_timeout.total_seconds() + 5
        for child in children:
            child.join(grace)
            child.kill()
            child.join()
    return 0 if stopping and all(child.exitcode == 0 for child in children) else 1


def address_of(bound: socket.socket) -> str:
    """``http://host:port`` of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def run_until_stopped(settings: Settings, bound: socket.socket) -> None:
    """`serve` on the quickest loop there is, until SIGTERM or SIGINT."""

    async def running() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, stop, bound)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(running())


def _serve_child(bound: socket.socket) -> None:
    # Ctrl-C in a terminal reaches the children too; the parent ends them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())
    settings = load_settings()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_child(settings, bound))


async def _child(settings: Settings, bound: socket.socket) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(settings, stop, bound)


def _until_one_ends(children: Sequence[BaseProcess], stopping: list[int]) -> None:
    while not stopping and all(child.is_alive() for child in children):
        children[0].join(_LOOK_SECONDS)


def _server(settings: Settings, app: FastAPI) -> uvicorn.Server:
    protocol: Any = type("Protocol", (BoundedProtocol,), {"seconds": settings.api_body_timeout.total_seconds() + 1})
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(settings.api_stop_timeout.total_seconds()),
        )
    )


def _loop_factory() -> Any:
    try:
        import uvloop  # not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop
