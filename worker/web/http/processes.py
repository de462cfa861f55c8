"""Serves the API in several processes on one socket: Granian's process manager starts, replaces and ends them."""

import asyncio
import math
import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import structlog
from granian.constants import Interfaces
from granian.server.mp import MPServer

from worker.logs import configure_logs
from worker.settings import Settings, load_settings
from worker.web.auth import TokenFile
from worker.web.http.server import run
from worker.web.metrics import FOLDER

log = structlog.get_logger()
_LOOK_SECONDS = 1.0
#: How much longer than its own time to stop a process has before it is killed.
_GRACE_SECONDS = 5


class _Manager(MPServer):
    """Granian's process manager; its processes share a socket that is already bound, and run `_serve_process`."""

    def __init__(self, settings: Settings, bound: socket.socket, processes: int) -> None:
        self._listening = bound
        super().__init__(
            __name__,
            interface=Interfaces.RSGI,
            workers=processes,
            respawn_failed_workers=True,
            workers_kill_timeout=math.ceil(settings.api_stop_timeout.total_seconds()) + _GRACE_SECONDS,
            log_enabled=False,
        )

    def _init_shared_socket(self) -> None:
        # given to each process as a socket of Python: a new interpreter has none of our file descriptors
        self._ssp, self._shd, self._sso = None, None, self._listening

    def _respawn_workers(self, workers: list[int], *given: Any, **named: Any) -> None:
        log.error("a process ended by itself: another takes its place", processes=len(workers))
        super()._respawn_workers(workers, *given, **named)

    def signal_handler_reload(self, *_: Any, **__: Any) -> None:
        # a terminal that closes ends what runs in it
        self.signal_handler_interrupt()  # type: ignore[no-untyped-call]


def serve_many(settings: Settings, bound: socket.socket, processes: int) -> int:
    """Serves in so many processes until SIGTERM or SIGINT. One that ends by itself is replaced while the others serve on.

    Returns:
        The exit code: 0 where it was told to stop, 1 where a process ends again and again.

    Raises:
        worker.web.auth.TokensError: the tokens' file cannot be used.
    """
    configure_logs(settings)
    if settings.api_tokens is not None:
        TokenFile(settings.api_tokens)
    # new interpreters: a fork would share what threads hold
    multiprocessing.set_start_method("spawn", force=True)
    with tempfile.TemporaryDirectory(prefix="attendance-api-") as folder:
        os.environ[FOLDER] = folder
        try:
            _Manager(settings, bound, processes).serve(spawn_target=_serve_process)
        except SystemExit as ended:
            log.error("processes end again and again: see what they said above")
            return int(ended.code or 0)
        finally:
            del os.environ[FOLDER]
    return 0


def _serve_process(_: int, __: str | None, ___: Callable[[], Any], sockets: tuple[Any, socket.socket], *____: Any) -> None:
    """What each process runs; the arguments are Granian's."""
    # Ctrl-C in a terminal reaches every process: the manager ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(load_settings(), sockets[1], (signal.SIGTERM,), _until_orphaned)


async def _until_orphaned() -> None:
    """Returns when the manager is gone: nobody else would end this process."""
    # as it was when this process was started: it may be gone by now
    manager = multiprocessing.parent_process()
    while manager is not None and manager.is_alive():  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(_LOOK_SECONDS)
