"""Serves the API in this process with Granian (hyper, in Rust) on a bound socket, and stops gracefully."""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing, suppress
from typing import Any

import structlog
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from uvloop import new_event_loop

from worker.logs import configure_client_logs, configure_logs
from worker.settings import Settings, changed, installed_version
from worker.tasks import cancel_all
from worker.web.app import create_app
from worker.web.http.request_target import MAX_HEAD_BYTES
from worker.web.http.rsgi import Bridge
from worker.web.middleware import is_loopback
from worker.web.services import Services

log = structlog.get_logger(__name__)
MAX_CONNECTIONS = 8192
#: Open files of the process in addition to connections.
_OTHER_FILES = 256
_BACKLOG = 1024
#: A client that does not read its response for this long is disconnected.
UNREAD_SECONDS = 30
#: The kernel's buffer for a response that the client does not read.
_SEND_BUFFER_BYTES = 128 * 1024
#: How long connections may take to end after cancellation.
_END_SECONDS = 1.0


class ServeError(Exception):
    """The API cannot be served; the message says why and what to do."""


class _Server(Server):
    """Granian's embedded server on a bound socket."""

    def __init__(self, app: Bridge, bound: socket.socket, settings: Settings) -> None:
        self._listening = bound
        # HTTP/1.1 only: with HTTP/2, Granian has no timeout for a connection that sends nothing, and one connection may open
        # many streams
        super().__init__(
            app,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=_connections(),
            http1_settings=HTTP1Settings(
                header_read_timeout=int(settings.api_body_timeout.total_seconds() * 1000),
                max_buffer_size=MAX_HEAD_BYTES,
            ),
            log_enabled=False,
        )

    def _init_shared_socket(self) -> None:
        # a duplicate, since Granian closes it when it stops
        arguments: tuple[Any, ...] = (os.dup(self._listening.fileno()), False)
        self._ssp = None
        self._shd: Any = SocketHolder(*arguments, *([_BACKLOG] if sys.platform == "linux" else []))


def bind(settings: Settings) -> socket.socket:
    """A socket that listens at ``ATTENDANCE_API_BIND``.

    Raises:
        ServeError: the address is in use or not an address of this machine; or it is not loopback, and there are no tokens.
    """
    host, port = settings.api_address
    if settings.api_tokens is None and not is_loopback(host):
        raise ServeError(
            f"ATTENDANCE_API_BIND: without ATTENDANCE_API_TOKENS the API listens on loopback only, not at {host}: "
            "set 127.0.0.1:8080, or create tokens with `attendance tokens create`"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServeError(f"ATTENDANCE_API_BIND: cannot listen at {settings.api_bind} ({reason}): set another address") from None
    # accepted connections inherit these options
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    return bound


async def serve(settings: Settings, stop: asyncio.Event, bound: socket.socket) -> None:
    """Serves until ``stop`` is set, then finishes the requests in flight within ``ATTENDANCE_API_STOP_TIMEOUT``.

    Args:
        bound: the socket of `bind`; it is closed as soon as ``stop`` is set.

    Raises:
        worker.web.auth.TokensError: the token file is malformed.
    """
    configure_logs(settings)
    configure_client_logs(settings)
    app = create_app(settings)
    clients = "this machine only, without tokens" if settings.api_tokens is None else f"tokens of {settings.api_tokens}"
    # objects built until now live as long as the process: without the freeze each full collection takes 50 ms for them
    gc.collect()
    gc.freeze()
    with closing(bound):
        port, address = bound.getsockname()[1], address_of(bound)
        async with app.router.lifespan_context(app):
            server = _Server(Bridge(app), bound, settings)
            serving, stopped = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
            log.info("serving", address=address, to=clients, version=installed_version(), **changed(settings))
            if settings.api_tokens is not None and not settings.api_tokens.exists():
                log.warning("tokens unreadable: the token file does not exist; `attendance tokens create` creates it")
            try:
                await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
                bound.close()
                server.stop()  # type: ignore[no-untyped-call]
                services: Services = app.state.services
                services.live.end()
                await asyncio.wait((serving,), timeout=_END_SECONDS)
                for task in tuple(services.streaming):
                    # its client does not read
                    task.cancel()
                await _until_ended(serving, services.running, settings.api_stop_timeout.total_seconds(), port)
            finally:
                await cancel_all((serving, stopped))


async def _until_ended(serving: "asyncio.Task[None]", running: set["asyncio.Task[Any]"], seconds: float, port: int) -> None:
    """Waits for the requests in flight; answers late ones with 503, then closes the remaining connections."""
    await asyncio.wait((serving,), timeout=seconds)
    for task in tuple(running):
        task.cancel()
    await asyncio.wait((serving,), timeout=_END_SECONDS)
    if not serving.done():
        log.warning("stopped with connections open", connections=_cut_connections(port))
        await asyncio.wait((serving,), timeout=_END_SECONDS)
    if serving.done():
        serving.result()


def _cut_connections(port: int) -> int:
    """Shuts down the connections of this process at the port: Granian would wait for a client that never reads."""
    cut = 0
    for name in os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            if connection.getsockname()[1:2] == (port,):
                connection.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def _connections() -> int:
    """The most connections that this process accepts; more wait in the backlog. Raises the limit of open files if needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAX_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, max(16, soft - _OTHER_FILES))


def address_of(bound: socket.socket) -> str:
    """``http://host:port`` of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def run_until_stopped(settings: Settings, bound: socket.socket) -> None:
    """Runs `serve` until SIGTERM or SIGINT."""
    run(settings, bound, (signal.SIGTERM, signal.SIGINT))


def run(
    settings: Settings,
    bound: socket.socket,
    signals: Sequence[signal.Signals],
    until: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Runs `serve` until one of the signals arrives, or ``until`` returns."""

    async def running() -> None:
        stop = asyncio.Event()
        for number in signals:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        watching = asyncio.create_task(until()) if until else None
        if watching:
            watching.add_done_callback(lambda _: stop.set())
        try:
            await serve(settings, stop, bound)
        finally:
            await cancel_all([watching] if watching else [])

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(running())
