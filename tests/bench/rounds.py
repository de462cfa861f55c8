"""One run of the benchmark: its parts one after the other, each on topics of its own and an empty Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from rich.console import Console

from tests.bench import against, figures, million, parts, subject, workload
from tests.bench.figures import Figures
from tests.bench.loading import load
from tests.bench.peers import Workplace
from tests.bench.process import BenchFailed
from tests.bench.programs import PEERS
from tests.bench.running import Ground, clean_redis
from tests.bench.usage import watched
from tests.bench.workload import Workload
from tests.support.services import ServiceError
from worker.ops import topics
from worker.topics import TopicNames

#: In the order in which they run: what is compared most is neighbours, since the speed of machines drifts.
PARTS = (
    "parts",
    "worker",
    "kafka_streams",
    "worker_job",
    "worker_python",
    "raw_aiokafka",
    "quix_streams",
    "stock_faust",
    "growth",
    "million",
)
#: Of the workloads that not all parts are measured on, these are.
PARTS_OF: Mapping[str, Sequence[str]] = {"ordered": ("worker", "kafka_streams", "worker_python"), "adversarial": ("worker",)}
PARTITIONS = 4
SIZES = (100_000, 1_000_000)
_WARM_UP = 100_000
_FAILURES = (BenchFailed, ServiceError, topics.TopicsError, TimeoutError, KafkaError, RedisError, OSError)

_progress = Console(stderr=True, highlight=False)


class Order(NamedTuple):
    """What is to be measured."""

    chosen: Sequence[str]
    """Of `PARTS`."""
    workloads: Mapping[str, Workload]
    """By name."""
    now: int
    """Microseconds since the epoch when the workloads were made."""
    seed: int
    peer_seconds: float
    attendances: int
    """Of the part `million`."""


async def warm_up(ground: Ground, now: int, seed: int) -> None:
    """A worker's run that counts for nothing. Kafka's JIT would else compile while what is measured first is measured.

    Raises:
        BenchFailed: the worker ended, or made no progress.
    """
    load = workload.make(_WARM_UP, PARTITIONS, now, seed)
    await subject.measure(ground, "warm-up", PARTITIONS, load, fresh=True)


class Round:
    """Collects figures, and of parts that failed the reasons."""

    def __init__(self, ground: Ground, order: Order, number: int) -> None:
        self.figures: Figures = {}
        self.failed: list[str] = []
        self._ground = ground
        self._order = order
        self._number = number

    async def run(self) -> None:
        """Measures what was chosen; a part that fails is named at once, and the others go on."""
        self.figures["load_before"] = os.getloadavg()[0]
        for name, of_name in self._order.workloads.items():
            for part in PARTS:
                if part in self._order.chosen and part in PARTS_OF.get(name, PARTS):
                    await self._try(f"{name} {part}", self._step(part, name, of_name))

    def _step(self, part: str, name: str, events: Workload) -> Callable[[], Awaitable[None]]:
        if part == "worker":
            return lambda: self._worker(name, part, events, fresh=name == "reference")
        if part == "worker_python":
            return lambda: self._worker(name, part, events, self._ground.with_core("python"))
        if part == "worker_job":
            return lambda: self._worker(name, part, events.without_bookings(), self._ground.without_conflicts())
        if part in PEERS:
            return lambda: self._peer(name, part, events)
        return {"parts": self._parts, "growth": self._growth, "million": self._million}[part]

    async def _try(self, part: str, step: Callable[[], Awaitable[None]]) -> None:
        _progress.print(f"run {self._number}: measuring {part}")
        try:
            await step()
        except _FAILURES as error:
            said = f"{part} FAILED: {error or type(error).__name__}"
            self.failed.append(said)
            _progress.print(f"bench: {said}", style="red", markup=False)

    async def _parts(self) -> None:
        order, events = self._order, next(iter(self._order.workloads.values()))
        self.figures |= figures.of_parts(parts.measure(self._ground.settings, events, order.now))

    async def _worker(
        self, name: str, line: str, events: Workload, ground: Ground | None = None, *, fresh: bool = False
    ) -> None:
        prefix = f"{name}-{line}-{self._number}"
        measured = await subject.measure(ground or self._ground, prefix, PARTITIONS, events, fresh=fresh)
        self.figures |= figures.of_worker(f"{name}.{line}", measured)
        if (name, line) == ("reference", "worker"):
            self.figures |= figures.of_size(events.event_count, measured)

    async def _growth(self) -> None:
        order = self._order
        for events in SIZES:
            if f"sizes.{events}.cpu_us" in self.figures:
                continue
            load = workload.make(events, PARTITIONS, order.now, order.seed)
            measured = await subject.measure(self._ground, f"size{events}-{self._number}", PARTITIONS, load, fresh=False)
            self.figures |= figures.of_size(events, measured)

    async def _million(self) -> None:
        order, prefix = self._order, f"million{self._number}"
        held = await million.measure(self._ground, prefix, order.now, order.seed, order.attendances)
        self.figures |= figures.of_million(held)

    async def _peer(self, name: str, peer: str, events: Workload) -> None:
        prefix = f"peers-{name}"
        settings, topic = self._ground.under(prefix, PARTITIONS), TopicNames.of(prefix).events
        if (await topics.create(settings)).created:
            await load(settings, topic, events.events)
        place = Workplace(
            broker=settings.bootstrap_servers[0],
            redis=urlsplit(settings.redis.get_secret_value())._replace(path="/1").geturl(),
            topic=topic,
            partitions=PARTITIONS,
            events=events.event_count,
            seconds=self._order.peer_seconds,
        )
        async with clean_redis(settings) as redis:
            async with watched(redis, self._ground.kafka_pids) as log:
                result = await asyncio.to_thread(against.measure, peer, place, self._ground.folder)
            await redis.flushall()
        used = log.between(result.started_at, result.started_at + result.seconds)
        self.figures |= figures.of_peer(f"{name}.{peer}", result, used)
