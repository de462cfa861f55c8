"""The parts that every event passes, alone: decode, fold and metrics, each the best of five repeats.

The garbage collector is off while they are timed, as `timeit` has it: here it would walk through the whole workload.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter, time
from typing import NamedTuple

from schemas.decoding.explain import decode
from schemas.events import Event
from tests.bench.workload import Record, Workload
from worker.domain.fold import NEVER, NOTHING, Row, fold, order_key
from worker.durations import micros
from worker.monitoring.metrics import STAGES, WorkerMetrics
from worker.settings import Settings

REPEATS = 5
SAMPLE = 20_000
BATCH = 1_000


class Services(NamedTuple):
    """Microseconds per event."""

    decode_us: float
    fold_us: float
    """The order key and the fold of one event into the row that those before it made."""
    metrics_us: float
    """What its worker counts and observes of a batch of `BATCH` events."""


def measure(settings: Settings, workload: Workload, now: int) -> Services:
    """Times the parts on events of the workload, received at `now` (microseconds)."""
    records = workload.events[0][:SAMPLE]
    max_age, tolerance = micros(settings.max_event_age), micros(settings.clock_tolerance)
    decoded, metrics = _decode_all(records, now // 1000, max_age), WorkerMetrics("bench", time)
    return Services(
        _best(lambda: _decode_all(records, now // 1000, max_age), len(records)),
        _best(lambda: _fold_all(decoded, tolerance), len(decoded)),
        _best(lambda: _count_all(decoded, metrics), len(decoded)),
    )


def _decode_all(records: Sequence[Record], timestamp: int, max_age: int) -> list[Event]:
    decoded = [decode(value, (), timestamp, max_age=max_age) for _, value in records]
    return [event for event in decoded if isinstance(event, Event)]


def _fold_all(events: Sequence[Event], tolerance: int) -> None:
    rows: dict[tuple[str, str], Row] = {}
    for event in events:
        pair, keyed = (event.booking_id, event.session_id), (order_key(event, tolerance), event)
        rows[pair], _ = fold(rows.get(pair, NOTHING), {}, [keyed], NEVER)


def _count_all(events: Sequence[Event], metrics: WorkerMetrics) -> None:
    for start in range(0, len(events), BATCH):
        batch = events[start : start + BATCH]
        folded, sources = Counter(event.type for event in batch), {event.source for event in batch}
        metrics.observe_batch("events", len(batch), folded, {}, {})
        metrics.observe_sources(sources)
        for stage in STAGES:
            metrics.observe_stage(stage, 0.01)
        for service in ("kafka", "kafka", "redis"):
            metrics.observe_round_trip(service, 0.01)


def _best(work: Callable[[], object], count: int) -> float:
    times = []
    gc.disable()
    try:
        for _ in range(REPEATS):
            start = perf_counter()
            work()
            times.append(perf_counter() - start)
    finally:
        gc.enable()
    return min(times) / count * 1e6
