"""Child processes of `attendance dev`: it starts and watches them, and they end with it, however it ends."""

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
    """A child ended by itself, or did not start in time; the message holds the last line of its log."""


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
                # its own session: Ctrl-C in the terminal reaches only the parent, which ends the children in order
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl, looked up before the fork
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises ChildFailed if it has ended."""
        code = self._process.poll()
        if code is not None:
            last_line = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
            raise ChildFailed(f"{self.name} exited with code {code}: {last_line[0]}")

    async def stop(self, grace: float) -> None:
        """Ends the process: SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, grace)
        if self._process.poll() is None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


def usable_port(default: int) -> int:
    """The default port if it is free on loopback, else another free one."""
    for port in (default, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_LOOPBACK, port))
            return int(probe.getsockname()[1])
    raise ChildFailed("no port is free on 127.0.0.1")


async def is_listening(port: int) -> bool:
    """Whether a process listens on a loopback port."""
    try:
        _, writer = await asyncio.open_connection(_LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


def die_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """Makes Linux send a child this signal when its parent is killed; elsewhere it ends only if the parent stops it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
