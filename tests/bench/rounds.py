"""One run of the benchmark: its parts one after the other, each on topics of its own and an empty Redis."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from rich.console import Console

from tests.bench import against, million, parts, report, subject, workload
from tests.bench.loading import load
from tests.bench.peers import Workplace
from tests.bench.process import BenchFailed
from tests.bench.programs import PEERS
from tests.bench.report import Figures
from tests.bench.running import Ground, clean_redis
from tests.bench.workload import Workload
from tests.support.services import ServiceError
from worker.ops import topics
from worker.topics import TopicNames

#: In the order in which they run.
PARTS = ("parts", "worker", "growth", "million", *PEERS)
PARTITIONS = 4
SIZES = (100_000, 1_000_000)
_WARM_UP = 100_000
_PEERS_PREFIX = "peers"
_FAILURES = (BenchFailed, ServiceError, topics.TopicsError, TimeoutError, KafkaError, RedisError, OSError)

_progress = Console(stderr=True, highlight=False)


class Order(NamedTuple):
    """What is to be measured."""

    chosen: Sequence[str]
    """Of `PARTS`."""
    workload: Workload
    now: int
    """Microseconds since the epoch when the workload was made."""
    seed: int
    ordered: bool
    peer_seconds: float


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
        steps = {"parts": self._parts, "worker": self._worker, "growth": self._growth, "million": self._million}
        self.figures["load_before"] = os.getloadavg()[0]
        for part in PARTS:
            if part in self._order.chosen:
                await self._try(part, steps.get(part) or self._peer(part))

    async def _try(self, part: str, step: Callable[[], Awaitable[None]]) -> None:
        _progress.print(f"run {self._number}: measuring {part}")
        try:
            await step()
        except _FAILURES as error:
            said = f"{part} FAILED: {error or type(error).__name__}"
            self.failed.append(said)
            _progress.print(f"bench: {said}", style="red", markup=False)

    async def _parts(self) -> None:
        order = self._order
        self.figures |= report.of_parts(parts.measure(self._ground.settings, order.workload, order.now))

    async def _worker(self) -> None:
        load = self._order.workload
        measured = await subject.measure(self._ground, f"main{self._number}", PARTITIONS, load, fresh=True)
        self.figures |= report.of_worker(measured)
        self.figures |= report.of_size(load.event_count, measured)

    async def _growth(self) -> None:
        order = self._order
        for events in SIZES:
            if f"sizes.{events}.worker_us_per_event" in self.figures:
                continue
            load = workload.make(events, PARTITIONS, order.now, order.seed, ordered=order.ordered)
            prefix = f"size{events}-{self._number}"
            measured = await subject.measure(self._ground, prefix, PARTITIONS, load, fresh=False)
            self.figures |= report.of_size(events, measured)

    async def _million(self) -> None:
        held = await million.measure(self._ground, f"million{self._number}", self._order.now, self._order.seed)
        self.figures |= report.of_million(held)

    def _peer(self, peer: str) -> Callable[[], Awaitable[None]]:
        async def step() -> None:
            settings = self._ground.under(_PEERS_PREFIX, PARTITIONS)
            topic = TopicNames.of(_PEERS_PREFIX).events
            if (await topics.create(settings)).created:
                await load(settings, topic, self._order.workload.events)
            place = Workplace(
                broker=settings.bootstrap_servers[0],
                redis=urlsplit(settings.redis.get_secret_value())._replace(path="/1").geturl(),
                topic=topic,
                partitions=PARTITIONS,
                events=self._order.workload.event_count,
                seconds=self._order.peer_seconds,
            )
            async with clean_redis(settings) as redis:
                self.figures |= report.of_peer(peer, against.measure(peer, place, self._ground.folder))
                await redis.flushall()

        return step
