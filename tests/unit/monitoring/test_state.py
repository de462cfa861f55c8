"""What is alive and what is ready."""

import pytest

from worker.monitoring.state import PartitionState, Phase, WorkerState, health_of

SERVING = WorkerState(100.0, has_joined=True, partitions=(PartitionState(3, Phase.LIVE),))


@pytest.mark.parametrize(
    ("state", "now", "live", "ready", "reason"),
    [
        (SERVING, 101.0, True, True, ""),
        (SERVING._replace(partitions=()), 101.0, True, True, ""),
        (WorkerState(100.0), 100.0, True, False, "waiting until the group assigns partitions"),
        (WorkerState(100.0, waiting=("kafka",)), 100.0, True, False, "waiting for kafka"),
        (SERVING._replace(waiting=("kafka", "redis")), 101.0, True, False, "waiting for kafka and redis"),
        (SERVING._replace(is_stopping=True), 101.0, True, False, "stopping"),
        (
            SERVING._replace(partitions=(PartitionState(1, Phase.RECOVERING), PartitionState(3, Phase.LIVE)), recovery=(9, 4)),
            101.0,
            True,
            False,
            "recovering partitions 1: 4 of 9 offsets remain",
        ),
        (
            SERVING._replace(partitions=(PartitionState(1, Phase.REPAIRING),)),
            101.0,
            True,
            False,
            "filling the read models of partitions 1",
        ),
        (SERVING._replace(stalled="no offset was completed"), 101.0, False, False, "no offset was completed"),
        (SERVING, 111.0, False, False, "the event loop has not run for 11 s"),
    ],
)
def test_health_follows_from_the_state(state: WorkerState, now: float, live: bool, ready: bool, reason: str) -> None:
    assert health_of(state, now) == (live, ready, reason)
