"""What a worker exports: bounded labels, and nothing that is outdated."""

import re
from time import monotonic

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from worker.monitoring.metrics import NEW_SOURCES_A_MINUTE, SOURCES, WorkerMetrics
from worker.monitoring.state import PartitionState, Phase, WorkerState

OURS = PartitionState(3, Phase.LIVE, monotonic(), {"events": 7})


def values(metrics: WorkerMetrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric, by the values of their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name == name
    }


def test_a_partition_of_another_worker_has_no_series() -> None:
    metrics = WorkerMetrics("1", lambda: 0.0)
    metrics.state = WorkerState(monotonic(), has_joined=True, partitions=(OURS,))
    assert values(metrics, "attendance_worker_partition_lag_records") == {("3", "events"): 7}
    assert values(metrics, "attendance_worker_partition_freshness_seconds").keys() == {("3",)}
    metrics.state = metrics.state._replace(partitions=())
    assert values(metrics, "attendance_worker_partition_lag_records") == {}
    assert values(metrics, "attendance_worker_partition_freshness_seconds") == {}


def test_a_blocked_worker_exports_no_lag_and_an_old_freshness() -> None:
    metrics = WorkerMetrics("1", lambda: 0.0)
    metrics.state = WorkerState(monotonic() - 60, has_joined=True, partitions=(OURS._replace(fresh_at=monotonic() - 61),))
    assert values(metrics, "attendance_worker_partition_lag_records") == {}
    assert values(metrics, "attendance_worker_partition_freshness_seconds")[("3",)] > 60
    assert values(metrics, "attendance_worker_live") == {(): 0}


def test_recovery_is_exported_only_while_it_runs() -> None:
    metrics = WorkerMetrics("1", lambda: 0.0)
    assert values(metrics, "attendance_worker_recovery_remaining_records") == {}
    metrics.state = WorkerState(monotonic(), recovery=(10, 4))
    assert values(metrics, "attendance_worker_recovery_records") == {(): 10}
    assert values(metrics, "attendance_worker_recovery_remaining_records") == {(): 4}


def test_invented_sources_are_bounded_in_number_and_in_rate() -> None:
    now = 0.0
    metrics = WorkerMetrics("1", lambda: now)
    metrics.observe_sources({f"/devices/{n}" for n in range(SOURCES)})
    for minute in range(1, 4):
        now = 60.0 * minute
        before = values(metrics, "attendance_worker_source_last_event_seconds")
        metrics.observe_sources(["/devices/0"])
        metrics.observe_sources(f"invented-{minute}-{n}" for n in range(5 * SOURCES))
        after = values(metrics, "attendance_worker_source_last_event_seconds")
        assert len(after) == SOURCES
        assert len(after.keys() - before.keys()) == NEW_SOURCES_A_MINUTE
        assert after[("/devices/0",)] == now
    assert values(metrics, "attendance_worker_sources_untracked_total") == {(): 3 * (5 * SOURCES - NEW_SOURCES_A_MINUTE)}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=10, unique=True))
def test_any_source_is_exported_as_it_is(sources: list[str]) -> None:
    metrics = WorkerMetrics("1", lambda: 5.0)
    metrics.observe_sources(sources)
    shown = metrics.text().decode()
    escaped = {text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for text in sources}
    found = re.findall(r'^attendance_worker_source_last_event_seconds\{source="(.*)"\} 5\.0$', shown, re.MULTILINE | re.DOTALL)
    assert not sources or found
    assert all(f'{{source="{each}"}} 5.0\n' in shown for each in escaped)


def test_counts_add_up() -> None:
    metrics = WorkerMetrics("1", lambda: 0.0)
    metrics.observe_batch("events", 5, {"attendance.check_in": 3}, {"attendance.check_in": 2}, {"attendance.set": 1})
    metrics.observe_batch("events", 2, {"attendance.check_in": 2}, {}, {"attendance.check_in": 1})
    metrics.count_dead_letters("events", "invalid-json", 4)
    assert values(metrics, "attendance_worker_events_total") == {
        ("folded", "attendance.check_in"): 3,
        ("unchanged", "attendance.check_in"): 2,
        ("forwarded", "attendance.check_in"): 1,
        ("forwarded", "attendance.set"): 1,
    }
    assert values(metrics, "attendance_worker_dead_letters_total") == {("invalid-json", "events"): 4}
    assert values(metrics, "attendance_worker_batch_records_sum") == {("events",): 7}
