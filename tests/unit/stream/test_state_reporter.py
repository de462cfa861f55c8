"""What a worker publishes of its assignment."""

from time import monotonic

from structlog.testing import capture_logs

from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.state import PartitionState, Phase, WorkerState, health_of
from worker.stream.state_reporter import UNCONFIRMED_SECONDS, StateReporter
from worker.topics import TopicNames


def made() -> tuple[WorkerMetrics, StateReporter]:
    metrics = WorkerMetrics("1", lambda: 0.0)
    return metrics, StateReporter(metrics, TopicNames.of("t"))


def test_revoked_partitions_are_not_published_any_longer() -> None:
    metrics, reporter = made()
    reporter.assigned({3})
    metrics.state = WorkerState(monotonic(), has_joined=True, partitions=(PartitionState(3, Phase.LIVE, monotonic()),))
    assert "attendance_worker_partition_freshness_seconds{" in metrics.text().decode()
    reporter.revoked()
    assert "attendance_worker_partition_freshness_seconds{" not in metrics.text().decode()
    assert health_of(metrics.state, monotonic()) == (True, False, "waiting until the group assigns partitions")


def test_a_stop_is_published_at_once() -> None:
    metrics, reporter = made()
    metrics.state = WorkerState(monotonic(), has_joined=True)
    reporter.stopping()
    assert health_of(metrics.state, monotonic()) == (True, False, "stopping")


def test_heartbeats_without_an_answer_mean_that_redis_is_away() -> None:
    metrics, reporter = made()
    reporter.heartbeat_asked_at = monotonic()
    reporter.report_start()
    assert metrics.state.waiting == ()
    reporter.heartbeat_asked_at -= UNCONFIRMED_SECONDS
    reporter.report_start()
    assert metrics.state.waiting == ("redis",)


def test_a_report_that_fails_ends_nothing() -> None:
    metrics, reporter = made()
    reporter.assigned({3})
    metrics.state = WorkerState(0.0, has_joined=True, partitions=(PartitionState(3, Phase.LIVE),))
    with capture_logs() as logged:
        for _ in range(3):
            reporter.report(None, {}, None)  # type: ignore[arg-type] # anything that raises
    assert [each["event"] for each in logged] == ["the state of this worker is unknown"]
    assert metrics.state.partitions == ()
    assert health_of(metrics.state, monotonic()).live
