"""`python -m tests.bench.attack`: how long `/healthz` and a get take while one API process is attacked, and its memory.

Another client asks for both every 20 ms, over a connection that it keeps and over new ones; the attack runs in a process of
its own, on the same cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench.attack.attacks import ATTACKS, Target, attack
from tests.bench.query.report import share
from tests.support.raw import Closed, Raw, request
from tests.support.services import ServiceError, chosen_broker, chosen_redis
from tests.support.serving import Api, identity
from tests.support.system import System, running
from worker.web.auth import Scope, create_token

SECONDS = 8.0
LIMIT_MS, LIMIT_MB = 200, 300
_PAUSE = 0.02
_NEW_EVERY = 5


class Found(NamedTuple):
    """Times of what another client asked during an attack, ms; the process's peak memory, MB; how often it was not answered."""

    name: str
    health: list[float]
    gets: list[float]
    peak_mb: float
    failed: int

    @property
    def holds(self) -> bool:
        return share(self.health, 0.99) <= LIMIT_MS and share(self.gets, 0.99) <= LIMIT_MS and self.peak_mb < LIMIT_MB


def main() -> int:
    """Exit code: 0, 1 where a service is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each attack takes")
    parser.add_argument("--only", default="", help="attacks whose names contain this")
    options = parser.parse_args()
    names = [name for name in ATTACKS if options.only in name]
    try:
        with ExitStack() as stack:
            kafka, redis = chosen_broker(os.environ), chosen_redis(os.environ)
            for service in (kafka, redis):
                stack.enter_context(contextlib.closing(service))
                service.start()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            system = stack.enter_context(running(System(kafka, redis)))
            api = stack.enter_context(Api(system, folder))
            _show([_measure(api, name, options.seconds) for name in names])
    except ServiceError as error:
        print(f"attack: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(api: Api, name: str, seconds: float) -> Found:
    attacker = create_token(api.tokens_file, list(Scope), f"attacker-{time.time_ns()}", None, time.time())
    api.set("BK-1", "s1", "ATTENDED")
    time.sleep(1.1)  # until the API has seen the new token
    _reset_peak(api.process.pid)
    host, port = api.address
    target = Target(host, port, attacker, time.monotonic() + seconds + 1)
    process = get_context("spawn").Process(target=attack, args=(name, target))
    process.start()
    try:
        found = _ask(api, name, target.until)
    finally:
        process.join(20)
        process.kill()
    print(
        f"{name}: {share(found.health, 0.99):.0f} ms, {share(found.gets, 0.99):.0f} ms, {found.peak_mb:.0f} MB", file=sys.stderr
    )
    return found


def _ask(api: Api, name: str, until: float) -> Found:
    health: list[float] = []
    gets: list[float] = []
    failed = asked = 0
    get = request("GET", f"/bookings/v2/attendance/{identity('BK-1', 's1')}", token=api.tokens["read"])
    kept = Raw(api.address)
    while time.monotonic() < until:
        for sent, times in ((request("GET", "/healthz"), health), (get, gets)):
            asked += 1
            began = time.perf_counter()
            try:
                if asked % _NEW_EVERY == 0:
                    kept.socket.close()
                    kept = Raw(api.address)
                failed += kept.send(sent).answer().status != 200
            except (Closed, OSError):
                failed += 1
                kept = Raw(api.address)
            times.append((time.perf_counter() - began) * 1000)
        time.sleep(_PAUSE)
    kept.socket.close()
    return Found(name, health, gets, _peak_mb(api.process.pid), failed)


def _reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _show(found: list[Found]) -> None:
    table = Table("attack", "healthz p50 / p99 / max, ms", "get p50 / p99 / max, ms", "peak, MB", "not answered", "holds")
    for each in found:
        cells = [" / ".join(f"{share(times, at):.0f}" for at in (0.5, 0.99, 1.0)) for times in (each.health, each.gets)]
        failed = f"{each.failed} of {len(each.health) + len(each.gets)}"
        table.add_row(each.name, *cells, f"{each.peak_mb:.0f}", failed, "yes" if each.holds else "NO")
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())
