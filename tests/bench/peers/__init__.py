"""Other ways to do the worker's job, each a program with a command line that prints one JSON line of its result.

The job: the newest event of a booking and session wins, state with a changelog, a JSON document and two index entries in
Redis. A peer gets a `Workplace` as options, works until it has done all events or its time is up, and reports what it did
since its first event: in Python with `report`, in Java (`kafka_streams/`) by printing the same line. It uses topics,
groups, folders and a Redis database of its own, but for the events topic, which it reads. What imports only this module
and the standard library runs in a peer's own virtualenv.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Workplace:
    """Where a peer finds its work."""

    broker: str
    """`host:port`."""
    redis: str
    """`redis://host:port/db`, a database for the peer alone, which is empty."""
    topic: str
    partitions: int
    events: int
    """Events in the topic."""
    seconds: float
    """How long it may work on them, from its first event."""

    def options(self) -> list[str]:
        """The command line that `workplace` reads."""
        return [part for name, value in asdict(self).items() for part in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Result:
    """What a peer did."""

    events: int
    started_at: float
    """When its first event came, by CLOCK_MONOTONIC (`perf_counter` on Linux), which all processes share."""
    seconds: float
    cpu_seconds: float
    """User and system time of its process in those seconds."""
    peak_rss_bytes: int
    """The largest resident size that its process has had."""

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per event."""
        return self.cpu_seconds / self.events * 1e6

    @classmethod
    def of(cls, line: str) -> Result:
        """Reads what `report` printed. Raises ValueError for anything else, and where nothing was done."""
        try:
            result = cls(**json.loads(line))
        except TypeError as error:
            raise ValueError(f"not a peer's result: {line}") from error
        if result.events <= 0 or result.seconds <= 0:
            raise ValueError(f"nothing was done: {line}")
        return result


def workplace(description: str | None) -> Workplace:
    """The workplace that this process's command line names."""
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float}
    parser = argparse.ArgumentParser(description=description)
    for field in fields(Workplace):
        parser.add_argument(f"--{field.name}", type=kinds[str(field.type)], required=True)
    return Workplace(**vars(parser.parse_args()))


def peak_rss_bytes() -> int:
    """The largest resident size of this process. Not getrusage: its figure begins with that of the process that forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def report(result: Result) -> None:
    """Prints the result as the last line of the peer's output."""
    print(json.dumps(asdict(result)), flush=True)
