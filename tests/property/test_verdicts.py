"""Every event of an attendance gets the verdict that the law's definitions give it, and the verdicts give the result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.attendance import AttendanceStatus
from tests.support import subject
from tests.support.oracle import Delivery, Rules
from tests.support.oracle.law import BASES, HORIZONS, SCAN, Timed, counting, events_of, judge, newest, order
from tests.support.oracle.make import at, ev
from tests.support.oracle.reading import Fact, fact
from tests.support.strategies import happenings, histories, sized
from worker.domain.fold import Mark, _base
from worker.domain.verdicts import Explanation, Verdict, explain

RULES = [Rules(), Rules(0, 0), Rules(60_000_000, 300_000_000)]
ONE = histories(happenings(bookings=("b1",), sessions=("s1",)), most=12)


def explained(deliveries: list[Delivery], rules: Rules) -> Explanation:
    return explain([subject.decoded(each) for each in deliveries], rules.clock_tolerance)


def verdict_of(one: Fact, events: list[Timed]) -> Verdict:
    """The law's definitions, literally, for one distinct event."""
    timed = next(each for each in events if each.fact == one)
    limit = max((each.effective for each in events if each.fact.type in HORIZONS), default=None)
    if one.type in HORIZONS:
        last = newest(each for each in events if each.fact.type in HORIZONS and each.effective == limit)
        return Verdict.HORIZON if timed == last else Verdict.SUPERSEDED
    counted = counting(events)
    if timed not in counted:
        return Verdict.COVERED_BY_HORIZON
    base = newest(each for each in counted if each.fact.type in BASES)
    if one.type != SCAN:
        return Verdict.BASE if timed == base else Verdict.SUPERSEDED
    if base is not None and order(timed) < order(base):
        return Verdict.COVERED_BY_BASE
    own = newest(each for each in counted if each.fact.type == SCAN and each.fact.participant == one.participant)
    return Verdict.SCAN if timed == own else Verdict.SUPERSEDED


def result_of(found: Explanation) -> tuple[AttendanceStatus, int] | None:
    """Status and number of attendees that the events that count give; None: there is no attendance."""
    events = [each.event for each in found.judgements if each.verdict is Verdict.BASE]
    base = _base(Mark(b"", ""), events[0]) if events else None
    if found.participants:
        stated = base.number if base is not None and base.status is AttendanceStatus.ATTENDED else 0
        return AttendanceStatus.ATTENDED, max(found.participants, stated)
    return None if base is None else (base.status, base.number)


@given(deliveries=ONE, rules=st.sampled_from(RULES))
@sized(300)
def test_each_verdict_is_what_the_law_says(deliveries: list[Delivery], rules: Rules) -> None:
    events, found = events_of(deliveries, rules), explained(deliveries, rules)
    distinct = [each for each in found.judgements if each.verdict is not Verdict.DUPLICATE]
    facts = [fact(deliveries[each.number].event) for each in distinct]
    assert sorted(map(str, facts)) == sorted(str(each.fact) for each in events), "each event once"
    for one, each in zip(facts, distinct, strict=True):
        assert each.verdict == verdict_of(one, events), one
        assert each.effective == next(timed.effective for timed in events if timed.fact == one)
    for each in found.judgements:
        if each.verdict is Verdict.DUPLICATE:
            assert each.by is not None
            assert fact(deliveries[each.by].event) == fact(deliveries[each.number].event)


@given(deliveries=ONE, rules=st.sampled_from(RULES))
@sized(200)
def test_the_result_is_what_a_worker_folds(deliveries: list[Delivery], rules: Rules) -> None:
    found = explained(deliveries, rules)
    shown = subject.outcome([deliveries], rules).attendances.get(("b1", "s1"))
    assert result_of(found) == (None if shown is None else (shown["status"], shown["numberOfAttendees"]))
    judged = judge("b1", "s1", events_of(deliveries, rules))
    assert (judged is None) == (result_of(found) is None)


@given(data=st.data(), deliveries=ONE, rules=st.sampled_from(RULES))
@sized(150)
def test_without_events_that_do_not_count_the_result_stays(
    data: st.DataObject, deliveries: list[Delivery], rules: Rules
) -> None:
    found = explained(deliveries, rules)
    dropped = {each.number for each in found.judgements if not each.counts and data.draw(st.booleans())}
    left = explained([each for index, each in enumerate(deliveries) if index not in dropped], rules)
    assert result_of(left) == result_of(found)


@given(deliveries=ONE)
@sized(100)
def test_an_event_yields_only_to_one_that_counts(deliveries: list[Delivery]) -> None:
    """Or, a duplicate, to the copy that carries its verdict."""
    found = explained(deliveries, Rules())
    by_number = {each.number: each for each in found.judgements}
    for each in found.judgements:
        if each.by is not None:
            other = by_number[each.by]
            assert other.counts or each.verdict is Verdict.DUPLICATE
    counted = [each.position for each in found.judgements if each.verdict is Verdict.SCAN]
    assert counted == list(range(1, found.participants + 1))


def test_a_clamped_event_is_marked() -> None:
    (one,) = explained([ev("check_in", at(60), received=at(0))], Rules()).judgements
    assert one.is_clamped
    assert one.effective == at(5)
