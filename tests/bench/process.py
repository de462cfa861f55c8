"""A child process of the benchmark: started with its own environment, read in /proc, ended by its id."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.services.processes import spawn, tail_of_file

ROOT = Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_TIMEOUT_S = 20.0
# fields of /proc/PID/stat after the command's name (proc(5))
_PARENT = 1
_TIMES = slice(11, 15)  # utime, stime, and those of children that were waited for


class BenchFailed(Exception):
    """Nothing could be measured; the message says what happened, with the end of the process's log."""


class Child:
    """One process in `folder`, without this process's ATTENDANCE_* settings but with the given ones.

    Its output goes to `folder/NAME.log`. Leaving the context ends it: SIGTERM, and SIGKILL when that takes too long.
    """

    def __init__(self, name: str, argv: Sequence[str], folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        ours = [f"--unset={known}" for known in os.environ if known.startswith("ATTENDANCE_")]
        given = [f"{known}={value}" for known, value in {**(settings or {}), "PYTHONPATH": str(ROOT)}.items()]
        self._process: subprocess.Popen[bytes] = spawn(["env", *ours, *given, *argv], log=self.log, cwd=folder)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def check(self) -> None:
        """Raises BenchFailed when it has ended."""
        if self.ended:
            raise self.failure(f"ended with {self._process.returncode}")

    def failure(self, what: str) -> BenchFailed:
        """The error that says what it did, with the end of its log."""
        return BenchFailed(f"{self.name} {what}; the end of its log:\n{tail_of_file(self.log, 30)}")

    def has_said(self, text: str) -> bool:
        """Whether its log holds this text."""
        return text in self.log.read_text()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 20 s; returns when it is gone."""
        if self.ended:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> float:
        """User and system time of it and its descendants since they started; 0 when it is gone."""
        return cpu_seconds([self._process.pid])

    def rss_bytes(self) -> int:
        """Resident size now of it and its descendants."""
        return sum(_resident(pid, "VmRSS") for pid in _tree(self._process.pid, _stats()))

    def peak_rss_bytes(self) -> int:
        """Largest resident size of it and its descendants, each at its own peak."""
        return sum(_resident(pid, "VmHWM") for pid in _tree(self._process.pid, _stats()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and their descendants since they started."""
    stats = _stats()
    return sum(sum(map(int, stats[pid][_TIMES])) for root in pids for pid in _tree(root, stats)) / _TICKS


def tree(pids: Iterable[int]) -> list[int]:
    """These processes and their descendants, as they are now."""
    stats = _stats()
    return [pid for root in pids for pid in _tree(root, stats)]


def own_cpu_seconds(pids: Iterable[int]) -> float:
    """The same as `cpu_seconds` without descendants, which is cheap: only these processes are read."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(sum(map(int, each[_TIMES])) for each in fields) / _TICKS


def _stats() -> dict[int, list[str]]:
    """Of each process that runs now: its fields in /proc/PID/stat after the command's name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
    return found


def _tree(root: int, stats: Mapping[int, list[str]]) -> list[int]:
    """A process and its descendants; empty when it is gone."""
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[_PARENT]), []).append(pid)
    tree = [root] if root in stats else []
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def _resident(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
