"""`attendance …` as processes of their own, forked from one that has imported the code: a start takes 20 ms, not a second.

Those that run a worker have no Faust to import either, which takes a second more. `Commands` runs this module. For each
connection it forks a keeper, which forks the command, sends its pid, and sends its exit code when it has ended.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.support.services.processes import die_with_parent, spawn, tail_of_file, wait_until

ROOT = Path(__file__).parents[2]


class Command:
    """One command that runs, or ran."""

    def __init__(self, connection: socket.socket, out: Path, err: Path) -> None:
        self._stream = connection.makefile("r")
        self._out, self._err = out, err
        self.pid = int(self._stream.readline())
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._handle = os.pidfd_open(self.pid)
        self._code: int | None = None

    def runs(self, seconds: float) -> bool:
        """Whether it still runs after so long; returns at once when it has ended."""
        return self._handle is not None and not select.select([self._handle], [], [], seconds)[0]

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return None if self.runs(0) else self.wait()

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """SIGKILL; nothing if it has ended."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code, as `subprocess` has it: -9 if it was killed. Raises TimeoutExpired if it does not end."""
        if self._code is None:
            if self.runs(timeout):
                raise subprocess.TimeoutExpired("attendance", timeout, stderr=self._err.read_bytes())
            self._code = int(self._stream.readline())
            self._stream.close()
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
        return self._code

    @property
    def out(self) -> str:
        return self._out.read_bytes().decode()

    @property
    def err(self) -> str:
        return self._err.read_bytes().decode()


class Commands:
    """Starts commands. Use as a context manager; leaving it ends all that still run."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="attendance-test-")
        self._path = Path(self._folder.name) / "socket"
        self._log = Path(self._folder.name) / "log"
        self._numbers = count()

    def __enter__(self) -> Self:
        self._server = spawn([sys.executable, "-m", __name__, str(self._path)], log=self._log, cwd=ROOT)
        assert wait_until(self._path.exists, 30), tail_of_file(self._log)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # those that it has forked get SIGKILL as it ends
        self._server.kill()
        self._server.wait()
        self._folder.cleanup()

    def start(
        self, *arguments: str, module: str = "worker", stdin: bytes = b"", log: Path | None = None, **environment: str
    ) -> Command:
        """``attendance ARGUMENTS…`` with these variables set, too, or another module's ``python -m MODULE ARGUMENTS…``.

        All that it writes is added to the log, if one is given.
        """
        number = next(self._numbers)
        in_, out, err = (Path(self._folder.name) / f"{number}.{name}" for name in ("in", "out", "err"))
        in_.write_bytes(stdin)
        out, err = log or out, log or err
        for path in (out, err):
            path.touch(0o600)
        files = {"stdin": str(in_), "out": str(out), "err": str(err)}
        order = {"module": module, "arguments": arguments, "environment": {**os.environ, **environment}, **files}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._path))
            connection.sendall(json.dumps(order).encode() + b"\n")
            return Command(connection, out, err)


@functools.cache
def shared_commands() -> Commands:
    """One for all tests of this process. The first call must be in the main thread, with which it ends."""
    return Commands().__enter__()


def _serve(path: str) -> NoReturn:
    importlib.import_module("worker.cli.commands")
    importlib.import_module("worker.stream.worker")
    gc.collect()
    gc.freeze()  # the memory that is imported stays shared: no collection touches it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + ".new")
        listener.listen(64)
        Path(path + ".new").rename(path)
        while True:
            connection, _ = listener.accept()
            with connection:
                if _fork() == 0:
                    _keep(connection)


def _keep(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile("r") as orders:
        order = json.loads(orders.readline())
    pid = _fork()
    if pid == 0:
        _run(order)
    connection.sendall(b"%d\n" % pid)
    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _run(order: dict[str, Any]) -> NoReturn:
    os.setsid()  # as `spawn`
    os.dup2(os.open(order["stdin"], os.O_RDONLY), 0)
    for number, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["attendance", *order["arguments"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


def _fork() -> int:
    """As `os.fork`; the child gets SIGKILL when this process ends."""
    ask_for_death_signal = die_with_parent()
    pid = os.fork()
    if pid == 0 and ask_for_death_signal is not None:
        ask_for_death_signal()
    return pid


if __name__ == "__main__":
    _serve(sys.argv[1])
