"""Serves the API in several processes on one socket; Granian's process manager starts, replaces and stops them."""

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

log = structlog.get_logger(__name__)
_POLL_SECONDS = 1.0
#: A process that stops is killed this long after the end of its stop timeout.
_GRACE_SECONDS = 5


class _Manager(MPServer):
    """Granian's process manager for processes that share a bound socket and run `_serve_process`."""

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
        # passed to each process as a Python socket: a spawned interpreter does not inherit file descriptors
        self._ssp, self._shd, self._sso = None, None, self._listening

    def _respawn_workers(self, workers: list[int], *args: Any, **kwargs: Any) -> None:
        log.error("an API process exited: starting another", processes=len(workers))
        super()._respawn_workers(workers, *args, **kwargs)

    def signal_handler_reload(self, *_: Any, **__: Any) -> None:
        # SIGHUP: a terminal that closes ends its processes
        self.signal_handler_interrupt()  # type: ignore[no-untyped-call]


def serve_many(settings: Settings, bound: socket.socket, processes: int) -> int:
    """Serves in several processes until SIGTERM or SIGINT. A process that ends by itself is replaced.

    Returns:
        The exit code: 0 after a signal, 1 if processes keep ending by themselves.

    Raises:
        worker.web.auth.TokensError: the token file is malformed.
    """
    configure_logs(settings)
    if settings.api_tokens is not None:
        TokenFile(settings.api_tokens)
    # not fork: it would copy locks that other threads hold
    multiprocessing.set_start_method("spawn", force=True)
    with tempfile.TemporaryDirectory(prefix="attendance-api-") as folder:
        os.environ[FOLDER] = folder
        try:
            _Manager(settings, bound, processes).serve(spawn_target=_serve_process)
        except SystemExit as error:
            log.error("API processes keep exiting: giving up, see the lines above")
            return int(error.code or 0)
        finally:
            del os.environ[FOLDER]
    return 0


def _serve_process(_: int, __: str | None, ___: Callable[[], Any], sockets: tuple[Any, socket.socket], *____: Any) -> None:
    """The main function of each process; the arguments are Granian's."""
    # Ctrl-C in a terminal reaches all processes: only the manager handles it, and stops the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(load_settings(), sockets[1], (signal.SIGTERM,), _until_orphaned)


async def _until_orphaned() -> None:
    """Returns when the manager has ended: nothing else would stop this process."""
    # the parent that started this process, even if it has ended by now
    manager = multiprocessing.parent_process()
    while manager is not None and manager.is_alive():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(_POLL_SECONDS)
