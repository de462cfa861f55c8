"""Runs a peer in a process of its own and takes its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.peers import Result, Workplace
from tests.bench.process import Child
from tests.bench.programs import command
from tests.support.services.processes import wait_until

#: What a peer may take for its start, its warm-up and its end.
_AROUND_S = 150.0


def measure(peer: str, place: Workplace, folder: Path) -> Result:
    """What the peer reports; it is ended as soon as it has.

    Raises:
        BenchFailed: it ended or its time was up before it reported.
    """
    log = folder / f"peer-{peer}.log"
    log.unlink(missing_ok=True)
    with Child(f"peer-{peer}", [*command(peer), *place.options()], folder) as child:
        wait_until(lambda: child.ended or _result(child.log) is not None, place.seconds + _AROUND_S)
        result = _result(child.log)
        if result is None:
            raise child.failure("ended without a result" if child.ended else "did not report in time")
        return result


def _result(log: Path) -> Result | None:
    for line in _complete_lines(log):
        try:
            return Result.of(line)
        except ValueError:
            continue
    return None


def _complete_lines(log: Path) -> Iterator[str]:
    lines = log.read_text(errors="replace").splitlines(keepends=True) if log.exists() else []
    return (line for line in reversed(lines) if line.endswith("\n"))
