"""The law's corners, each with data in which it is sure to happen: late bases and scans, clocks, ties, reused ids."""

from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle, subject
from tests.support.oracle import Delivery
from tests.support.oracle.make import at, ev, scan
from tests.support.oracle.reading import written
from tests.support.strategies import (
    IDS,
    NUMBERS,
    PARTICIPANTS,
    SOURCES,
    STATUSES,
    arrivals,
    delivered,
    happenings,
    sized,
)

PLAIN = sized(60)
ONE = ("b1", "s1")
PARTICIPANT = st.sampled_from(PARTICIPANTS)
SEEN = st.lists(st.tuples(PARTICIPANT, st.integers(0, 8)), min_size=1, max_size=5, unique=True)


class Based(NamedTuple):
    """Scans around a base, and the number that they come to."""

    older: list[Delivery]
    base: Delivery
    newer: list[Delivery]
    number: int


@st.composite
def based(draw: st.DrawFn) -> Based:
    """A base at minute 10 with at least one scan on either side of it."""
    older = [scan(who, at(minute)) for who, minute in draw(SEEN)]
    seen = draw(SEEN)
    number = draw(st.sampled_from(NUMBERS))
    kind = draw(st.sampled_from(["check_in", "no_show", "set", "cleared"]))
    status = {"check_in": "ATTENDED"}.get(kind, draw(st.sampled_from(STATUSES)) if kind == "set" else "")
    every: dict[str, dict[str, Any]] = {"check_in": {"n": number}, "set": {"n": number, "status": status}}
    fields = every.get(kind, {})
    stated = (1 if number is None else number) if status == "ATTENDED" else 0
    newer = [scan(who, at(11 + minute)) for who, minute in seen]
    return Based(older, ev(kind, at(10), **fields), newer, max(len({who for who, _ in seen}), stated))


@given(data=st.data(), case=based())
@PLAIN
def test_a_late_base_covers_older_scans_only(data: st.DataObject, case: Based) -> None:
    """A base that comes after the scans covers the older ones and no others."""
    scans = data.draw(arrivals([*case.older, *case.newer]))
    found = subject.outcome([*scans, [case.base]])
    assert found.attendances[ONE]["numberOfAttendees"] == case.number
    assert found.attendances[ONE]["status"] == "ATTENDED"
    assert found == oracle.outcome([*case.older, case.base, *case.newer], [])


@given(data=st.data(), case=based())
@PLAIN
def test_late_scans_count_where_they_are_newer_than_the_base(data: st.DataObject, case: Based) -> None:
    """Scans that come after the base count where they are newer and are covered where they are older."""
    late = data.draw(arrivals([*case.older, *case.newer]))
    assert subject.outcome([[case.base], *late]).attendances[ONE]["numberOfAttendees"] == case.number
    before = subject.outcome([[case.base, *case.newer]])
    found = subject.outcome([[case.base, *case.newer], *data.draw(arrivals(case.older))])
    assert found.attendances == before.attendances
    assert found == oracle.outcome([*case.older, case.base, *case.newer], [])


@given(
    data=st.data(),
    ahead=st.integers(6, 600),
    kind=st.sampled_from(["check_in", "no_show", "cleared"]),
    minute=st.sampled_from([4, 6]),
)
@PLAIN
def test_a_fast_clock_wins_for_the_tolerance_and_no_longer(data: st.DataObject, ahead: int, kind: str, minute: int) -> None:
    """A clock that runs ahead wins for five minutes after it was received and no longer."""
    fast = ev("check_in", at(ahead), received=at(0), by="/fast", n=2)
    honest = ev(kind, at(minute), by="/honest")
    found = subject.outcome(data.draw(arrivals([fast, honest])))
    assert found.attendances[ONE]["source"] == ("/honest" if minute == 6 else "/fast")
    assert found.attendances[ONE]["updatedDate"] == written(at(max(minute, 5)))
    assert (("CLOCK_AHEAD", *ONE) in found.alerts) == (minute == 4)
    assert found == oracle.outcome([fast, honest], [])


@given(
    data=st.data(),
    received=st.lists(st.integers(0, 40), min_size=2, max_size=4, unique=True),
    between=st.integers(1, 50),
    kind=st.sampled_from(["no_show", "check_in", "cleared", "deleted", "participant_scanned"]),
)
@PLAIN
def test_copies_received_at_different_times(data: st.DataObject, received: list[int], between: int, kind: str) -> None:
    """Copies count once, at the latest of their effective times: a later copy lifts the event over others."""
    fields = {"p": "p1"} if kind == "participant_scanned" else {}
    copies = [ev(kind, at(60), received=at(minute), by="/fast", **fields) for minute in received]
    other = scan("p2", at(between), received=at(between))
    effective = max(received) + 5
    found = subject.outcome(data.draw(arrivals([*copies, other])))
    if kind != "deleted":
        assert found.attendances[ONE]["updatedDate"] == written(at(max(effective, between)))
    elif effective >= between:
        assert found.attendances == {}
    assert found == oracle.outcome([max(copies, key=lambda copy: copy.received), other], [])
    assert found == oracle.outcome([*copies, other], [])


@st.composite
def tied(draw: st.DrawFn) -> list[Delivery]:
    """Different events of one attendance with the same effective time, some of the same time."""
    times = st.sampled_from([at(60), at(61)])
    kinds = ("check_in", "no_show", "set", "cleared", "participant_scanned")
    one = happenings(kinds, ("b1",), ("s1",), times)
    events = draw(st.lists(one, min_size=2, max_size=6, unique_by=lambda e: (*e[:6], str(sorted(e.data.items())))))
    twins = [event._replace(data={**event.data, "n": 7}) for event in events[:1] if "n" in event.data]
    return [draw(delivered(event))._replace(received=at(0)) for event in [*events, *twins]]


@given(data=st.data(), deliveries=tied())
@sized(120)
def test_ties_are_decided_by_time_then_digest(data: st.DataObject, deliveries: list[Delivery]) -> None:
    """Of the same effective time, the time decides and then the digest, never the order of arrival."""
    found = subject.outcome(data.draw(arrivals(deliveries)))
    assert found.attendances[ONE]["updatedDate"] == written(at(5))
    assert found == oracle.outcome(deliveries, [])
    horizon = ev("deleted", at(5))
    assert subject.outcome(data.draw(arrivals([*deliveries, horizon]))).without_devices() == oracle.NOTHING


REUSED = st.lists(st.tuples(st.sampled_from(SOURCES), PARTICIPANT), min_size=2, max_size=6, unique=True)


@given(data=st.data(), who=REUSED, name=st.sampled_from(IDS))
@PLAIN
def test_devices_that_reuse_an_id_lose_nothing(data: st.DataObject, who: list[tuple[str, str]], name: str) -> None:
    """Devices that use the same id at the same time, and one that uses it for several people, lose nothing."""
    deliveries = [scan(participant, at(0), by=source, id=name) for source, participant in who]
    found = subject.outcome(data.draw(arrivals(deliveries)))
    assert found.attendances[ONE]["numberOfAttendees"] == len({participant for _, participant in who})
    assert found == oracle.outcome(deliveries, [])


@given(data=st.data(), name=st.sampled_from(IDS), times=st.permutations([0, 1, 2]))
@PLAIN
def test_ids_reused_for_other_types(data: st.DataObject, name: str, times: list[int]) -> None:
    """One device that uses one id for a no-show, a check-in and a scan: each of them counts."""
    one = ev("no_show", at(times[0]), id=name), ev("check_in", at(times[1]), id=name, n=5)
    deliveries = [*one, scan("p1", at(times[2]), by=one[0].event["source"], id=name)]
    found = subject.outcome(data.draw(arrivals(deliveries)))
    last_is_no_show, check_in_holds = times[0] == 2, times[1] > times[0]
    expected = 0 if last_is_no_show else 5 if check_in_holds else 1
    assert found.attendances[ONE]["numberOfAttendees"] == expected
    assert found == oracle.outcome(deliveries, [])
