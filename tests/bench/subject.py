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
from worker.settings import Settings
from worker.topics import TopicNames

#: In so many steps bookings change while the events are worked on.
_STEPS = 10


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


class Changes:
    """Publishes the changed bookings of a workload in steps, each when the events before it were applied."""

    def __init__(self, settings: Settings, workload: Workload, watch: Watch) -> None:
        self._settings, self._workload, self._watch = settings, workload, watch

    async def publish(self) -> list[int]:
        """The end offsets of the bookings topic after the last step."""
        topic, ends = TopicNames.of(self._settings.topic_prefix).bookings, list[int]()
        for step in range(_STEPS):
            await self._watch.reach_events(self._workload.event_count * step // _STEPS)
            some = [records[step::_STEPS] for records in self._workload.changes]
            ends = await load(self._settings, topic, some)
        return ends


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
            changes = Changes(settings, workload, watch) if workload.changes else None
            span = await watch.span([0] * partitions, ends, changes and changes.publish)
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
