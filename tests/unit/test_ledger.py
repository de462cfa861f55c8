"""Exact commits: what the ledger calls completed is what was completed, whatever comes back in which order."""

from dataclasses import dataclass

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.fetching import Fetched
from worker.engine.offset_tracker import MAX_IN_FLIGHT, Ledger

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


def test_a_batch_is_committable_once_it_and_all_before_it_are_done() -> None:
    ledger = Ledger()
    for first in (0, 10, 20):
        assert ledger.take(HERE, records(first, first + 10))
    assert ledger.complete(HERE, 20)
    assert HERE not in ledger.completed, "the head is not done: stock Faust commits past it"
    assert ledger.complete(HERE, 10)
    assert ledger.completed[HERE] == 20
    assert ledger.complete(HERE, 30)
    assert ledger.completed[HERE] == 30


@given(st.permutations(range(8)))
def test_any_order_of_completion_commits_the_completed_head(order: list[int]) -> None:
    ledger, done = Ledger(), set()
    for index in range(8):
        ledger.take(HERE, records(index * 5, index * 5 + 5))
    for index in order:
        ledger.complete(HERE, index * 5 + 5)
        done.add(index)
        head = next((i for i in range(8) if i not in done), 8)
        assert ledger.completed.get(HERE, 0) == head * 5


def test_a_first_batch_with_one_record_is_not_skipped() -> None:
    ledger = Ledger()
    ledger.restart({HERE: 4})
    ledger.take(HERE, records(4, 5))
    assert HERE not in ledger.completed
    ledger.complete(HERE, 5)
    assert ledger.completed[HERE] == 5


def test_records_seen_before_are_left_out() -> None:
    ledger = Ledger()
    ledger.restart({HERE: 7})
    assert offsets(ledger.take(HERE, records(5, 9))) == [7, 8]
    assert ledger.take(HERE, records(3, 6)) is None


def test_a_poll_that_begins_too_late_is_sought_back() -> None:
    ledger = Ledger()
    ledger.restart({HERE: 5})
    assert ledger.take(HERE, records(8, 10)) == 5
    assert ledger.take(HERE, records(8, 10), log_start=6) == 6
    assert ledger.take(HERE, records(8, 10)) == 5, "nothing was taken yet"


def test_records_that_were_deleted_are_gone_over() -> None:
    ledger = Ledger()
    ledger.restart({HERE: 5})
    taken = ledger.take(HERE, records(8, 10), log_start=8)
    assert taken == Fetched(5, [Raw(8), Raw(9)], 10)
    ledger.complete(HERE, 10)
    assert ledger.completed[HERE] == 10


def test_offsets_without_records_are_completed_too() -> None:
    """A log that ends in a transaction's marker: with the last record as the end, its lag stays above 0 for ever."""
    ledger = Ledger()
    ledger.restart({HERE: 0})
    assert offsets(ledger.take(HERE, Fetched(0, [Raw(0), Raw(1)], 3))) == [0, 1]
    assert offsets(ledger.take(HERE, Fetched(3, [], 9))) == []
    assert ledger.complete(HERE, 9)
    assert HERE not in ledger.completed
    assert ledger.complete(HERE, 3)
    assert ledger.completed[HERE] == 9


def test_a_batch_of_an_earlier_assignment_is_not_completed() -> None:
    ledger = Ledger()
    ledger.take(HERE, records(0, 5))
    ledger.restart({HERE: 0})
    assert not ledger.complete(HERE, 5)
    assert ledger.completed == {}


def test_a_partition_with_enough_in_flight_is_saturated() -> None:
    ledger = Ledger()
    for index in range(MAX_IN_FLIGHT):
        assert HERE not in ledger.saturated()
        ledger.take(HERE, records(index, index + 1))
    assert ledger.saturated() == {HERE}
    ledger.complete(HERE, 1)
    assert ledger.saturated() == set()
