"""The worker on a prepared backlog: what it does in a second, and what an event costs it and Redis.

Bookings are loaded and applied first. Then the worker is stopped, the events are put into the topic, and it is started
again. What is measured begins when the watermark of *every* partition has moved, so that start-up and recovery are over,
and ends when each has reached the topic's end; events applied before are not counted.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from redis.asyncio import Redis

from tests.bench.loading import end_offsets, load
from tests.bench.process import BenchFailed, Child
from tests.bench.workload import Workload
from worker.ops import topics
from worker.read_model.client import create_redis
from worker.read_model.reader import AttendanceReader, NotServing
from worker.settings import Settings
from worker.topics import TopicNames

COMMAND = (sys.executable, "-m", "worker", "worker")
_POLL_S = 0.05
_STALL_S = 60.0


class Measured(NamedTuple):
    """What the worker's run gave. CPU figures are microseconds per event."""

    events: int
    """Events applied while it was measured."""
    seconds: float
    worker_us: float
    redis_us: float
    peak_rss_bytes: int
    bytes_per_attendance: float
    """Growth of Redis's used_memory by the events, alerts included, by attendances."""
    bytes_per_booking: float
    """The same by loading the bookings: their summaries, and the tallies of the sessions they list."""
    alerts: int
    """Alerts published, opened and resolved."""

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds


class _Sample(NamedTuple):
    at: float
    applied: int
    worker_cpu: float
    redis_cpu: float


async def measure(settings: Settings, workload: Workload, folder: Path) -> Measured:
    """Runs the worker twice: for the bookings, and for the events.

    Raises:
        BenchFailed: it ended, or made no progress for a minute.
    """
    names = TopicNames.of(settings.topic_prefix)
    await topics.create(settings)
    async with create_redis(settings) as redis:
        empty = await _used_memory(redis)
        ends = await load(settings, names.bookings, workload.bookings)
        with _worker("worker-bookings", settings, folder) as child:
            await _Watch(settings, redis, child).reach("bookings", ends)
        loaded = await _used_memory(redis)
        ends = await load(settings, names.events, workload.events)
        with _worker("worker-events", settings, folder) as child:
            first, last = await _Watch(settings, redis, child).span(ends)
            rss = child.peak_rss_bytes()
            full = await _used_memory(redis)
    if last.applied == first.applied:
        raise BenchFailed("all events were applied at once: give more --events")
    events = last.applied - first.applied
    return Measured(
        events,
        last.at - first.at,
        (last.worker_cpu - first.worker_cpu) / events * 1e6,
        (last.redis_cpu - first.redis_cpu) / events * 1e6,
        rss,
        (full - loaded) / workload.attendances,
        (loaded - empty) / workload.booking_count,
        sum(await end_offsets(settings, names.alerts, settings.partitions)),
    )


def _worker(name: str, settings: Settings, folder: Path) -> Child:
    environment = {
        "ATTENDANCE_BROKER": settings.broker,
        "ATTENDANCE_REDIS": settings.redis.get_secret_value(),
        "ATTENDANCE_TOPIC_PREFIX": settings.topic_prefix,
        "ATTENDANCE_NAMESPACE": settings.namespace,
        "ATTENDANCE_PARTITIONS": str(settings.partitions),
        "ATTENDANCE_LOG_LEVEL": "WARNING",
    }
    return Child(name, COMMAND, folder, environment)


class _Watch:
    """Reads the watermarks of a running worker."""

    def __init__(self, settings: Settings, redis: Redis, child: Child) -> None:
        self._reader = AttendanceReader(redis, settings.redis_namespace)
        self._redis = redis
        self._child = child

    async def reach(self, topic: str, ends: Sequence[int]) -> None:
        """Waits until the offsets applied of a topic have reached these."""
        await self._until(topic, lambda offsets: all(map(int.__ge__, offsets, ends)))

    async def span(self, ends: Sequence[int]) -> tuple[_Sample, _Sample]:
        """Of the events: when every partition that has some has begun, and when all have ended."""
        begun = await self._until("events", lambda offsets: all(map(_has_begun, offsets, ends)))
        first = await self._sample(begun)
        ended = await self._until("events", lambda offsets: all(map(int.__ge__, offsets, ends)))
        return first, await self._sample(ended)

    async def _until(self, topic: str, holds: Callable[[list[int]], bool]) -> list[int]:
        before, moved = [0], perf_counter()
        while True:
            offsets = await self._offsets(topic)
            if offsets and holds(offsets):
                return offsets
            if offsets != before:
                before, moved = offsets, perf_counter()
            if perf_counter() - moved > _STALL_S:
                raise self._child.failure(f"made no progress for {_STALL_S:.0f} s ({topic} applied: {offsets})")
            self._child.check()
            await asyncio.sleep(_POLL_S)

    async def _offsets(self, topic: str) -> list[int]:
        """The next offset to apply of each partition; empty while nothing is known."""
        try:
            return [int(each.mark.get(f"{topic}.offset", 0)) for each in await self._reader.status()]
        except NotServing:
            return []

    async def _sample(self, offsets: list[int]) -> _Sample:
        at, cpu = perf_counter(), self._child.cpu_seconds()
        used: dict[str, Any] = await self._redis.info("cpu")
        return _Sample(at, sum(offsets), cpu, used["used_cpu_user"] + used["used_cpu_sys"])


def _has_begun(offset: int, end: int) -> bool:
    return offset > 0 or end == 0


async def _used_memory(redis: Redis) -> int:
    info: dict[str, Any] = await redis.info("memory")
    return int(info["used_memory"])
