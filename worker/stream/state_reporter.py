"""Publishes what a worker is doing, for its port: twice a second, without a question to a service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic

import structlog
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from worker.engine.faust_consumer import Consumer
from worker.engine.fetching import ConfirmedEnd
from worker.engine.recovery import RecoveryProgress
from worker.engine.watchdog import Watchdog
from worker.monitoring.freshness import LogFreshness
from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.state import PartitionState, Phase, WorkerState
from worker.read_model.freshness import STALE_AFTER
from worker.stream.partition import Partition
from worker.stream.retry import waiting_calls
from worker.topics import TopicNames

log = structlog.get_logger(__name__)

#: How often the state is published, seconds.
REPORT_SECONDS = 0.5
#: Kafka counts as unavailable if the end of one of the logs was not confirmed for longer than this, and Redis if it has not
#: answered the heartbeats for so long, seconds.
UNCONFIRMED_SECONDS = 3.0
#: For what `until_done` and the heartbeats wait, and the service that it means.
_SERVICES = {"kafka": "kafka", "changelog": "kafka", "recovery": "kafka", "redis": "redis", "heartbeat": "redis"}


class StateReporter:
    """Publishes the state of one worker to its metrics."""

    def __init__(self, metrics: WorkerMetrics, topics: TopicNames) -> None:
        self.recovery = RecoveryProgress()
        """Of the assignment now."""
        self.has_consumer = False
        """Whether the group has ever assigned partitions, perhaps none."""
        self.heartbeat_asked_at: float | None = None
        """Since when Redis has not answered the heartbeats, in `time.monotonic`; None: they are answered."""
        self._has_joined = False
        self._is_stopping = False
        self._is_unknown = False
        self._metrics = metrics
        self._topics = {"events": topics.events, "bookings": topics.bookings}
        self._assigned: set[int] = set()
        self._logs: dict[TP, LogFreshness] = {}

    def assigned(self, numbers: set[int]) -> None:
        """Begins a new assignment: its logs are observed from now on."""
        self._assigned, self._logs, self.recovery = numbers, {}, RecoveryProgress()
        self.has_consumer = self._has_joined = True
        self._metrics.count_rebalance()

    def revoked(self) -> None:
        """Ends the assignment: what concerns its partitions is not exported any longer."""
        self._assigned, self._logs, self._has_joined = set(), {}, False
        self._publish(self._metrics.state._replace(partitions=(), recovery=None, stalled="", has_joined=False))

    def stopping(self) -> None:
        """Publishes that the worker stops."""
        self._is_stopping = True
        self._publish(self._metrics.state)

    def report_start(self) -> None:
        """Publishes the state of a worker that has no consumer yet."""
        self._publish(WorkerState(monotonic(), waiting=self._waiting(())))

    def report(self, consumer: Consumer, partitions: Mapping[int, Partition], watchdog: Watchdog) -> None:
        """Publishes the state now.

        Args:
            partitions: those that are recovered.
        """
        try:
            self._publish(self._state(consumer, partitions, watchdog))
        except ConsumerNotStarted:  # it stops
            self._publish(self._metrics.state._replace(at=monotonic()))
        except Exception as error:  # noqa: BLE001 - what shows the work must not end it
            if not self._is_unknown:
                self._is_unknown = True
                log.error("the state of this worker is unknown", error=repr(error))
            self._publish(self._metrics.state._replace(at=monotonic(), partitions=(), recovery=None))

    def _state(self, consumer: Consumer, partitions: Mapping[int, Partition], watchdog: Watchdog) -> WorkerState:
        tps = {number: {name: TP(topic, number) for name, topic in self._topics.items()} for number in self._assigned}
        ends = {tp: end for each in tps.values() for tp in each.values() if (end := consumer.confirmed_end(tp)) is not None}
        recent = {tp: end for tp, end in ends.items() if monotonic() - end.asked_at <= STALE_AFTER}
        completed = {tp: consumer.tracker.progress_of(tp).completed for tp in ends}
        for tp, end in ends.items():
            if (offset := completed[tp]) is not None:
                self._logs.setdefault(tp, LogFreshness()).observe(end.stable, end.asked_at, offset)
        states = []
        for number, of_topic in sorted(tps.items()):
            partition = partitions.get(number)
            if partition is None:
                states.append(PartitionState(number, Phase.RECOVERING))
                continue
            logs = [self._logs.get(tp) for tp in of_topic.values()]
            times = [log.fresh_at for log in logs if log is not None and log.fresh_at is not None]
            fresh_at = partition.fresh_at(min(times) if len(times) == len(of_topic) else None)
            lag = {name: max(0, recent[tp].stable - (completed[tp] or 0)) for name, tp in of_topic.items() if tp in recent}
            states.append(PartitionState(number, partition.phase, fresh_at, lag))
        is_recovering = any(each.phase == Phase.RECOVERING for each in states)
        return WorkerState(
            monotonic(),
            has_joined=self._has_joined,
            waiting=self._waiting(ends.values()),
            partitions=tuple(states),
            recovery=(self.recovery.total, self.recovery.remaining) if is_recovering and self.recovery.is_known else None,
            stalled=watchdog.suspected({tp: end.stable for tp, end in recent.items()}),
            batches_in_flight=consumer.tracker.in_flight,
            commits=dict(consumer.commits),
        )

    def _publish(self, state: WorkerState) -> None:
        self._metrics.state = state._replace(is_stopping=self._is_stopping)

    def _waiting(self, ends: Iterable[ConfirmedEnd]) -> tuple[str, ...]:
        services = {_SERVICES.get(what, what) for what, calls in waiting_calls.items() if calls > 0}
        latest = monotonic() - UNCONFIRMED_SECONDS
        if any(end.asked_at < latest for end in ends):
            services.add("kafka")
        if self.heartbeat_asked_at is not None and self.heartbeat_asked_at < latest:
            services.add("redis")
        return tuple(sorted(services))
