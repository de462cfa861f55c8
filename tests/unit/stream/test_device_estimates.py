"""Rolling estimates of sources: rates, rhythm, clocks and dead letters; what a partition stores, and sums over partitions."""

import pytest

from schemas.events import Event
from worker.read_model.estimates import (
    DEAD_MINUTES,
    MOST_SESSIONS,
    Estimate,
    document,
    is_silent,
    last_received,
    pack_estimate,
    unpack_estimate,
    usual_gap,
)
from worker.stream.bad_events import BadEvent
from worker.stream.decode_batch import events_by_source
from worker.stream.device_estimates import DeviceEstimates

SECOND, MINUTE = 1_000_000, 60_000_000
NOW = 1_795_000_000_000_000 // MINUTE * MINUTE


def add(estimates: DeviceEstimates, *received: int, source: str = "/gate", late: int = 0, session: str = "s") -> None:
    """A batch of events of a source."""
    events = [Event("attendance.check_in", "b", session, at - late, source, "1", "", None, "", at) for at in received]
    estimates.add(events_by_source(events, 0))


def stored(estimates: DeviceEstimates) -> dict[str, Estimate | None]:
    return {each.source: unpack_estimate(each.packed) for each in estimates.take_changed(1000)}


def one(estimates: DeviceEstimates, source: str = "/gate") -> Estimate:
    found = stored(estimates)[source]
    assert found is not None
    return found


def every(seconds: int, minutes: int, start: int = NOW) -> list[int]:
    return list(range(start, start + minutes * MINUTE, seconds * SECOND))


@pytest.mark.parametrize("at_once", [1, 5, 400])
def test_a_steady_source(at_once: int) -> None:
    estimates, received = DeviceEstimates(), every(10, minutes=90)
    for start in range(0, len(received), at_once):
        add(estimates, *received[start : start + at_once], late=3 * SECOND)
    shown = document([one(estimates)], NOW + 90 * MINUTE)
    assert (shown["eventsPerMinute"], shown["usualEventsPerMinute"]) == (6, pytest.approx(6))
    assert (shown["clockOffsetSeconds"], shown["lastSessionId"], shown["deadLetters"]) == (3, "s", 0)
    assert shown["usualGapSeconds"] == (10 if at_once < 400 else None)


def test_a_rush_against_what_is_usual() -> None:
    estimates = DeviceEstimates()
    for at in [*every(60, minutes=30), *every(1, minutes=1, start=NOW + 30 * MINUTE)]:
        add(estimates, at)
    shown = document([one(estimates)], NOW + 31 * MINUTE)
    assert shown["eventsPerMinute"] == 60
    assert 1 < shown["usualEventsPerMinute"] < 4
    add(estimates, NOW + 30 * MINUTE)
    assert document([one(estimates)], NOW + 33 * MINUTE)["eventsPerMinute"] == 0


def test_partitions_that_share_a_source_are_summed() -> None:
    parts = [DeviceEstimates() for _ in range(4)]
    for number, at in enumerate(every(10, minutes=60)):
        add(parts[number % 4], at, late=number % 4 * SECOND)
    each = [one(part) for part in parts]
    shown = document(each, NOW + 60 * MINUTE)
    assert shown["eventsPerMinute"] == 6
    assert shown["usualEventsPerMinute"] == pytest.approx(6, rel=0.1)
    assert (shown["usualGapSeconds"], shown["clockOffsetSeconds"]) == (10, 1.5)
    assert last_received(None, each) == NOW + 60 * MINUTE - 10 * SECOND
    assert [is_silent(seconds, usual_gap(each)) for seconds in (59, 99, 101)] == [False, False, True]
    assert not is_silent(1e9, usual_gap([Estimate(gap=1, gaps=4)]))


def test_one_wild_clock_reading_does_not_move_the_offset() -> None:
    estimates = DeviceEstimates()
    for number, at in enumerate(every(10, minutes=5)):
        add(estimates, at, late=86_400 * SECOND if number % 7 == 0 else -2 * SECOND)
    assert one(estimates).offset == -2


def test_dead_letters_of_the_last_hour() -> None:
    estimates, devices = DeviceEstimates(), {"/gate"}
    times = [NOW + number * DEAD_MINUTES * MINUTE for number in (0, 2, 1, 5)]
    bad = [BadEvent("/gate", f"reason-{number}", at) for number, at in enumerate(times)]
    estimates.add_dead_letters([*bad, BadEvent(None, "invalid-json", NOW)], devices.__contains__)
    assert (found := one(estimates)).dead_reason == "reason-3"
    spans = {5: 4, 6: 3, 7: 2, 8: 1, 10: 1, 11: 0, 99: 0}
    assert {each: found.dead_letters(NOW + each * DEAD_MINUTES * MINUTE) for each in spans} == spans


def test_invented_sources_of_dead_letters_displace_no_device() -> None:
    estimates = DeviceEstimates(most=3, most_dead_only=2)
    for number in range(3):
        add(estimates, NOW + number, source=f"/gate/{number}")
    estimates.add_dead_letters([BadEvent(f"/x/{n}", "invalid-json", NOW + n * SECOND) for n in range(5)], lambda _: False)
    changes = {each.source: each for each in estimates.take_changed(100)}
    assert {source for source, each in changes.items() if each.packed} == {"/gate/0", "/gate/1", "/gate/2", "/x/3", "/x/4"}
    assert [changes[f"/x/{n}"].dead_ms for n in (3, 4)] == [NOW // 1000 + 3000, NOW // 1000 + 4000]
    add(estimates, NOW + 9, source="/x/4")
    changes = {each.source: each for each in estimates.take_changed(100)}
    assert (changes["/x/4"].dead_ms, changes["/gate/0"].packed) == (0, b"")


def test_what_is_written_and_taken_over() -> None:
    estimates = DeviceEstimates()
    for source in ("/a", "/b", "/c"):
        for at in every(10, minutes=5):
            add(estimates, at, source=source, late=SECOND)
    first = estimates.take_changed(2)
    assert [each.source for each in first] == ["/a", "/b"]
    estimates.put_back(first)
    assert [each.source for each in estimates.take_changed(5)] == ["/c", "/a", "/b"]
    assert estimates.take_changed(5) == []
    heir = DeviceEstimates()
    heir.load({each.source: each.packed for each in first} | {"/d": b"\xc1 of another version"}, lambda _: True)
    assert heir.take_changed(5) == []
    add(heir, NOW + 5 * MINUTE, source="/a", late=SECOND)
    taken = one(heir, "/a")
    assert (taken.gap, taken.offset, taken.current, taken.previous) == (10, 1, 1, 6)
    heir.clear()
    add(heir, NOW, source="/a")
    assert one(heir, "/a").gaps == 0


def test_an_estimate_is_small() -> None:
    full = Estimate(NOW, "s" * 36, NOW, 10**6, 10**6, 1e9, NOW, 1.5, 15, 0.1, 15, (9999,) * 6, NOW, "invalid-field", NOW)
    assert len(pack_estimate(full)) < 200


def test_events_are_counted_for_each_session_of_a_source() -> None:
    parts = [DeviceEstimates(), DeviceEstimates()]
    add(parts[0], NOW, NOW + SECOND, session="yoga")
    add(parts[0], NOW + 2 * SECOND, session="pool")
    add(parts[1], NOW + 3 * SECOND, session="yoga")
    add(parts[0], NOW + 4 * SECOND, session="yoga")
    held = [one(part) for part in parts]
    yoga, pool = {"sessionId": "yoga", "events": 4}, {"sessionId": "pool", "events": 1}
    assert document(held, NOW + MINUTE)["sessions"] == [yoga, pool]
    # an hour after the last event of a session it is forgotten, and begins anew
    assert document(held, NOW + 60 * MINUTE + 3 * SECOND)["sessions"] == [yoga]
    add(parts[0], NOW + 90 * MINUTE, session="yoga")
    assert document([one(parts[0])], NOW + 90 * MINUTE)["sessions"] == [{"sessionId": "yoga", "events": 1}]


def test_a_source_of_many_sessions_keeps_the_last_ones() -> None:
    estimates = DeviceEstimates()
    for number in range(1_000):
        add(estimates, NOW + number, session=f"s{number}")
    held = one(estimates)
    assert list(held.sessions) == [f"s{number}" for number in range(1_000 - MOST_SESSIONS, 1_000)]
    assert [each["sessionId"] for each in document([held], NOW)["sessions"]] == list(held.sessions)[::-1]
