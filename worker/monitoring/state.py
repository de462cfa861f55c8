"""What a worker is doing, as it publishes it twice a second, and what follows for its health.

The port reads these values in a thread of its own. Each is immutable, so no lock is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

#: A worker whose event loop has not run for so long is not alive, seconds.
BLOCKED_SECONDS = 10.0
#: What a worker whose event loop has not run for so long has published is outdated, seconds.
OUTDATED_SECONDS = 4.0


class Phase(StrEnum):
    """What happens to a partition that is assigned to the worker."""

    RECOVERING = "recovering"
    REPAIRING = "repairing"
    LIVE = "live"


class PartitionState(NamedTuple):
    """One assigned partition. Times are those of `time.monotonic`."""

    number: int
    phase: Phase
    fresh_at: float | None = None
    """When Redis was last known to hold everything that Kafka had; None: not known yet."""
    lag: Mapping[str, int] = {}
    """Records not applied yet, by ``events`` and ``bookings``; a topic is absent if Kafka does not answer."""


class WorkerState(NamedTuple):
    """A worker at one moment of `time.monotonic`."""

    at: float
    has_joined: bool = False
    """Whether the group has given it its partitions, of which there may be none."""
    is_stopping: bool = False
    waiting: tuple[str, ...] = ()
    """Services that it waits for: ``kafka``, ``redis``."""
    partitions: tuple[PartitionState, ...] = ()
    recovery: tuple[int, int] | None = None
    """Offsets of the changelogs to be read, and how many of them remain; None: nothing is recovered."""
    stalled: str = ""
    """The partition that makes no progress although Kafka and Redis answer; empty: none."""
    batches_in_flight: int = 0
    commits: Mapping[str, int] = {}
    """Commits of offsets since the start, by outcome: ``committed``, ``failed``."""


class Health(NamedTuple):
    """Whether a worker is alive, and whether it is ready; the reason if it is not."""

    live: bool
    ready: bool
    reason: str = ""


def health_of(state: WorkerState, now: float) -> Health:
    """The health of a worker at a time of `time.monotonic`."""
    blocked = now - state.at
    if blocked > BLOCKED_SECONDS:
        return Health(False, False, f"the event loop has not run for {blocked:.0f} s")
    if state.stalled:
        return Health(False, False, state.stalled)
    if state.is_stopping:
        return Health(True, False, "stopping")
    if state.waiting:
        return Health(True, False, f"waiting for {' and '.join(state.waiting)}")
    if not state.has_joined:
        return Health(True, False, "waiting until the group assigns partitions")
    if recovering := _numbers(state.partitions, Phase.RECOVERING):
        progress = f": {state.recovery[1]} of {state.recovery[0]} offsets remain" if state.recovery else ""
        return Health(True, False, f"recovering partitions {recovering}{progress}")
    if repairing := _numbers(state.partitions, Phase.REPAIRING):
        return Health(True, False, f"filling the read models of partitions {repairing}")
    return Health(True, True)


def _numbers(partitions: Iterable[PartitionState], phase: Phase) -> str:
    return ", ".join(str(each.number) for each in partitions if each.phase == phase)
