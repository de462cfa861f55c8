"""A worker that is measured: how it is started, how far it is, and what it, Redis and Kafka have used so far."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, Self

from redis.asyncio import Redis

from tests.bench.process import Child, cpu_seconds
from worker.durations import written
from worker.read_model.reader import AttendanceReader, NotServing
from worker.redis.client import create_redis
from worker.settings import Settings

Core = Literal["auto", "native", "python"]

COMMAND = (sys.executable, "-m", "worker", "worker")
_POLL_S = 0.05
_LOOK_S = 0.01
_RECOVERED = "event=recovered"
_STALL_S = 120.0


class Ground(NamedTuple):
    """Where workers are measured."""

    settings: Settings
    """Those that all have in common."""
    kafka_pids: Sequence[int]
    folder: Path
    """For logs and stores."""

    def under(self, prefix: str, partitions: int) -> Settings:
        """The settings of one measurement, with topics of its own."""
        return self.settings.model_copy(update={"topic_prefix": prefix, "partitions": partitions})

    def with_core(self, core: Core) -> Self:
        """The same, with another core of the workers."""
        return self._replace(settings=self.settings.model_copy(update={"core": core}))

    def without_conflicts(self) -> Self:
        """The same, with workers that look for no reports that contradict each other."""
        return self._replace(settings=self.settings.model_copy(update={"conflict_window": timedelta(0)}))

    def worker(self, name: str, settings: Settings, store: str) -> Child:
        """Starts a worker; `store` names the folder of its rows, so that another name is an empty one."""
        return Child(name, COMMAND, self.folder, self.environment(settings, store))

    def environment(self, settings: Settings, store: str = "") -> dict[str, str]:
        """What a command of the product is told."""
        kept = settings.store
        return {
            "ATTENDANCE_BROKER": settings.broker,
            "ATTENDANCE_REDIS": settings.redis.get_secret_value(),
            "ATTENDANCE_TOPIC_PREFIX": settings.topic_prefix,
            "ATTENDANCE_NAMESPACE": settings.namespace,
            "ATTENDANCE_PARTITIONS": str(settings.partitions),
            "ATTENDANCE_STORE": f"rocksdb://{self.folder}/store-{store}" if kept.startswith("rocksdb:") else kept,
            "ATTENDANCE_CORE": settings.core,
            "ATTENDANCE_CONFLICT_WINDOW": written(settings.conflict_window),
            "ATTENDANCE_LOG_LEVEL": "INFO",
        }


class Sample(NamedTuple):
    """What had been done and used at a moment. CPU is seconds."""

    at: float
    applied: int
    worker_cpu: float
    redis_cpu: float
    kafka_cpu: float


class Span(NamedTuple):
    """From the moment when the worker had its tables to the last event. CPU is microseconds per event."""

    events: int
    seconds: float
    worker_us: float
    redis_us: float
    kafka_us: float

    @classmethod
    def between(cls, first: Sample, last: Sample) -> Span:
        events = last.applied - first.applied
        used = ((late - early) / max(events, 1) * 1e6 for late, early in zip(last[2:], first[2:], strict=True))
        return cls(events, last.at - first.at, *used)

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds


class Watch:
    """Reads the watermarks of a running worker."""

    def __init__(self, ground: Ground, settings: Settings, redis: Redis, child: Child) -> None:
        self._reader = AttendanceReader(redis, settings.redis_namespace)
        self._redis = redis
        self._child = child
        self._kafka_pids = ground.kafka_pids

    async def reach(self, topic: str, ends: Sequence[int]) -> None:
        """Waits until the offsets applied of a topic have reached these.

        Raises:
            BenchFailed: the worker ended, or made no progress for two minutes.
        """
        await self._until(topic, lambda offsets: all(map(int.__ge__, offsets, ends)))

    async def span(
        self, starts: Sequence[int], ends: Sequence[int], meanwhile: Callable[[], Awaitable[list[int]]] | None = None
    ) -> Span:
        """Of the events: from when the worker has recovered its tables until all partitions have reached their ends.

        So start-up and recovery are over when it begins, and no event was looked at before. Raises as `reach`.

        Args:
            meanwhile: what publishes bookings until then; the ends of their topic, which must be reached too.
        """
        while not self._child.has_said(_RECOVERED):
            self._child.check()
            await asyncio.sleep(_LOOK_S)
        first = await self.sample(starts)
        changed = await meanwhile() if meanwhile else None
        ended = await self._until("events", lambda now: all(map(int.__ge__, now, ends)))
        if changed:
            await self.reach("bookings", changed)
        return Span.between(first, await self.sample(ended))

    async def reach_events(self, count: int) -> None:
        """Waits until so many events were applied, all partitions together. Raises as `reach`."""
        await self._until("events", lambda offsets: sum(offsets) >= count)

    async def offsets(self, topic: str) -> list[int]:
        """The next offset to apply of each partition; empty while nothing is known."""
        try:
            return [int(each.mark.get(f"{topic}.offset", 0)) for each in await self._reader.status()]
        except NotServing:
            return []

    async def _until(self, topic: str, holds: Callable[[list[int]], bool]) -> list[int]:
        before, moved = [0], perf_counter()
        while True:
            offsets = await self.offsets(topic)
            if offsets and holds(offsets):
                return offsets
            if offsets != before:
                before, moved = offsets, perf_counter()
            if perf_counter() - moved > _STALL_S:
                raise self._child.failure(f"made no progress for {_STALL_S:.0f} s ({topic} applied: {offsets})")
            self._child.check()
            await asyncio.sleep(_POLL_S)

    async def sample(self, offsets: Sequence[int]) -> Sample:
        """What was used until now, when these offsets are applied."""
        at, cpu, kafka = perf_counter(), self._child.cpu_seconds(), cpu_seconds(self._kafka_pids)
        return Sample(at, sum(offsets), cpu, await redis_cpu_seconds(self._redis), kafka)


@asynccontextmanager
async def clean_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of a Redis that is empty."""
    async with create_redis(settings) as redis:
        await redis.flushall()
        yield redis


async def redis_cpu_seconds(redis: Redis) -> float:
    """User and system time of the server since it started."""
    used: dict[str, Any] = await redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


async def used_memory(redis: Redis) -> int:
    """Bytes that Redis has allocated."""
    info: dict[str, Any] = await redis.info("memory")
    return int(info["used_memory"])
