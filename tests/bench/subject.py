"""The worker on a prepared backlog: what it does in a second, and what an event costs it, Redis and Kafka.

Bookings are loaded and applied first. Then the worker is stopped, the events are put into the topic, and it is started
again; see `Watch.span` for what is measured of that. When the backlog is done, the same worker can be asked how fresh its
answers are.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.bench import freshness
from tests.bench.freshness import Freshness
from tests.bench.loading import end_offsets, load
from tests.bench.running import Ground, Span, Watch, clean_redis, used_memory
from tests.bench.workload import Workload
from worker.ops import topics
from worker.topics import TopicNames


class Measured(NamedTuple):
    """What the worker's run gave."""

    span: Span
    peak_rss_bytes: int
    bytes_per_attendance: float
    """Growth of Redis's used_memory by the events, alerts included, by attendances."""
    bytes_per_booking: float
    """The same by loading the bookings: their summaries, and the tallies of the sessions they list."""
    alerts: int
    """Alerts published, opened and resolved."""
    fresh: Freshness | None


async def measure(ground: Ground, prefix: str, partitions: int, workload: Workload, *, fresh: bool) -> Measured:
    """Runs the worker twice: for the bookings, and for the events.

    Raises:
        BenchFailed: it ended, or made no progress.
    """
    settings = ground.under(prefix, partitions)
    names = TopicNames.of(prefix)
    await topics.create(settings)
    async with clean_redis(settings) as redis:
        empty = await used_memory(redis)
        if workload.booking_count:
            ends = await load(settings, names.bookings, workload.bookings)
            with ground.worker(f"{prefix}-bookings", settings, prefix) as child:
                await Watch(ground, settings, redis, child).reach("bookings", ends)
        loaded = await used_memory(redis)
        ends = await load(settings, names.events, workload.events)
        with ground.worker(f"{prefix}-events", settings, prefix) as child:
            watch = Watch(ground, settings, redis, child)
            span = await watch.span([0] * partitions, ends)
            rss = child.peak_rss_bytes()
            full = await used_memory(redis)
            seen = await freshness.measure(settings, watch, workload) if fresh else None
    return Measured(
        span,
        rss,
        (full - loaded) / workload.attendances,
        (loaded - empty) / max(workload.booking_count, 1),
        sum(await end_offsets(settings, names.alerts, partitions)),
        seen,
    )
