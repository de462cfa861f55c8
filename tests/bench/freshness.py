"""How long after it was produced an event can be read in Redis, while a thousand come in every second.

Events are sent one by one at a steady pace to a worker that has nothing else to do. Meanwhile the partitions' watermarks
(`events.offset`) are read every few milliseconds: an event is readable when its partition's watermark is beyond its offset,
since the watermark moves with the last write of its batch. So what is measured is late by the time between two looks.
"""

from __future__ import annotations

import asyncio
import json
import random
from bisect import bisect_right
from time import perf_counter, time
from typing import Any, NamedTuple

from schemas.times import format_time
from tests.bench.loading import end_offsets
from tests.bench.process import BenchFailed
from tests.bench.running import Span, Watch
from tests.bench.workload import Workload, event
from worker.kafka import create_producer
from worker.settings import Settings
from worker.topics import TopicNames

EVENTS_PER_S = 1000
SECONDS = 20
_LOOK_S = 0.002
_REST_S = 10.0


class Freshness(NamedTuple):
    """Milliseconds from before the send to the look that found it."""

    p50_ms: float
    p99_ms: float
    look_ms: float
    """Mean time between two looks."""
    worker_us: float
    """CPU per event in these seconds, microseconds, and that of Redis, which the looks add to, and of the broker."""
    redis_us: float
    kafka_us: float


class _Looks:
    """What was seen of the watermarks: times, and the offsets of each partition then."""

    def __init__(self, partitions: int) -> None:
        self.times: list[float] = []
        self.marks: list[list[int]] = [[] for _ in range(partitions)]
        self._goal: list[int] | None = None
        self._reached = asyncio.Event()

    async def run(self, watch: Watch) -> None:
        """Looks until it is cancelled."""
        while True:
            offsets = await watch.offsets("events")
            if offsets:
                self.times.append(perf_counter())
                for marks, offset in zip(self.marks, offsets, strict=True):
                    marks.append(offset)
                if self._goal is not None and all(map(int.__ge__, offsets, self._goal)):
                    self._reached.set()
            await asyncio.sleep(_LOOK_S)

    async def reach(self, ends: list[int]) -> None:
        """Waits until all before these offsets was seen. Raises TimeoutError after ten seconds."""
        self._goal = ends
        await asyncio.wait_for(self._reached.wait(), _REST_S)

    def readable_at(self, partition: int, offset: int) -> float:
        """When it was first seen applied, which it was."""
        return self.times[bisect_right(self.marks[partition], offset)]


async def measure(settings: Settings, watch: Watch, workload: Workload) -> Freshness:
    """Sends 1,000 events a second for 20 seconds.

    Raises:
        BenchFailed: an event could not be read ten seconds after the last one was sent.
    """
    looks = _Looks(settings.partitions)
    looking = asyncio.create_task(looks.run(watch))
    topic = TopicNames.of(settings.topic_prefix).events
    try:
        first = await watch.sample(await end_offsets(settings, topic, settings.partitions))
        sent = await _send(settings, workload)
        ends = await end_offsets(settings, topic, settings.partitions)
        await looks.reach(ends)
        used = Span.between(first, await watch.sample(ends))
    except TimeoutError as late:
        raise BenchFailed(f"freshness: not all events were applied {_REST_S:.0f} s after the last") from late
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    waits = sorted((looks.readable_at(*where) - at) * 1e3 for where, at in sent)
    look_ms = (looks.times[-1] - looks.times[0]) / len(looks.times) * 1e3
    p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    return Freshness(p50, p99, look_ms, used.worker_us, used.redis_us, used.kafka_us)


async def _send(settings: Settings, workload: Workload) -> list[tuple[tuple[int, int], float]]:
    """((partition, offset), time of the send) of each event; they are of bookings and sessions of the workload."""
    topic, rng = TopicNames.of(settings.topic_prefix).events, random.Random(7)
    sends: list[tuple[int, asyncio.Future[Any], float]] = []
    async with create_producer(settings, linger_ms=0) as producer:
        await producer.partitions_for(topic)
        start = perf_counter()
        for number in range(EVENTS_PER_S * SECONDS):
            await asyncio.sleep(max(0.0, start + number / EVENTS_PER_S - perf_counter()))
            partition = rng.randrange(settings.partitions)
            key, known = rng.choice(workload.events[partition])
            session, now = json.loads(known)["data"]["sessionId"], format_time(int(time() * 1e6))
            value = event(f"f{number}", "/devices/kiosk-1", "check_in", now, key.decode(), session)
            at = perf_counter()
            sends.append((partition, await producer.send(topic, value, key=key, partition=partition), at))
        return [((partition, (await sending).offset), at) for partition, sending, at in sends]
