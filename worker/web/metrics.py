"""Prometheus metrics of an API process, or of all processes of one `attendance api`."""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

#: Environment variable of the folder where several processes keep their metrics, so that each can export all of them.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


# a second series of each counter and histogram, which nobody reads
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "attendance_api_request_seconds",
            "Requests by route, method and status, and how long they took",
            ("route", "method", "status"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "attendance_api_requests_in_flight", "Concurrent requests", registry=self._registry, multiprocess_mode="livesum"
        )
        self._denied = Counter(
            "attendance_api_denied", "Requests without a token that allows them", ("status",), registry=self._registry
        )
        self._streams = Gauge(
            "attendance_api_streams", "Open live streams", registry=self._registry, multiprocess_mode="livesum"
        )
        self._dropped = Counter(
            "attendance_api_streams_dropped",
            "Live streams that the server ended, by reason",
            ("reason",),
            registry=self._registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}

    def began(self) -> None:
        """Counts a request in flight."""
        self._in_flight.inc()

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts the response to a request."""
        self._in_flight.dec()
        child = self._children.get((route, method, status))
        if child is None:
            child = self._children[route, method, status] = self._seconds.labels(route, method, status)
        child.observe(seconds)
        if status in (401, 403):
            self._denied.labels(status).inc()

    def stream_began(self) -> None:
        """Counts an open stream."""
        self._streams.inc()

    def stream_ended(self) -> None:
        """Counts the end of a stream, whoever ended it."""
        self._streams.dec()

    def stream_dropped(self, reason: str) -> None:
        """Counts a stream that the server ended."""
        self._dropped.labels(reason).inc()

    def text(self, families: list[Metric]) -> bytes:
        """All metrics in the text format of Prometheus, each family once.

        Args:
            families: gauges of what Redis has, see `worker.web.partition_metrics`.
        """
        registry = CollectorRegistry()
        if FOLDER in os.environ:
            _forget_dead_processes(Path(os.environ[FOLDER]))
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry.register(self._registry)
        registry.register(_Families(families))
        return generate_latest(registry)


class _Families(Collector):
    """Exports given families."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _forget_dead_processes(folder: Path) -> None:
    """Removes the requests in flight of processes that were killed; their counters remain."""
    for file in folder.glob("gauge_live*_*.db"):
        number = int(file.stem.rpartition("_")[2])
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            mark_process_dead(number)  # type: ignore[no-untyped-call]
