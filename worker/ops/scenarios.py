"""What `attendance simulate SCENARIO` plays: ten minutes at a venue with two gates, with a fault or without.

Pure: a scenario and a seed give the same bookings and events in every run; only `outgoing` gives them times. Four sessions: one
has just ended, two are running, one is next; people come from 20 minutes before a start to 15 minutes after it. What happened
before the scenario began is its history, which is published first.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from schemas.events import RECEIVED_HEADER, EventType
from schemas.times import format_time
from worker.ops.publish import Outgoing, cloud_event, event
from worker.topics import TopicNames

#: How long a scenario takes at speed 1, and when its fault begins and ends, seconds.
LENGTH = 600.0
FAULT_BEGINS = 120.0
FAULT_ENDS = 420.0

NORTH = ("/gates/north/kiosk-1", "/gates/north/kiosk-2")
SOUTH = ("/gates/south/kiosk-3", "/gates/south/scanner-4")
ROLL_CALL = "/desk/roll-call"
_SCANNER = SOUTH[1]
_MINUTE = 60.0
_MICROSECONDS = 1_000_000


class ScenarioName(StrEnum):
    """The names as the command has them."""

    QUIET_DAY = "quiet-day"
    RUSH = "rush"
    BROKEN_SCANNER = "broken-scanner"
    OFFLINE_KIOSK = "offline-kiosk"
    CLOCK_AHEAD = "clock-ahead"
    MISDEPLOYED = "misdeployed"
    GATE_CLOSED = "gate-closed"


class Session(NamedTuple):
    """A session: when it starts and ends, seconds from the beginning of the scenario."""

    name: str
    starts: float
    ends: float
    busiest: float
    """When most people come."""
    bookings: int


class Booking(NamedTuple):
    """A booking of one session."""

    booking_id: str
    participants: int
    session: Session


class Step(NamedTuple):
    """One event of a device. Times are seconds from the beginning of the scenario, negative in its history."""

    identity: str
    happened: float
    sent: float
    source: str
    kind: EventType
    data: dict[str, Any]
    clock_ahead: float = 0.0
    """How far the device's clock is ahead, seconds; the speed does not change it."""
    is_cut: bool = False
    """Whether only the first half of the message is sent."""


Fault = Callable[[Step, random.Random], Iterable[Step]]
"""What becomes of an event from `FAULT_BEGINS` on."""


class Scenario(NamedTuple):
    """A scenario: what happens, and what the screen shows of it."""

    summary: str
    expect: str
    fault: Fault
    crowd: int = 300
    """How many bookings the concert has, which has just begun and to which most people come in these minutes."""


class Play(NamedTuple):
    """A scenario made with a seed; the steps are in the order in which they are sent."""

    bookings: list[Booking]
    steps: list[Step]


def make(name: ScenarioName, seed: int) -> Play:
    """The bookings and events of a scenario, the same for the same seed."""
    chance = random.Random(f"{name}-{seed}")
    bookings = [
        Booking(f"{session.name}-{number:04d}", chance.choice((1, 1, 2, 4)), session)
        for session in _sessions(name, seed)
        for number in range(session.bookings)
    ]
    regular = sorted(
        (step for booking in bookings for step in _visit(booking, chance)), key=lambda step: (step.happened, step.identity)
    )
    steps = [
        changed
        for step in regular
        for changed in (SCENARIOS[name].fault(step, chance) if step.happened >= FAULT_BEGINS else (step,))
        if changed.sent <= LENGTH
    ]
    return Play(bookings, sorted(steps, key=lambda step: step.sent))


def outgoing_bookings(topics: TopicNames, play: Play, began: int) -> Iterator[Outgoing]:
    """The records of the bookings; ``began`` is when the scenario begins, microseconds."""
    for booking_id, participants, session in play.bookings:
        listed = {
            "sessionId": session.name,
            "startsAt": format_time(began + int(session.starts * _MICROSECONDS)),
            "endsAt": format_time(began + int(session.ends * _MICROSECONDS)),
        }
        data = {"bookingId": booking_id, "numberOfParticipants": participants, "serviceType": "CLASS", "sessions": [listed]}
        yield event(topics, cloud_event(f"{booking_id}-{began}", "/booking-system", EventType.BOOKING_UPSERTED, began, data))


def outgoing(topics: TopicNames, step: Step, began: int, speed: float) -> Outgoing:
    """The record of an event: at twice the speed everything after the beginning takes half as long."""
    time = began + int(scaled(step.happened, speed) * _MICROSECONDS)
    shown = time + int(step.clock_ahead * _MICROSECONDS)
    # history counts as received when it happened
    headers = [(RECEIVED_HEADER, format_time(time + _MICROSECONDS // 4).encode())] if step.sent < 0 else []
    record = event(topics, cloud_event(step.identity, step.source, step.kind, shown, step.data), headers)
    return record._replace(value=record.value[: len(record.value) // 2]) if step.is_cut and record.value else record


def scaled(seconds: float, speed: float) -> float:
    """The real seconds from the beginning to a moment of the scenario; its history keeps its times."""
    return seconds / speed if seconds > 0 else seconds


def _sessions(name: ScenarioName, seed: int) -> list[Session]:
    minutes = (
        ("climbing", -110, -8, -112, 60),
        ("yoga", -45, 45, -47, 80),
        ("concert", -3, 117, 5, SCENARIOS[name].crowd),
        ("pool", 14, 74, 12, 120),
    )
    return [
        Session(f"{place}-{name}-{seed}", starts * _MINUTE, ends * _MINUTE, busiest * _MINUTE, number)
        for place, starts, ends, busiest, number in minutes
    ]


def _visit(booking: Booking, chance: random.Random) -> Iterator[Step]:
    """The events of one booking: a check-in at a kiosk, a scan of each participant, or the roll call's no-show."""
    session, data = booking.session, {"bookingId": booking.booking_id, "sessionId": booking.session.name}
    if chance.random() < 0.08:
        absent = session.starts + 20 * _MINUTE + chance.random() * _MINUTE
        yield Step(booking.booking_id, absent, absent, ROLL_CALL, EventType.NO_SHOW, data)
        return
    arrived = chance.triangular(session.starts - 20 * _MINUTE, session.starts + 15 * _MINUTE, session.busiest)
    source = chance.choice((*NORTH, *SOUTH))
    if source == _SCANNER:
        for number in range(booking.participants):
            scanned, participant = arrived + 2 * number, {"participantId": f"guest-{number + 1}"}
            identity = f"{booking.booking_id}-{number + 1}"
            yield Step(identity, scanned, scanned, source, EventType.PARTICIPANT_SCANNED, data | participant)
    else:
        number = booking.participants if chance.random() < 0.9 else 1
        yield Step(booking.booking_id, arrived, arrived, source, EventType.CHECK_IN, {**data, "numberOfAttendees": number})


def _none(step: Step, _: random.Random) -> Iterable[Step]:
    return (step,)


def _broken_scanner(step: Step, chance: random.Random) -> Iterable[Step]:
    """It sends each scan three times, one of them cut, counts nobody now and then, and marks guests of others as absent."""
    if step.source == _SCANNER:
        repeated = step._replace(sent=step.sent + 1)
        yield from (step, repeated, repeated._replace(is_cut=True))
        if chance.random() < 0.3:
            data = {"bookingId": step.data["bookingId"], "sessionId": step.data["sessionId"], "numberOfAttendees": 0}
            after = step.happened + 120
            zero = Step(f"{step.identity}-zero", after, after, _SCANNER, EventType.SET, data | {"status": "ATTENDED"})
            yield zero
        return
    yield step
    if step.kind is EventType.CHECK_IN and chance.random() < 0.2:
        data = {"bookingId": step.data["bookingId"], "sessionId": step.data["sessionId"]}
        after = step.happened + 5
        yield Step(f"{step.identity}-ghost", after, after, _SCANNER, EventType.NO_SHOW, data)


def _offline_kiosk(step: Step, _: random.Random) -> Iterable[Step]:
    is_kept = step.source == SOUTH[0] and step.happened < FAULT_ENDS
    return (step._replace(sent=FAULT_ENDS) if is_kept else step,)


def _clock_ahead(step: Step, _: random.Random) -> Iterable[Step]:
    return (step._replace(clock_ahead=86_400.0) if step.source == NORTH[1] else step,)


def _misdeployed(step: Step, _: random.Random) -> Iterable[Step]:
    """The new version writes the number as text."""
    is_bad = step.source in NORTH and "numberOfAttendees" in step.data
    return (step._replace(data=step.data | {"numberOfAttendees": str(step.data["numberOfAttendees"])}) if is_bad else step,)


def _gate_closed(step: Step, chance: random.Random) -> Iterable[Step]:
    """Who would have come in by the north gate walks to the south gate."""
    if step.source not in NORTH:
        return (step,)
    later = step.happened + chance.uniform(60, 120)
    return (step._replace(source=SOUTH[0], happened=later, sent=later),)


SCENARIOS = {
    ScenarioName.QUIET_DAY: Scenario(
        "everything works, a few people a minute",
        "Now: concert and yoga running, pool next, climbing just ended; no new alerts",
        _none,
        crowd=60,
    ),
    ScenarioName.RUSH: Scenario(
        "1,200 bookings of a session that has just begun, most of which arrive within minutes",
        "Now: the bar of concert grows each second, and its rate rises above the usual one",
        _none,
        crowd=1200,
    ),
    ScenarioName.BROKEN_SCANNER: Scenario(
        "a scanner repeats itself, sends cut messages, counts nobody and marks guests of other gates as absent",
        "Alerts: STATUS_COUNT_MISMATCH and CONFLICTING_REPORTS caused by scanner-4; System: dead letters invalid-json",
        _broken_scanner,
    ),
    ScenarioName.OFFLINE_KIOSK: Scenario(
        "a kiosk loses its network for five minutes, then sends what it kept",
        "Devices: kiosk-3 stands first as silent; when it is back, Now: its check-ins appear in the minutes that have passed",
        _offline_kiosk,
    ),
    ScenarioName.CLOCK_AHEAD: Scenario(
        "the clock of a kiosk jumps a day ahead",
        "Alerts: CLOCK_AHEAD for each check-in of kiosk-2; Devices: its clock offset is about -24 h",
        _clock_ahead,
    ),
    ScenarioName.MISDEPLOYED: Scenario(
        "the kiosks of the north gate get a version that writes numbers as text",
        "Devices: dead letters of kiosk-1 and kiosk-2; System: dead letters invalid-field; Now: the north gate counts no more",
        _misdeployed,
    ),
    ScenarioName.GATE_CLOSED: Scenario(
        "the north gate closes, its people walk to the south gate",
        "Devices: kiosk-1 and kiosk-2 stand first as silent; Now: arrivals sink, then come by kiosk-3",
        _gate_closed,
    ),
}
