"""The law of the fold: a pure function of the set of (event, received) pairs, whatever the way they arrive."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle, subject
from tests.support.oracle import Delivery, Rules
from tests.support.oracle.make import at, erased, ev
from tests.support.strategies import BASES, SESSIONS, arrivals, filled, happenings, histories, prompt, sized, splits

PLAIN = sized(60)
COUNTED = (*BASES, "participant_scanned")
RULES = [Rules(), Rules(0, 0), Rules(60_000_000, 300_000_000), Rules(3_600_000_000, 3_600_000_000)]


def minutes(first: int, last: int) -> st.SearchStrategy[int]:
    """Instants at whole minutes after T0."""
    return st.integers(first, last).map(at)


@given(data=st.data(), deliveries=histories(most=9), rules=st.sampled_from(RULES))
@sized(150)
def test_outcome_is_what_the_law_says(data: st.DataObject, deliveries: list[Delivery], rules: Rules) -> None:
    """Any history, in any order and any batches, under any settings."""
    batches = data.draw(arrivals(deliveries))
    assert subject.outcome(batches, rules) == oracle.outcome(deliveries, [], rules)


@given(data=st.data(), deliveries=histories(least=2))
@PLAIN
def test_any_order_of_arrival_gives_the_same_result(data: st.DataObject, deliveries: list[Delivery]) -> None:
    """Any order of arrival gives the same result, in one batch and one by one."""
    found = subject.outcome([deliveries])
    permuted = data.draw(st.permutations(deliveries))
    assert subject.outcome([permuted]) == found
    assert subject.outcome([[one] for one in permuted]) == found
    assert subject.state(permuted) == subject.state(deliveries)


@given(data=st.data(), deliveries=histories())
@PLAIN
def test_any_duplication_gives_the_same_result(data: st.DataObject, deliveries: list[Delivery]) -> None:
    """Any duplication gives the same result: in the same batch, in later ones, of all or of some."""
    found = subject.outcome([deliveries])
    again = data.draw(st.lists(st.sampled_from(deliveries), min_size=1, max_size=6))
    assert subject.outcome([[*deliveries, *again]]) == found
    assert subject.outcome([*data.draw(splits([*deliveries, *again]))]) == found
    assert subject.outcome([deliveries, deliveries]) == found


@given(data=st.data(), deliveries=histories(least=2))
@PLAIN
def test_any_split_into_batches_gives_the_same_result(data: st.DataObject, deliveries: list[Delivery]) -> None:
    """Any split into batches gives the same result."""
    found = subject.outcome([deliveries])
    assert subject.outcome(data.draw(splits(deliveries))) == found
    assert subject.outcome([[one] for one in deliveries]) == found


@given(data=st.data(), late=prompt(happenings(COUNTED, ("b1",), ("s1",), minutes(0, 9)), least=1))
@PLAIN
def test_events_up_to_a_deletion_do_not_count(data: st.DataObject, late: list[Delivery]) -> None:
    """What is not later than the deletion does not count for anything, even where it comes after it."""
    horizon = ev("deleted", at(9), by="/staff")
    late = [*late, ev("check_in", at(9), by="/gate"), ev("no_show", at(9), by="/desk")]
    after = data.draw(prompt(happenings(COUNTED, ("b1",), ("s1",), minutes(10, 19))))
    assert subject.outcome([late]).attendances != {}
    found = subject.outcome([[horizon], late])
    assert found == subject.outcome([late, [horizon]])
    assert found.without_devices() == oracle.NOTHING
    found = subject.outcome(data.draw(arrivals([*late, horizon, *after])))
    assert found == oracle.outcome([*late, horizon, *after], [])
    assert found.without_devices() == subject.outcome(filled(after)).without_devices()


@given(data=st.data(), late=prompt(happenings(COUNTED, ("b1",), SESSIONS, minutes(0, 9)), least=1))
@PLAIN
def test_an_erasure_reaches_its_booking_and_no_other(data: st.DataObject, late: list[Delivery]) -> None:
    """It reaches everything of its booking at or before it, whatever the session, and nothing of another booking."""
    horizon = erased(at(9), by="/staff", b=data.draw(st.sampled_from(["b1", " b1 "])))
    after = data.draw(prompt(happenings(COUNTED, ("b1",), SESSIONS, minutes(10, 19))))
    other = data.draw(prompt(happenings(COUNTED, ("b2",), SESSIONS, minutes(0, 9)), least=1))
    found = subject.outcome([[horizon], late])
    assert found == subject.outcome([late, [horizon]])
    assert found.without_devices() == oracle.NOTHING
    found = subject.outcome(data.draw(arrivals([*late, horizon, *after, *other])))
    assert found == oracle.outcome([*late, horizon, *after, *other], [])
    assert found.without_devices() == subject.outcome([[*after, *other]]).without_devices()


@given(data=st.data(), before=histories(happenings(COUNTED)), after=histories(happenings(("deleted", "booking.erased"))))
@PLAIN
def test_horizons_by_fast_clocks_are_those_of_the_oracle(
    data: st.DataObject, before: list[Delivery], after: list[Delivery]
) -> None:
    """Deletions and erasures by clocks that run ahead, and copies of them received later."""
    batches = data.draw(arrivals([*before, *after]))
    expected = oracle.outcome([*before, *after], [])
    assert subject.outcome(batches) == expected
    assert subject.outcome([*batches, before]) == expected
