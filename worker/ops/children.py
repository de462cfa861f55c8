"""Child processes of `attendance dev`: started, watched, and ended with it, whatever ends it."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOPBACK = "127.0.0.1"


class ChildFailed(Exception):
    """A child ended that should not have, or did not start in time; the message ends with its last words."""


class Child:
    """One process with its log file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                # a session of its own: Ctrl-C in the terminal reaches the parent alone, which ends them in order
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one prctl, looked up before the fork
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises ChildFailed if it has ended."""
        code = self._process.poll()
        if code is not None:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise ChildFailed(f"{self.name} ended with exit code {code}: {last[0]}")

    async def stop(self, grace: float) -> None:
        """Ends it: SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, grace)
        if self._process.poll() is None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


def usable_port(usual: int) -> int:
    """The usual port where it is free, else another one, on loopback."""
    for port in (usual, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_LOOPBACK, port))
            return int(probe.getsockname()[1])
    raise ChildFailed("no port is free on 127.0.0.1")


async def answers(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    try:
        _, writer = await asyncio.open_connection(_LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


def _die_with_parent() -> Callable[[], None] | None:
    """Asks Linux to end the child when the parent is killed; elsewhere only an orderly end takes the children along."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
