"""`python -m tests.bench.live`: delivery to live subscribers of one API process at a steady rate of events, and its cost.

Phases without and with subscribers take turns in one run, all at the same rate of events. Each event is the check-in of another
booking, so that a session's tally says how many of its events a delivery has: the delivery of an event is the first in which
the tally counts as many as were sent up to it. Meanwhile attendances are asked for by id and by query, each timed from when it
was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from schemas.attendance import attendance_id, guid
from schemas.times import format_time
from tests.bench.process import ROOT, cpu_seconds
from tests.bench.query.report import share
from tests.bench.workload import event
from tests.support.services import ServiceError, chosen_broker, chosen_redis
from tests.support.serving import Api
from tests.support.system import System, running
from worker.kafka import create_producer
from worker.redis.client import create_redis
from worker.topics import partition_of

GETS_PER_S, QUERIES_PER_S = 50, 10
#: For each of the two: one alone would be behind its rate where an answer takes long.
CONNECTIONS = 5
_SETTLE_S = 3.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Phase(NamedTuple):
    """What was measured in one phase. Times in ms; CPU in shares of a core."""

    subscribers: int
    gets: list[float]
    queries: list[float]
    api_cpu: float
    redis_cpu: float
    api_mb: float
    deliveries: list[float]
    events_per_s: float
    """That subscribers got, together."""
    kib_per_s: float
    other: list[str]


def main() -> int:
    """Exit code: 0, 1 where a service is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--rate", type=int, default=1000, help="events a second")
    parser.add_argument("--sessions", type=int, default=50, help="sessions that the events are of")
    parser.add_argument("--each", type=int, default=5, help="sessions that a subscriber looks at")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a phase")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of phases")
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            kafka, redis = stack.enter_context(chosen_broker({})), stack.enter_context(chosen_redis({}))
            system = stack.enter_context(running(System(kafka, redis)))
            api = stack.enter_context(Api(system, folder))
            phases = asyncio.run(_Bench(system, api, folder, options).run())
    except ServiceError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _print(phases)
    return 0


class _Bench:
    def __init__(self, system: System, api: Api, folder: Path, options: argparse.Namespace) -> None:
        self._system, self._api, self._folder, self._options = system, api, folder, options
        self._sessions = [f"bench-{number}" for number in range(options.sessions)]
        self._sent: dict[str, list[float]] = {each: [] for each in self._sessions}
        """When each event of a session was sent."""
        self._names: list[tuple[str, str]] = []
        self._chance = random.Random(7)

    async def run(self) -> list[Phase]:
        order = [0, self._options.subscribers] * self._options.rounds
        async with create_redis(self._system.settings) as redis:
            await self._phase(redis, 0, 5.0)  # warms up
            return [await self._phase(redis, each, self._options.seconds) for each in order]

    async def _phase(self, redis: Redis, subscribers: int, seconds: float) -> Phase:
        looking = _Lookers(self._api, self._folder, self._sessions, subscribers, self._options.each) if subscribers else None
        begun_at = {session: len(times) for session, times in self._sent.items()}
        if looking is not None:
            await asyncio.sleep(_SETTLE_S)
        pid = self._api.process.pid
        used = cpu_seconds([pid]), await _redis_seconds(redis)
        start = monotonic()
        gets, queries = list[float](), list[float]()
        await asyncio.gather(
            self._send(start + seconds),
            *(self._ask(self._get, GETS_PER_S / CONNECTIONS, start + seconds, gets) for _ in range(CONNECTIONS)),
            *(self._ask(self._query, QUERIES_PER_S / CONNECTIONS, start + seconds, queries) for _ in range(CONNECTIONS)),
        )
        took = monotonic() - start
        api_cpu, redis_cpu = cpu_seconds([pid]) - used[0], await _redis_seconds(redis) - used[1]
        memory = _resident_mb(pid)
        await asyncio.sleep(_SETTLE_S)
        nothing: dict[str, Any] = {"seen": [], "events": 0, "bytes": 0, "other": [], "ended": 0}
        found = looking.result() if looking is not None else nothing
        deliveries = self._deliveries(found["seen"], begun_at)
        total = took + 2 * _SETTLE_S
        shares = api_cpu / took, redis_cpu / took
        other = [*found["other"], *["ended"] * found["ended"]]
        rates = found["events"] / total, found["bytes"] / total / 1024
        return Phase(subscribers, gets, queries, *shares, memory, deliveries, *rates, other)

    def _deliveries(self, streams: list[dict[str, list[tuple[int, float]]]], begun_at: dict[str, int]) -> list[float]:
        waits = []
        for stream in streams:
            for session, seen in stream.items():
                sent, number = self._sent[session], begun_at[session]
                for attended, at in seen:
                    waits += [(at - sent[each]) * 1e3 for each in range(number, min(attended, len(sent)))]
                    number = max(number, attended)
        return waits

    async def _send(self, until: float) -> None:
        settings, partitions = self._system.settings, self._system.settings.partitions
        topic, number, start = self._system.topics.events, 0, monotonic()
        async with create_producer(settings, linger_ms=0) as producer:
            await producer.partitions_for(topic)
            while monotonic() < until:
                # in steps of 10 ms: a sleep for each event would be most of the work
                while number < (monotonic() - start) * self._options.rate:
                    booking, session = f"B{len(self._names)}-{start:.0f}", self._chance.choice(self._sessions)
                    now = format_time(int(time() * 1e6))
                    value = event(f"l{len(self._names)}", "/devices/kiosk-1", "check_in", now, booking, session)
                    self._sent[session].append(monotonic())
                    await producer.send(topic, value, key=booking.encode(), partition=partition_of(booking, partitions))
                    self._names.append((booking, session))
                    number += 1
                await asyncio.sleep(0.01)

    def _get(self) -> bytes:
        booking, session = self._names[self._chance.randrange(max(1, len(self._names) - 1000))] if self._names else ("-", "-")
        return f"GET /bookings/v2/attendance/{guid(attendance_id(booking, session))} HTTP/1.1\r\n".encode()

    def _query(self) -> bytes:
        return b"POST /bookings/v2/attendance/query HTTP/1.1\r\n"

    async def _ask(self, request: Callable[[], bytes], rate: float, until: float, times: list[float]) -> None:
        host, port = self._api.address
        reader, writer = await asyncio.open_connection(host, port)
        due = monotonic()
        while due < until:
            await asyncio.sleep(max(0.0, due - monotonic()))
            line = request()
            query = {"filter": {"sessionId": self._chance.choice(self._sessions)}, "cursorPaging": {"limit": 50}}
            body = json.dumps({"query": query}).encode() if line.startswith(b"POST") else b""
            head = f"Host: localhost\r\nAuthorization: Bearer {self._api.tokens['read']}\r\n"
            if body:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(line + head.encode() + b"\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 404")), answer
            length = _LENGTH.search(answer)
            assert length is not None, answer
            await reader.readexactly(int(length[1]))
            times.append((monotonic() - due) * 1e3)
            due = max(due + 1 / rate, monotonic() - 1.0)
        writer.close()


class _Lookers:
    """The process of the subscribers."""

    def __init__(self, api: Api, folder: Path, sessions: list[str], count: int, each: int) -> None:
        self._result = folder / "seen.json"
        chance = random.Random(11)
        host, port = api.address
        streams = [chance.sample(sessions, each) for _ in range(count)]
        given = {"host": host, "port": port, "token": api.tokens["read"], "streams": streams, "result": str(self._result)}
        command = [sys.executable, "-m", "tests.bench.live.subscribers", json.dumps(given)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def result(self) -> dict[str, Any]:
        self._process.communicate(timeout=60)
        return dict(json.loads(self._result.read_text()))


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


async def _redis_seconds(redis: Redis) -> float:
    used: dict[str, Any] = await redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _print(phases: list[Phase]) -> None:
    table = Table(title="live values; ms and shares of a core")
    for name in ("subscribers", "delivery p50", "p99", "max", "get p50", "p99", "query p50", "p99", "API", "Redis", "API MB"):
        table.add_column(name, justify="right")
    for name in ("events/s", "KiB/s", "other"):
        table.add_column(name, justify="right")
    for each in phases:
        waits = each.deliveries or [0.0]
        figures = [share(waits, 0.5), share(waits, 0.99), max(waits)]
        figures += [share(times, at) for times in (each.gets, each.queries) for at in (0.5, 0.99)]
        shown = [f"{each.api_cpu:.2f}", f"{each.redis_cpu:.2f}", f"{each.api_mb:.0f}", f"{each.events_per_s:.0f}"]
        shown += [f"{each.kib_per_s:.0f}", ",".join(sorted(set(each.other))) or "-"]
        table.add_row(str(each.subscribers), *(f"{figure:.1f}" for figure in figures), *shown)
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
