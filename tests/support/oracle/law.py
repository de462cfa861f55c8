"""The law of the fold (schemas/README.md), each definition evaluated literally over the whole set of events."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.support.oracle.reading import Fact, fact, written
from tests.support.oracle.shapes import Delivery, Rules

BASES = {"attendance.check_in", "attendance.no_show", "attendance.set", "attendance.cleared"}
SETTLING = {"attendance.set", "attendance.cleared"}
ATTENDED_REPORTS = {"attendance.check_in", "attendance.participant_scanned"}
HORIZONS = {"attendance.deleted", "booking.erased"}
SCAN = "attendance.participant_scanned"
NO_SHOW = "attendance.no_show"


class Timed(NamedTuple):
    """A fact, when it is effective and when it was received; microseconds since the epoch."""

    effective: int
    received: int
    fact: Fact


class Judged(NamedTuple):
    """An attendance with what alerts and arrivals need beside it: its newest counting event, its two reports, its arrival."""

    attendance: dict[str, Any]
    newest: Timed
    attended: Timed | None
    not_attended: Timed | None
    arrival: Timed | None
    """Of an ATTENDED attendance: its newest ATTENDED report, or its base where there is none."""


def digest(one: Fact) -> bytes:
    """The last resort of the order: the first 8 bytes of SHA-256 over the event's own fields."""
    number = "" if one.number is None else str(one.number)
    text = f"{one.source}\n{one.id}\n{one.type}\n{one.status}\n{number}\n{one.participant}"
    return hashlib.sha256(text.encode("utf-8")).digest()[:8]


def order(timed: Timed) -> tuple[int, int, int, bytes]:
    """The order in which events are older and newer."""
    return timed.effective, timed.fact.time, timed.received, digest(timed.fact)


def newest(events: Iterable[Timed]) -> Timed | None:
    """The newest of the events, None where there is none."""
    return max(events, key=order, default=None)


def events_of(deliveries: Iterable[Delivery], rules: Rules) -> list[Timed]:
    """Every distinct event once, at the latest of its copies' effective times, then of their receptions."""
    copies: dict[Fact, list[tuple[int, int]]] = {}
    for delivery in deliveries:
        one = fact(delivery.event)
        effective = min(one.time, delivery.received + rules.clock_tolerance)
        copies.setdefault(one, []).append((effective, delivery.received))
    return [Timed(*max(times), one) for one, times in copies.items()]


def counting(events: list[Timed]) -> list[Timed]:
    """Those events of an attendance that are later than its horizon, oldest first."""
    horizons = [event.effective for event in events if event.fact.type in HORIZONS]
    later = [event for event in events if all(event.effective > horizon for horizon in horizons)]
    return sorted(later, key=order)


def stated(base: Fact) -> tuple[str, int]:
    """Status and number that a base states by itself."""
    status = {
        "attendance.check_in": "ATTENDED",
        "attendance.no_show": "NOT_ATTENDED",
        "attendance.set": base.status,
        "attendance.cleared": "NOT_SET",
    }[base.type]
    if base.number is not None:
        return status, base.number
    return status, 1 if status == "ATTENDED" else 0


def verdict(events: list[Timed]) -> tuple[str, int] | None:
    """Status and number that the counting events give, None where there is no attendance."""
    base = newest(event for event in events if event.fact.type in BASES)
    scans = [event for event in events if event.fact.type == SCAN and (base is None or order(event) > order(base))]
    people = len({scan.fact.participant for scan in scans})
    if base is None:
        return ("ATTENDED", people) if people > 0 else None
    status, number = stated(base.fact)
    if people == 0:
        return status, number
    return "ATTENDED", max(people, number) if status == "ATTENDED" else people


def report(events: list[Timed], types: set[str]) -> Timed | None:
    """The newest counting report of these types, if newer than the newest set or cleared."""
    found = newest(event for event in events if event.fact.type in types)
    settled = newest(event for event in events if event.fact.type in SETTLING)
    if found is not None and settled is not None and order(found) < order(settled):
        return None
    return found


def judge(booking: str, session: str, events: list[Timed]) -> Judged | None:
    """The attendance of one pair from all events that concern it; None where there is none."""
    counted = counting(events)
    found = verdict(counted)
    if found is None:
        return None
    last = counted[-1]
    attendance = {
        "bookingId": booking,
        "sessionId": session,
        "status": found[0],
        "numberOfAttendees": found[1],
        "updatedDate": written(last.effective),
        "source": last.fact.source,
    }
    attended = report(counted, ATTENDED_REPORTS)
    arrival = attended or newest(event for event in counted if event.fact.type in BASES)
    return Judged(
        attendance, last, attended, report(counted, {NO_SHOW}), arrival if attendance["status"] == "ATTENDED" else None
    )


def judged_pairs(deliveries: Iterable[Delivery], rules: Rules) -> dict[tuple[str, str], Judged]:
    """Every attendance there is, by (bookingId, sessionId)."""
    events = events_of(deliveries, rules)
    pairs = {(event.fact.booking, event.fact.session) for event in events if event.fact.type != "booking.erased"}
    judged = {
        (booking, session): judge(
            booking,
            session,
            [e for e in events if e.fact.booking == booking and (e.fact.session == session or _erases(e))],
        )
        for booking, session in sorted(pairs)
    }
    return {pair: one for pair, one in judged.items() if one is not None}


def _erases(event: Timed) -> bool:
    return event.fact.type == "booking.erased"
