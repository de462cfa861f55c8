"""Exact commits: what the offset tracker calls completed is what was completed, whatever comes back in which order."""

from dataclasses import dataclass

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.fetching import Fetched
from worker.engine.offset_tracker import MAX_IN_FLIGHT, OffsetTracker

HERE = TP("events", 0)


@dataclass
class Raw:
    offset: int


def records(first: int, end: int) -> Fetched:
    """A poll that covers these offsets, with a record at each."""
    return Fetched(first, [Raw(offset) for offset in range(first, end)], end)


def offsets(taken: object) -> list[int]:
    assert isinstance(taken, Fetched)
    return [record.offset for record in taken.records]


def test_a_batch_is_committable_once_all_up_to_it_are_done() -> None:
    tracker = OffsetTracker()
    for first in (0, 10, 20):
        assert tracker.take(HERE, records(first, first + 10))
    assert tracker.complete(HERE, 20)
    assert HERE not in tracker.completed, "the head is not done: stock Faust commits past it"
    assert tracker.complete(HERE, 10)
    assert tracker.completed[HERE] == 20
    assert tracker.complete(HERE, 30)
    assert tracker.completed[HERE] == 30


@given(st.permutations(range(8)))
def test_any_order_of_completion_commits_the_completed_head(order: list[int]) -> None:
    tracker, done = OffsetTracker(), set()
    for index in range(8):
        tracker.take(HERE, records(index * 5, index * 5 + 5))
    for index in order:
        tracker.complete(HERE, index * 5 + 5)
        done.add(index)
        head = next((i for i in range(8) if i not in done), 8)
        assert tracker.completed.get(HERE, 0) == head * 5


def test_a_first_batch_with_one_record_is_not_skipped() -> None:
    tracker = OffsetTracker()
    tracker.restart({HERE: 4})
    tracker.take(HERE, records(4, 5))
    assert HERE not in tracker.completed
    tracker.complete(HERE, 5)
    assert tracker.completed[HERE] == 5


def test_records_seen_before_are_left_out() -> None:
    tracker = OffsetTracker()
    tracker.restart({HERE: 7})
    assert offsets(tracker.take(HERE, records(5, 9))) == [7, 8]
    assert tracker.take(HERE, records(3, 6)) is None


def test_a_poll_that_begins_too_late_is_sought_back() -> None:
    tracker = OffsetTracker()
    tracker.restart({HERE: 5})
    assert tracker.take(HERE, records(8, 10)) == 5
    assert tracker.take(HERE, records(8, 10), log_start=6) == 6
    assert tracker.take(HERE, records(8, 10)) == 5, "nothing was taken yet"


def test_records_that_were_deleted_are_gone_over() -> None:
    tracker = OffsetTracker()
    tracker.restart({HERE: 5})
    taken = tracker.take(HERE, records(8, 10), log_start=8)
    assert taken == Fetched(5, [Raw(8), Raw(9)], 10)
    tracker.complete(HERE, 10)
    assert tracker.completed[HERE] == 10


def test_offsets_without_records_are_completed_too() -> None:
    """A log that ends in a transaction's marker: with the last record as the end, its lag stays above 0 for ever."""
    tracker = OffsetTracker()
    tracker.restart({HERE: 0})
    assert offsets(tracker.take(HERE, Fetched(0, [Raw(0), Raw(1)], 3))) == [0, 1]
    assert offsets(tracker.take(HERE, Fetched(3, [], 9))) == []
    assert tracker.complete(HERE, 9)
    assert HERE not in tracker.completed
    assert tracker.complete(HERE, 3)
    assert tracker.completed[HERE] == 9


def test_a_batch_of_an_earlier_assignment_is_not_completed() -> None:
    tracker = OffsetTracker()
    tracker.take(HERE, records(0, 5))
    tracker.restart({HERE: 0})
    assert not tracker.complete(HERE, 5)
    assert tracker.completed == {}


def test_a_partition_with_enough_in_flight_is_saturated() -> None:
    tracker = OffsetTracker()
    for index in range(MAX_IN_FLIGHT):
        assert HERE not in tracker.saturated()
        tracker.take(HERE, records(index, index + 1))
    assert tracker.saturated() == {HERE}
    tracker.complete(HERE, 1)
    assert tracker.saturated() == set()
