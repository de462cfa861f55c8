"""Child processes that cannot outlive the Python that started them, and waiting for a condition with a deadline."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import ToolFailed

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_BYTES = 64 * 1024


def wait_until(condition: Callable[[], bool], timeout: float, *, step: float = 0.05) -> bool:
    """Ask `condition` every `step` seconds until it holds; False when `timeout` seconds passed first."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(step)
    return True


def local_ports(pid: int) -> set[int]:
    """The local ports of a process's TCP connections over IPv4; see proc(5)."""
    ports = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(each.readlink()))
    return {port for socket, port in ports.items() if socket in held}


def spawn(argv: Sequence[str], *, log: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Start `argv` in `cwd` with stdout and stderr appended to `log`; it is SIGKILLed when this Python dies.

    It gets its own session, so that Ctrl-C in the terminal ends the tests and leaves the services to their teardown.
    Raises OSError when the program cannot be executed.
    """

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as sink:
            return subprocess.Popen(
                argv,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    return _spawner().submit(start).result()


def run_tool(argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> str:
    """Run a helper program to its end and return what it printed (stdout and stderr together).

    `env` is added to this process's environment. Raises ToolFailed when it is missing, exits non-zero or takes more
    than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            preexec_fn=die_with_parent(),
        )
    except FileNotFoundError as missing:
        raise ToolFailed(f"{argv[0]} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise ToolFailed(f"{argv[0]} took more than {timeout:.0f} s\n{tail(late.output or b'')}") from late
    if done.returncode != 0:
        raise ToolFailed(f"{argv[0]} exited with {done.returncode}\n{tail(done.stdout)}")
    return done.stdout.decode(errors="replace")


def tail(text: bytes, lines: int = 40) -> str:
    """The last `lines` lines of `text`."""
    return "\n".join(text.decode(errors="replace").splitlines()[-lines:])


def tail_of_file(path: Path, lines: int = 40) -> str:
    """The last `lines` lines of a file, from its last 64 KiB; empty when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return tail(file.read(), lines)
    except FileNotFoundError:
        return ""


def exists(pid: int) -> bool:
    """Whether the process runs, stopped or not; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@functools.cache
def _spawner() -> ThreadPoolExecutor:
    # Linux sends the parent-death signal when the *thread* that forked ends, not the process. A service started
    # from a short-lived thread (asyncio.to_thread(broker.restart)) would die with it; this one thread lasts.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="service-spawner")


def die_with_parent() -> Callable[[], None] | None:
    """What the child runs between fork and exec, or None where there is no prctl (there atexit alone must do)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: dlopen may need a held lock after it
    parent = os.getpid()

    def ask_for_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call, so no signal will come
            os.kill(os.getpid(), signal.SIGKILL)

    return ask_for_death_signal
