"""What each scenario of `attendance simulate` holds: the same for a seed, and wrong only where it means to be."""

from collections import Counter
from datetime import timedelta

import pytest

from schemas.decoding.explain import decode, decode_booking
from schemas.events import Booking, DeadLetter, Event, EventType
from worker.durations import micros
from worker.ops.scenarios import (
    FAULT_BEGINS,
    FAULT_ENDS,
    LENGTH,
    NORTH,
    SOUTH,
    Play,
    ScenarioName,
    Step,
    make,
    outgoing,
    outgoing_bookings,
)
from worker.topics import TopicNames

BEGAN = 1_795_732_664_000_000
TOPICS = TopicNames.of("attendance")
MAX_AGE = micros(timedelta(days=30))
ALL = pytest.mark.parametrize("name", list(ScenarioName))


def decoded(step: Step, speed: float = 1) -> Event | DeadLetter:
    record = outgoing(TOPICS, step, BEGAN, speed)
    assert record.value is not None
    return decode(record.value, list(record.headers), BEGAN // 1000 + int(step.sent / speed * 1000), max_age=MAX_AGE)  # type: ignore[arg-type, return-value]


def dead_letters(name: ScenarioName) -> dict[tuple[str, str], int]:
    """How many steps become dead letters, by source and reason."""
    found = ((step.source, decoded(step)) for step in make(name, 1).steps)
    return Counter((source, str(each.reason)) for source, each in found if isinstance(each, DeadLetter))


def of(play: Play, *sources: str, since: float = FAULT_BEGINS) -> list[Step]:
    return [step for step in play.steps if step.source in sources and step.happened >= since]


@ALL
def test_a_seed_gives_the_same_events(name: ScenarioName) -> None:
    assert make(name, 7) == make(name, 7)
    assert make(name, 7).steps != make(name, 8).steps


@ALL
def test_steps_are_in_the_order_of_sending(name: ScenarioName) -> None:
    sent = [step.sent for step in make(name, 7).steps]
    assert sent == sorted(sent)
    assert sent[0] < 0 < FAULT_ENDS < sent[-1] <= LENGTH


@ALL
def test_bookings_are_valid_and_unique(name: ScenarioName) -> None:
    play = make(name, 7)
    records = list(outgoing_bookings(TOPICS, play, BEGAN))
    assert all(isinstance(decode_booking(record.value or b"", []), Booking) for record in records)
    assert len({record.booking_id for record in records}) == len(play.bookings) == len(records)


@ALL
def test_sessions_have_ended_are_running_and_next(name: ScenarioName) -> None:
    sessions = {booking.session for booking in make(name, 7).bookings}
    states = Counter("ended" if each.ends < 0 else "running" if each.starts < 0 else "next" for each in sessions)
    assert states == {"ended": 1, "running": 2, "next": 1}


@pytest.mark.parametrize("speed", [1, 60])
def test_time_is_that_of_sending_at_any_speed(speed: float) -> None:
    for step in make(ScenarioName.RUSH, 1).steps:
        event = decoded(step, speed)
        assert isinstance(event, Event)
        since_then = (event.time - BEGAN) / 1_000_000
        assert abs(since_then - (step.sent / speed if step.sent > 0 else step.sent)) < 0.002


def test_only_bad_messages_are_dead_letters() -> None:
    by_name = {name: dead_letters(name) for name in ScenarioName}
    bad = {name: found for name, found in by_name.items() if found}
    assert {name: set(found) for name, found in bad.items()} == {
        ScenarioName.BROKEN_SCANNER: {(SOUTH[1], "invalid-json")},
        ScenarioName.MISDEPLOYED: {(source, "invalid-field") for source in NORTH},
    }
    assert all(count > 5 for found in bad.values() for count in found.values())


def test_a_rush_is_many_times_a_quiet_day() -> None:
    rush, quiet = (len(of(make(name, 1), *NORTH, *SOUTH, since=0)) for name in (ScenarioName.RUSH, ScenarioName.QUIET_DAY))
    assert rush > 5 * quiet


def test_the_broken_scanner_contradicts_others() -> None:
    steps = of(make(ScenarioName.BROKEN_SCANNER, 1), SOUTH[1])
    assert {EventType.NO_SHOW, EventType.SET, EventType.PARTICIPANT_SCANNED} == {step.kind for step in steps}
    whole = Counter(step.identity for step in steps if not step.is_cut and step.kind is EventType.PARTICIPANT_SCANNED)
    assert 2 in whole.values()


def test_the_offline_kiosk_sends_what_it_kept_at_once() -> None:
    kept = [step for step in of(make(ScenarioName.OFFLINE_KIOSK, 1), SOUTH[0]) if step.happened < FAULT_ENDS]
    assert len(kept) > 10
    assert {step.sent for step in kept} == {FAULT_ENDS}


def test_one_clock_is_a_day_ahead() -> None:
    ahead = [step for step in make(ScenarioName.CLOCK_AHEAD, 1).steps if step.clock_ahead]
    assert len(ahead) > 10
    assert {(step.source, step.clock_ahead) for step in ahead} == {(NORTH[1], 86_400.0)}
    event = decoded(ahead[0], 100)
    assert isinstance(event, Event)
    assert event.time - BEGAN > 86_400_000_000


def test_no_one_comes_in_by_a_closed_gate() -> None:
    play = make(ScenarioName.GATE_CLOSED, 1)
    assert of(play, *NORTH) == []
    assert len(of(play, SOUTH[0])) > 2 * len(of(make(ScenarioName.QUIET_DAY, 1), SOUTH[0]))
