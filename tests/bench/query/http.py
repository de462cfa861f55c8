"""What `attendance api` does, one process of it: attendances by id, and sets until they can be seen.

First attendances by id are asked for over some connections, each with one request at a time, as fast as it goes, while nothing
else happens; then some are set, one after another. Then devices publish 5,000 events a second and a worker applies them;
meanwhile attendances are asked for at a steady rate, each timed from when it was due, and others are set. A set answers once
the read models show it, so its time is that from the request to what is visible; one that takes the API's time limit is
answered with 503 and counted. On a machine too small for all this the worker falls behind (`lag_beside`), and sets do with it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, time
from typing import NamedTuple
from urllib.parse import urlsplit

from schemas.attendance import attendance_id, guid
from tests.bench import workload
from tests.bench.loading import load
from tests.bench.process import BenchFailed, Child
from tests.bench.query.report import share
from tests.bench.running import Ground, Watch, clean_redis
from tests.support.services import KafkaCluster, RedisServer
from worker.ops import topics
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.settings import Settings, load_settings
from worker.topics import TopicNames
from worker.web.auth import Scope, create_token

EVENTS, PARTITIONS = 60_000, 16
EVENTS_PER_S = 5_000
CONNECTIONS = 8
GETS_PER_S = 400
"""Beside the worker."""
SECONDS = 6.0
_API = (sys.executable, "-m", "worker", "api")
# it publishes its bookings first, which list every session: few, so that the worker is done with them soon
_SIMULATE = (sys.executable, "-m", "worker", "simulate", "--bookings", "2000", "--sessions", "5")
_START_S, _SETTLE_S = 30.0, 20.0
_ADDRESS = re.compile(r"address=(http://\S+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"

Request = Callable[[], bytes]


class Served(NamedTuple):
    """Requests answered in a second, their times in milliseconds, and how many were answered with 503."""

    per_s: float
    p50_ms: float
    p99_ms: float
    refused: int


class _Asked(NamedTuple):
    """What connections ask, and how long. Seconds."""

    request: Request
    until: float
    pause: float
    """Of one connection, from when a request is due to when the next one is; 0: at once."""
    samples: list[float]
    refusals: list[bytes]


class _Connection(asyncio.Protocol):
    """One request at a time until the deadline, then `ended`; ``due`` is when the first one is."""

    def __init__(self, asked: _Asked, due: float) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._asked, self._due = asked, due
        self._said = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._said += data
        head = self._said.find(_HEAD_END)
        length = _LENGTH.search(self._said, 0, head) if head >= 0 else None
        if length is None or len(self._said) < head + len(_HEAD_END) + int(length[1]):
            return
        self._asked.samples.append((perf_counter() - self._due) * 1e3)
        if self._said.startswith(b"HTTP/1.1 503 "):
            self._asked.refusals.append(self._said)
        elif not self._said.startswith(b"HTTP/1.1 200 "):
            self._end(BenchFailed(f"the API answered {self._said[:300]!r}"))
            return
        self._due = self._due + self._asked.pause if self._asked.pause else perf_counter()
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(BenchFailed(f"the API ended a connection: {error}"))

    def _next(self) -> None:
        if self._due > self._asked.until:
            self._end()
        elif self._due > perf_counter():
            asyncio.get_running_loop().call_later(self._due - perf_counter(), self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._said = b""
        self._transport.write(self._asked.request())

    def _end(self, error: Exception | None = None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
            self._transport.close()


class _Requests:
    """Requests of the API about attendances that there are."""

    def __init__(self, url: str, token: str, pairs: Sequence[tuple[str, str]]) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._head = f"HTTP/1.1\r\nhost: {self._host}\r\nauthorization: Bearer {token}\r\n"
        self._pairs, self._rng = pairs, random.Random(7)

    async def served(self, request: Request, seconds: float, connections: int, per_s: float = 0) -> Served:
        """Asks for so long over so many connections, as fast as it goes or so many in a second."""
        begun = perf_counter()
        pause = connections / per_s if per_s else 0.0
        asked = _Asked(request, begun + seconds, pause, [], [])
        made = [await self._connect(asked, begun + pause * number / connections) for number in range(connections)]
        await asyncio.gather(*(each.ended for each in made))
        took = sorted(asked.samples)
        return Served(len(took) / (perf_counter() - begun), share(took, 0.5), share(took, 0.99), len(asked.refusals))

    async def _connect(self, asked: _Asked, due: float) -> _Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: _Connection(asked, due), self._host, self._port)
        return made

    def get(self) -> bytes:
        """An attendance by id."""
        identity = guid(attendance_id(*self._rng.choice(self._pairs)))
        return f"GET /bookings/v2/attendance/{identity} {self._head}\r\n".encode()

    def set(self) -> bytes:
        """An attendance set to ATTENDED."""
        booking, session = self._rng.choice(self._pairs)
        said = {"bookingId": booking, "sessionId": session, "status": "ATTENDED", "numberOfAttendees": self._rng.randint(1, 4)}
        body = json.dumps({"attendance": said})
        kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return f"POST /bookings/v2/attendance/set {self._head}{kind}{body}".encode()


async def measure(folder: Path) -> dict[str, float]:
    """Starts a broker, a Redis, a worker and the API, and asks.

    Raises:
        BenchFailed: a process ended, or the API answered anything but 200.
        tests.support.services.ServiceError: a service is missing.
    """
    with KafkaCluster(optimised=True) as kafka, RedisServer() as redis:
        settings = load_settings(_env_file=None, broker=kafka.url, redis=redis.url, namespace="", topic_prefix="http")
        ground = Ground(settings, [node.pid for node in kafka.nodes], folder)
        return await _measure(ground, ground.under("http", PARTITIONS))


async def _measure(ground: Ground, settings: Settings) -> dict[str, float]:
    made = workload.make(EVENTS, PARTITIONS, int(time() * 1e6))
    pairs = [_pair(value) for records in made.events for _, value in records]
    await topics.create(settings)
    async with clean_redis(settings) as redis:
        with ground.worker("http-worker", settings, "http") as worker:
            ends = await load(settings, TopicNames.of(settings.topic_prefix).events, made.events)
            await Watch(ground, settings, redis, worker).reach("events", ends)
            tokens = ground.folder / "tokens.json"
            token = create_token(tokens, list(Scope), "bench", None, time())
            told = {"ATTENDANCE_API_BIND": "127.0.0.1:0", "ATTENDANCE_API_TOKENS": str(tokens)}
            with Child("http-api", _API, ground.folder, {**ground.environment(settings), **told}) as api:
                return await _ask(ground, settings, api, _Requests(await _address(api), token, pairs))


async def _ask(ground: Ground, settings: Settings, api: Child, requests: _Requests) -> dict[str, float]:
    await requests.served(requests.get, 1.0, CONNECTIONS)  # until it is warm
    before = api.cpu_seconds()
    alone = await requests.served(requests.get, SECONDS, CONNECTIONS)
    busy = (api.cpu_seconds() - before) / SECONDS
    one = await requests.served(requests.get, 2.0, 1)
    quiet = await requests.served(requests.set, SECONDS, 1)
    count = int(EVENTS_PER_S * (4 * SECONDS + 40))
    simulate = (*_SIMULATE, "--rate", str(EVENTS_PER_S), "--count", str(count))
    with Child("http-simulate", simulate, ground.folder, ground.environment(settings)) as devices:
        async with create_redis(settings) as redis:
            reader = AttendanceReader(redis, settings.redis_namespace)
            first, begun = await _settled(reader), perf_counter()
            beside = await requests.served(requests.get, 2 * SECONDS, CONNECTIONS, GETS_PER_S)
            sets = await requests.served(requests.set, SECONDS, 1)
            at_once = await requests.served(requests.set, SECONDS, CONNECTIONS)
            last, lag = await _progress(reader)
            applied = (last - first) / (perf_counter() - begun)
            devices.check()
    return {
        "get_per_s": round(alone.per_s),
        "get_p50_ms": round(alone.p50_ms, 2),
        "get_p99_ms": round(alone.p99_ms, 2),
        "api_cores": round(busy, 2),
        "get_one_connection_p99_ms": round(one.p99_ms, 2),
        "events_per_s_beside": round(applied),
        "lag_beside": lag,
        "get_per_s_beside": round(beside.per_s),
        "get_p99_ms_beside": round(beside.p99_ms, 2),
        "set_p50_ms": round(quiet.p50_ms, 2),
        "set_p99_ms": round(quiet.p99_ms, 2),
        "set_p50_ms_beside": round(sets.p50_ms, 2),
        "set_p99_ms_beside": round(sets.p99_ms, 2),
        "set_p99_ms_of_8_beside": round(at_once.p99_ms, 2),
        "set_refused": quiet.refused + sets.refused + at_once.refused,
    }


def _pair(event: bytes) -> tuple[str, str]:
    data = json.loads(event)["data"]
    return data["bookingId"], data["sessionId"]


async def _address(api: Child) -> str:
    """Where it serves, once it says so."""
    async with asyncio.timeout(_START_S):
        while not (found := _ADDRESS.search(api.log.read_text())):
            api.check()
            await asyncio.sleep(0.05)
    return found[1]


async def _settled(reader: AttendanceReader) -> int:
    """How many events are applied, once events come in and the worker is a second behind them at most, or after a while."""
    first, _ = await _progress(reader)
    applied, begun = first, perf_counter()
    while perf_counter() - begun < _SETTLE_S:
        await asyncio.sleep(1)
        applied, lag = await _progress(reader)
        if applied > first + EVENTS_PER_S and lag < EVENTS_PER_S:
            break
    return applied


async def _progress(reader: AttendanceReader) -> tuple[int, int]:
    """Events applied, and records that are not yet."""
    marks = await reader.status()
    return sum(int(each.mark.get("events.offset", 0)) for each in marks), sum(each.lag or 0 for each in marks)
