"""What Redis and Kafka use while another process works, from which the part of a span of time is taken afterwards."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import NamedTuple

from redis.asyncio import Redis

from tests.bench.process import own_cpu_seconds, tree
from tests.bench.running import redis_cpu_seconds

_LOOK_S = 0.1


class Used(NamedTuple):
    """CPU seconds."""

    redis: float
    kafka: float


class UsageLog:
    """Samples since it began: times (`perf_counter`), and what had been used then."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._used: list[Used] = []

    async def sample(self, redis: Redis, kafka_pids: Sequence[int]) -> None:
        """Adds one."""
        self._used.append(Used(await redis_cpu_seconds(redis), own_cpu_seconds(kafka_pids)))
        self._times.append(perf_counter())

    def between(self, start: float, end: float) -> Used:
        """What was used from one time to another, both of them within the samples; linear between two samples."""
        first, last = self._at(start), self._at(end)
        return Used(last.redis - first.redis, last.kafka - first.kafka)

    def _at(self, time: float) -> Used:
        after = min(max(bisect_left(self._times, time), 1), len(self._times) - 1)
        (t0, t1), (u0, u1) = self._times[after - 1 : after + 1], self._used[after - 1 : after + 1]
        share = min(max((time - t0) / (t1 - t0), 0.0), 1.0)
        return Used(*(one + (other - one) * share for one, other in zip(u0, u1, strict=True)))


@asynccontextmanager
async def watched(redis: Redis, kafka_pids: Sequence[int]) -> AsyncIterator[UsageLog]:
    """A log of samples ten times a second and at both ends."""
    log, pids = UsageLog(), tree(kafka_pids)

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await log.sample(redis, pids)

    await log.sample(redis, pids)
    looking = asyncio.create_task(look())
    try:
        yield log
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        await log.sample(redis, pids)
