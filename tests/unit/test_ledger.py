"""Exact commits: what the ledger calls completed is what was completed, whatever comes back in which order."""

from dataclasses import dataclass

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.ledger import MAX_IN_FLIGHT, Ledger

HERE = TP("events", 0)


@dataclass
class Raw:
    offset: int


def records(first: int, end: int) -> list[Raw]:
    return [Raw(offset) for offset in range(first, end)]


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
    assert [r.offset for r in ledger.take(HERE, records(5, 9))] == [7, 8]  # type: ignore[union-attr]
    assert ledger.take(HERE, records(3, 6)) == []


def test_a_hole_is_asked_for_once_and_accepted_when_it_stays() -> None:
    ledger = Ledger()
    ledger.restart({HERE: 5})
    assert ledger.take(HERE, records(8, 10)) == 5, "seek back to what is missing"
    assert [r.offset for r in ledger.take(HERE, records(8, 10))] == [8, 9], "the log itself has the hole"  # type: ignore[union-attr]
    assert ledger.take(HERE, records(12, 13)) == 10, "another hole is asked for anew"


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
