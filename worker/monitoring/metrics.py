"""Prometheus metrics of a worker. A batch costs a few observations, an event the count of its type and its source."""

from __future__ import annotations

from collections import Counter as CountOf
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.monitoring.state import OUTDATED_SECONDS, Phase, WorkerState, health_of

# a second series of each counter and histogram, which nobody reads
disable_created_metrics()  # type: ignore[no-untyped-call]

#: Sources that are exported: the ones heard last. A new one is taken once there is room in the minute, so that a device
#: which makes its source up does not fill Prometheus.
SOURCES, NEW_SOURCES_A_MINUTE = 1_000, 60
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RECORDS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
SERVICES = ("kafka", "redis")
STAGES = ("decode", "fold", "store", "emit")


class WorkerMetrics:
    """The metrics of one worker.

    Args:
        version: of the worker.
        clock: the time since the epoch, seconds.
    """

    def __init__(self, version: str, clock: Callable[[], float]) -> None:
        self.state = WorkerState(monotonic())
        """What the worker published last."""
        self._registry = registry = CollectorRegistry()
        self._clock = clock
        self._sources: dict[str, float] = {}
        """By source, when an event of it was last received; in the order of the last event."""
        self._minute, self._room = -1, 0
        """The number of a minute, and how many new sources are still taken in it."""
        Gauge("attendance_worker_build_info", "1, with the version", ("version",), registry=registry).labels(version).set(1)
        self._events = Counter(
            "attendance_worker_events",
            "Events and booking records, by what became of them: folded, folded without an effect, or forwarded",
            ("type", "outcome"),
            registry=registry,
        )
        self._dead_letters = Counter(
            "attendance_worker_dead_letters", "Records that cannot be used", ("topic", "reason"), registry=registry
        )
        self._batch_records = Histogram(
            "attendance_worker_batch_records", "Records of a batch", ("topic",), buckets=_RECORDS, registry=registry
        )
        stages = Histogram(
            "attendance_worker_stage_seconds", "Duration of a stage of a batch", ("stage",), buckets=_SECONDS, registry=registry
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        round_trips = Histogram(
            "attendance_worker_round_trip_seconds",
            "From a write to its acknowledgement, repeated attempts included",
            ("service",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._round_trips = {service: round_trips.labels(service) for service in SERVICES}
        self._rebalances = Counter("attendance_worker_rebalances", "Assignments of partitions", registry=registry)
        self._repairs = Counter(
            "attendance_worker_repairs", "Times that the read models of a partition were filled anew", registry=registry
        )
        self._untracked = Counter(
            "attendance_worker_sources_untracked", "New sources that are not exported, being too many", registry=registry
        )
        ProcessCollector(registry=registry)
        registry.register(_OfState(self))

    def observe_batch(
        self, topic: str, records: int, folded: Mapping[str, int], unchanged: Mapping[str, int], forwarded: Mapping[str, int]
    ) -> None:
        """Counts a decoded batch.

        Args:
            topic: ``events`` or ``bookings``.
            records: how many it has.
            folded: by type, how many of them are folded.
            unchanged: by type, how many of these had no effect.
            forwarded: by type, how many of them are forwarded.
        """
        self._batch_records.labels(topic).observe(records)
        for kind, count in folded.items():
            self._events.labels(kind, "folded").inc(count - unchanged.get(kind, 0))
        for outcome, counts in (("unchanged", unchanged), ("forwarded", forwarded)):
            for kind, count in counts.items():
                self._events.labels(kind, outcome).inc(count)

    def observe_sources(self, sources: Iterable[str]) -> None:
        """Notes that events of these sources were received."""
        now, known = self._clock(), self._sources
        for source in sources:
            if known.pop(source, None) is not None or self._admits(now):
                known[source] = now
                if len(known) > SOURCES:
                    del known[next(iter(known))]
            else:
                self._untracked.inc()

    def _admits(self, now: float) -> bool:
        if int(now / 60) != self._minute:
            self._minute, self._room = int(now / 60), max(NEW_SOURCES_A_MINUTE, SOURCES - len(self._sources))
        self._room -= 1
        return self._room >= 0

    def count_dead_letters(self, topic: str, reason: str, count: int) -> None:
        """Counts dead letters that are in Kafka."""
        self._dead_letters.labels(topic, reason).inc(count)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Observes a stage of a batch, one of `STAGES`."""
        self._stages[stage].observe(seconds)

    def observe_round_trip(self, service: str, seconds: float) -> None:
        """Observes a write that one of `SERVICES` has acknowledged."""
        self._round_trips[service].observe(seconds)

    def count_rebalance(self) -> None:
        """Counts an assignment of partitions."""
        self._rebalances.inc()

    def count_repair(self) -> None:
        """Counts a repair."""
        self._repairs.inc()

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus; from any thread."""
        return generate_latest(self._registry)

    def families(self, now: float) -> Iterator[Metric]:
        """What is true at a time of `time.monotonic`: of partitions only those that are assigned to this worker."""
        state = self.state
        health, partitions = health_of(state, now), state.partitions
        yield _one("attendance_worker_live", "1 while it is alive: what /livez says", health.live)
        yield _one("attendance_worker_ready", "1 while it is ready: what /readyz says", health.ready)
        yield _one("attendance_worker_heartbeat_age_seconds", "Since the event loop last ran", now - state.at)
        yield _one("attendance_worker_batches_in_flight", "Batches that are not acknowledged yet", state.batches_in_flight)
        waiting = {service: service in state.waiting for service in SERVICES}
        yield _each("attendance_worker_waiting", "1 while the worker waits for the service", "service", waiting)
        commits = CounterMetricFamily("attendance_worker_commits", "Commits of offsets", labels=("outcome",))
        for outcome, count in state.commits.items():
            commits.add_metric((outcome,), count)
        yield commits
        phases = CountOf(each.phase.value for each in partitions)
        counts = {phase.value: phases[phase.value] for phase in Phase}
        yield _each("attendance_worker_partitions", "Assigned partitions, by what happens to them", "state", counts)
        yield _each(
            "attendance_worker_partition_freshness_seconds",
            "Since Redis was known to hold everything that Kafka had of the partition",
            "partition",
            {str(each.number): now - each.fresh_at for each in partitions if each.fresh_at is not None},
        )
        lags = GaugeMetricFamily(
            "attendance_worker_partition_lag_records", "Records that are not applied yet", labels=("partition", "topic")
        )
        if now - state.at <= OUTDATED_SECONDS:
            for each in partitions:
                for topic, lag in each.lag.items():
                    lags.add_metric((str(each.number), topic), lag)
        yield lags
        if state.recovery is not None:
            total, remaining = state.recovery
            yield _one("attendance_worker_recovery_records", "Offsets of the changelogs that a recovery reads", total)
            yield _one("attendance_worker_recovery_remaining_records", "Of these, those that are not read yet", remaining)
        yield _each(
            "attendance_worker_source_last_event_seconds",
            "When an event of the source was last received, since the epoch; the newest sources only",
            "source",
            self._sources.copy(),  # in one step of the interpreter: the event loop changes it
        )


class _OfState(Collector):
    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families(monotonic())


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _each(name: str, text: str, label: str, values: Mapping[str, Any]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
