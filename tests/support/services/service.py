"""The life of one service process, and of several that are one service: start, stop, faults, log, clean-up."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from .errors import ServiceError, ServiceStartFailed
from .ports import ReservedPort
from .processes import spawn, tail_of_file, wait_until


class Service(Protocol):
    """What every service offers to tests, whoever runs it.

    All calls block until they are true: in a coroutine use `await asyncio.to_thread(service.restart)`.
    """

    @property
    def owned(self) -> bool:
        """Whether this harness started it, so that tests may do faults to it."""

    def start(self) -> None:
        """Start and wait until it is ready. Raises ServiceUnavailable or ServiceStartFailed."""

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM, SIGKILL after a bound); data folder and port stay."""

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. Data folder and port stay."""

    def pause(self) -> None:
        """SIGSTOP; returns when the process has stopped. Its connections stay open and say nothing."""

    def resume(self) -> None:
        """SIGCONT."""

    def restart(self) -> None:
        """stop() where it still runs, then start(), with the same data folder and port."""

    def close(self) -> None:
        """stop() for good: the data folder is deleted and the port given back. May be repeated."""

    def log_tail(self, lines: int = 40) -> str:
        """The last `lines` lines of its log."""


class Broker(Service, Protocol):
    """A Kafka-compatible broker or cluster."""

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:PORT`, with several brokers joined by commas, as clients take it."""

    @property
    def url(self) -> str:
        """`kafka://127.0.0.1:PORT`, with several brokers joined by semicolons, as Faust takes it."""


class Redis(Service, Protocol):
    """A Redis or Valkey server, or a cluster of them."""

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:PORT/0`; of a cluster, its first node."""


class ServiceProcess(ABC):
    """One process on one reserved port of 127.0.0.1 with its own temporary data folder, which also holds its log.

    Subclasses say the command line and how readiness shows. The process ends with close(), with this Python's exit,
    and with this Python's death. Only after the last is the data folder left behind, in the system's temporary folder.
    """

    start_timeout: float = 60.0  # seconds until ready
    stop_timeout: float = 20.0  # seconds from SIGTERM to SIGKILL

    def __init__(self, name: str) -> None:
        self.name = name
        self._port = ReservedPort()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._owner = os.getpid()

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line; may raise ServiceUnavailable."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves clients now; must return within about a second."""

    def prepare(self) -> None:
        """Make the data folder and what must be in it before the process starts. Called at every start."""
        self.folder.mkdir(exist_ok=True)

    @property
    def owned(self) -> bool:
        return True

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return self._port.address

    @property
    def folder(self) -> Path:
        """The data folder, made when first asked for."""
        if self._closed:
            raise ServiceError(f"{self.name} was closed")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"attendance-{self.name}-"))
            atexit.register(self._close_at_exit)
        return self._folder

    @property
    def running(self) -> bool:
        """Whether its process exists (paused counts)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id. Raises ServiceError when it does not run."""
        return self._running_process().pid

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the process without waiting for it. Raises ServiceError when it already runs."""
        if self.running:
            raise ServiceError(f"{self.name} already runs (pid {self.pid})")
        self.prepare()
        try:
            self._process = spawn(self.command(), log=self.folder / self._log_name, cwd=self.folder)
        except OSError as refused:
            raise ServiceStartFailed(f"{self.name} could not be executed: {refused}") from refused

    def wait_ready(self) -> None:
        """Wait until it serves. Raises ServiceStartFailed, with the process gone, when it died or is late."""
        process = self._process
        if process is None:
            raise ServiceError(f"{self.name} was not launched")
        ready = False

        def settled() -> bool:
            nonlocal ready
            ready = process.poll() is None and self.is_ready()
            return ready or process.poll() is not None

        wait_until(settled, self.start_timeout)
        if ready:
            return
        died = process.returncode is not None
        what = f"exited with {process.returncode}" if died else f"was not ready after {self.start_timeout:.0f} s"
        self.kill()
        raise ServiceStartFailed(f"{self.name} {what} while starting; the end of its log:\n{self.log_tail()}")

    def stop(self) -> None:
        self.ask_to_end()
        self.await_end()

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting; a paused process is resumed, or it would never take the signal."""
        if self._process is not None and self.running:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)

    def await_end(self) -> None:
        """Wait for the process to end, SIGKILL it after stop_timeout seconds."""
        if self._process is not None:
            try:
                self._process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        process = self._running_process()
        process.send_signal(signal.SIGSTOP)
        stopped = os.WSTOPPED | os.WNOHANG
        if not wait_until(lambda: os.waitid(os.P_PID, process.pid, stopped) is not None, 5.0, step=0.005):
            raise ServiceError(f"{self.name} did not stop on SIGSTOP")

    def resume(self) -> None:
        self._running_process().send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._port.release()

    def log_tail(self, lines: int = 40) -> str:
        return tail_of_file(self._folder / self._log_name, lines) if self._folder is not None else ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def _log_name(self) -> str:
        return f"{self.name}.log"

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self.running:
            raise ServiceError(f"{self.name} does not run")
        return self._process

    def _close_at_exit(self) -> None:
        if os.getpid() == self._owner:  # a forked copy of this Python must not end its parent's services
            self.close()
