"""From a mask of mismatches to alerts and their CloudEvents: all of it a function of the state (contract, section 6)."""

from hashlib import sha256
from typing import Any, NamedTuple

from schemas.alerts import OPENED, RESOLVED, SEVERITIES, SOURCE, AlertData, AlertEvent, AlertKind, alert_id
from schemas.attendance import AttendanceStatus
from schemas.events import Booking
from schemas.times import format_time
from worker.domain.fold import NEVER, Mark, Row, effective_time, event_time
from worker.domain.packed import Seen
from worker.domain.views import document


class Judged(NamedTuple):
    """What an alert was judged by. ``row`` is empty and ``seen`` None where the booking as a whole was judged."""

    booking_id: str
    session_id: str | None
    row: Row
    seen: Seen | None
    booking: Booking | None
    floor: int
    """The booking's horizon, microseconds."""
    record: str
    """`record_digest` of the booking; only a CloudEvent's id needs it."""
    statuses: tuple[tuple[str, AttendanceStatus], ...] = ()
    """Of the whole booking: its attendances' statuses by session, in order."""
    newest: int = NEVER
    """Of the whole booking, else `NEVER`: the newest ``updated`` of its attendances, microseconds."""


def opened(data: AlertData, judged: Judged) -> AlertEvent:
    """The CloudEvent that says an alert, made by `open_alert`, is open."""
    return _event(data, judged, data["openedAt"], resolved=False)


def resolved(kind: AlertKind, judged: Judged) -> AlertEvent:
    """The CloudEvent that says an alert is open no more."""
    when = format_time(max(_updated(judged), judged.booking.time if judged.booking else NEVER))
    data: AlertData = {
        **open_alert(kind, judged),
        "resolvedAt": when,
        "message": f"{kind} no longer holds",
    }
    return _event(data, judged, when, resolved=True)


def open_alert(kind: AlertKind, judged: Judged) -> AlertData:
    """The alert as readers see it while it is open."""
    expected, message = _expectation(kind, judged)
    seen, session_id = judged.seen, judged.session_id
    data: AlertData = {
        "alertId": alert_id(kind, judged.booking_id, session_id),
        "kind": kind,
        "severity": SEVERITIES[kind],
        "bookingId": judged.booking_id,
        "attendance": document(judged.booking_id, session_id, seen) if seen and session_id else None,
        "expected": expected,
        "openedAt": format_time(_updated(judged)),
        "message": message,
    }
    if session_id is not None:
        data["sessionId"] = session_id
    return data


def _updated(judged: Judged) -> int:
    """The attendance's ``updated`` now; of one that is gone, the time at which it went."""
    known = effective_time(judged.seen.updated) if judged.seen else judged.newest
    known = known if known > NEVER else max(judged.row.horizon, judged.floor)
    # an alert of a booking whose attendances all went, with no horizon that reaches it, cannot be; never fail on it
    return known if known > NEVER else 0


def _event(data: AlertData, judged: Judged, when: str, *, resolved: bool) -> AlertEvent:
    kind = RESOLVED if resolved else OPENED
    return {
        "specversion": "1.0",
        "id": f"{data['alertId']}:{kind.rpartition('.')[2]}:{_digest(judged)}",
        "source": SOURCE,
        "type": kind,
        "time": when,
        "datacontenttype": "application/json",
        "data": data,
    }


def record_digest(booking: Booking | None) -> str:
    """Stands for a booking's record in the ids of alerts."""
    if booking is None:
        return ""
    booking_id, participants, walk_ins_allowed, canceled, sessions, time = booking
    listed = None if sessions is None else [(name, *window) for name, window in sessions.items()]
    return sha256(repr((booking_id, participants, walk_ins_allowed, canceled, listed, time)).encode()).hexdigest()


def _digest(judged: Judged) -> str:
    row = judged.row
    marks = [mark and (mark[0].hex(), mark[1]) for mark in (row.attended, row.missed, row.newest)]
    seen = judged.seen and (str(judged.seen[0]), *judged.seen[1:])
    what = (seen, marks, judged.record, [(name, str(status)) for name, status in judged.statuses], judged.newest)
    return sha256(repr(what).encode()).hexdigest()[:32]


def _expectation(kind: AlertKind, judged: Judged) -> tuple[dict[str, Any], str]:
    """What would be no mismatch, and what is there instead."""
    seen, booking = judged.seen, judged.booking
    number = seen.number if seen else 0
    if kind is AlertKind.STATUS_COUNT_MISMATCH:
        bound = {"atLeast": 1} if seen and seen.status == AttendanceStatus.ATTENDED else {"atMost": 0}
        return {"numberOfAttendees": bound}, f"{seen.status if seen else 'No attendance'} with {number} attendees"
    if kind is AlertKind.PARTICIPANTS_EXCEEDED:
        limit = booking.participants if booking else 0
        return {"numberOfAttendees": {"atMost": limit}}, f"{number} attendees came on a booking for {limit}"
    if kind is AlertKind.BOOKING_CANCELED:
        return {"status": ["NOT_SET", "NOT_ATTENDED"]}, "ATTENDED, but the booking is canceled"
    if kind is AlertKind.UNKNOWN_SESSION:
        listed = sorted(booking.sessions or {}) if booking else []
        return {"sessionId": listed[:20]}, f"The booking lists {len(listed)} sessions, and this is none of them"
    if kind is AlertKind.CONFLICTING_REPORTS:
        return {"reports": "one status"}, _conflict(judged.row)
    if kind is AlertKind.CLOCK_AHEAD:
        return _clock(judged.row)
    missed = sum(status == AttendanceStatus.NOT_ATTENDED for _, status in judged.statuses)
    decided = missed + sum(status == AttendanceStatus.ATTENDED for _, status in judged.statuses)
    return {"notAttended": {"atMost": max(2, decided // 2)}}, f"Missed {missed} of {decided} sessions"


def _conflict(row: Row) -> str:
    def said(status: str, mark: Mark | None) -> str:
        return f"{mark.source} said {status} at {format_time(effective_time(mark.key))}" if mark else f"none said {status}"

    return f"{said('ATTENDED', row.attended)}, {said('NOT_ATTENDED', row.missed)}"


def _clock(row: Row) -> tuple[dict[str, Any], str]:
    if row.newest is None:
        return {}, "The attendance is gone"
    effective, time = effective_time(row.newest.key), event_time(row.newest.key)
    ahead = (time - effective) // 1_000_000
    return (
        {"time": {"atMost": format_time(effective)}},
        f"The clock of {row.newest.source} runs at least {ahead} s ahead of what the clock tolerance allows",
    )
