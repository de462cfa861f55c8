"""The port of a worker: metrics, liveness and readiness.

It answers from a thread of its own, also while the event loop recovers tables or is blocked. Python's own HTTP server does:
a framework would need an event loop, and what is asked is four paths, once in some seconds. What it lacks is set here: a
connection has a limit of time, and there are few of them.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.state import health_of
from worker.settings import Settings, SettingsError, installed_version

#: If the port is taken, most likely by another worker on this machine, the next ones are tried, so many in all.
PORTS = 16
_CONNECTIONS = 16
#: A connection is closed after so long, seconds.
_CONNECTION_SECONDS = 10.0
#: No connection is taken for so long after the system refused one, as it does without free file descriptors, seconds.
_REFUSED_SECONDS = 0.25
#: Errors of an address that this machine does not have, as ::1 where IPv6 is switched off.
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"

Answer = tuple[int, str, bytes]
"""Status, content type and body."""


class MonitoringServer:
    """Serves one worker's metrics and health. Use as a context manager.

    Args:
        settings: `metrics_bind` and the tenant's prefix.
        metrics: what it serves.
    """

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self._server = _listen(settings, _answers(settings, metrics))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="monitoring", daemon=True)
        self.address = _url(self._server)

    def __enter__(self) -> MonitoringServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def status_of(settings: Settings, metrics: WorkerMetrics) -> dict[str, Any]:
    """What `/status` answers: the worker, its health, its partitions."""
    state, now = metrics.state, monotonic()
    health = health_of(state, now)
    return {
        "service": "attendance-worker",
        "version": installed_version(),
        "prefix": settings.topic_prefix,
        "pid": os.getpid(),
        "live": health.live,
        "ready": health.ready,
        "reason": health.reason,
        "recovery": state.recovery and {"offsets": state.recovery[0], "remaining": state.recovery[1]},
        "partitions": [
            {
                "partition": each.number,
                "state": each.phase.value,
                "freshnessSeconds": None if each.fresh_at is None else round(now - each.fresh_at, 1),
                "lag": dict(each.lag),
            }
            for each in state.partitions
        ],
    }


def _answers(settings: Settings, metrics: WorkerMetrics) -> dict[str, Callable[[], Answer]]:
    def health(aspect: str) -> Answer:
        found = health_of(metrics.state, monotonic())
        good = getattr(found, aspect)
        return 200 if good else 503, _JSON, _encoded({aspect: good, "reason": found.reason})

    return {
        "/metrics": lambda: (200, _TEXT, metrics.text()),
        "/livez": lambda: health("live"),
        "/readyz": lambda: health("ready"),
        "/status": lambda: (200, _JSON, _encoded(status_of(settings, metrics))),
    }


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    allow_reuse_port = False

    def __init__(
        self, family: socket.AddressFamily, address: tuple[Any, ...], answers: dict[str, Callable[[], Answer]]
    ) -> None:
        self.address_family = family
        self.answers = answers
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # a worker that is started again takes its port although the last connections to it are not forgotten yet
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # HTTPServer asks the resolver for the name of this machine, which may take long and is not needed
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            # the connection still waits to be taken: without a pause this thread would try again and again
            sleep(_REFUSED_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system has no thread left
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        timer = threading.Timer(_CONNECTION_SECONDS, _disconnect, (request,))
        timer.daemon = True
        try:
            timer.start()
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Does nothing: a client that goes away is no news, and the answers raise nothing."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "attendance-worker"
    sys_version = ""
    timeout = _CONNECTION_SECONDS

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        answer = self.server.answers.get(self.path.partition("?")[0])
        paths = ", ".join(self.server.answers)
        status, kind, body = answer() if answer else (404, _JSON, _encoded({"message": f"the paths here are {paths}"}))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing: a line for each scrape would be most of the log."""


def _disconnect(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


def _listen(settings: Settings, answers: dict[str, Callable[[], Answer]]) -> _Server:
    host, first = settings.metrics_address
    reason = ""
    try:
        # a name may stand for several addresses: the first that this machine has is used
        for family, *_, address in socket.getaddrinfo(host, first, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            try:
                return _first_free(family, address, answers)
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno not in _NO_ADDRESS:
                    break
    except socket.gaierror as error:
        reason = error.strerror or str(error)
    raise SettingsError(f"ATTENDANCE_METRICS_BIND: cannot listen at {settings.metrics_bind} ({reason}): set another address")


def _first_free(family: socket.AddressFamily, address: tuple[Any, ...], answers: dict[str, Callable[[], Answer]]) -> _Server:
    host, first, *others = address
    for port in range(first, min(first + PORTS, 65536)) if first else ():
        try:
            return _Server(family, (host, port, *others), answers)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    # the last resort is any free port: a worker is more important than the place of its metrics
    return _Server(family, (host, 0, *others), answers)


def _url(server: _Server) -> str:
    host, port = server.server_address[:2]
    name = host.decode() if isinstance(host, bytes | bytearray) else str(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
