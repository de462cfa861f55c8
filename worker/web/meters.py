"""What Prometheus is told of an API process, or of all processes of one `attendance api`."""

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from worker.read_model.reader import Partition

#: Where several processes keep their figures for whichever of them is asked.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Meters:
    """Counters of one app."""

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
            "attendance_api_requests_in_flight", "Requests under way", registry=self._registry, multiprocess_mode="livesum"
        )
        self._denied = Counter(
            "attendance_api_denied", "Requests without a token that allows them", ("status",), registry=self._registry
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}

    def began(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._in_flight.dec()
        child = self._children.get((route, method, status))
        if child is None:
            child = self._children[route, method, status] = self._seconds.labels(route, method, status)
        child.observe(seconds)
        if status in (401, 403):
            self._denied.labels(status).inc()

    def text(self, partitions: Iterable[Partition]) -> bytes:
        """Everything in Prometheus' text format.

        Args:
            partitions: the read models' watermarks; none where Redis does not say.
        """
        registry = CollectorRegistry()
        lag = Gauge("attendance_partition_lag", "Records not applied yet", ("partition",), registry=registry)
        serving = Gauge("attendance_partition_serving", "1 where readers are served", ("partition",), registry=registry)
        for each in partitions:
            serving.labels(each.number).set(each.state == "live")
            if each.lag is not None:
                lag.labels(each.number).set(each.lag)
        if FOLDER in os.environ:
            own = CollectorRegistry()
            MultiProcessCollector(own)  # type: ignore[no-untyped-call]
            return generate_latest(own) + generate_latest(registry)
        return generate_latest(self._registry) + generate_latest(registry)
