"""From a mask of mismatches to alerts and their CloudEvents: all of it a function of the state (contract, section 6)."""

from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

from schemas.alerts import OPENED, RESOLVED, SEVERITIES, SOURCE, AlertData, AlertEvent, AlertKind, alert_id
from schemas.attendance import JOIN, AttendanceStatus
from schemas.events import Booking
from schemas.packing import text_of
from schemas.times import format_time
from worker.domain.fold import NEVER, effective_time, event_time
from worker.domain.row_codec import Seen, decode, newest_key, opposed, source_of
from worker.domain.summaries import document


class Judged(NamedTuple):
    """What an alert was judged by. ``row`` is empty and ``seen`` None where the booking as a whole was judged."""

    booking_id: str
    session_id: str | None
    row: bytes
    """Packed."""
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
    return _event(data, _digest(judged), data["openedAt"], resolved=False)


def resolved(kind: AlertKind, judged: Judged) -> AlertEvent:
    """The CloudEvent that says an alert is open no more."""
    data = _data(kind, judged, f"{kind} no longer holds")
    when = format_time(max(_updated(judged), judged.booking.time if judged.booking else NEVER))
    data["resolvedAt"] = when
    return _event(data, _digest(judged), when, resolved=True)


def open_alert(kind: AlertKind, judged: Judged) -> AlertData:
    """The alert as readers see it while it is open."""
    return _data(kind, judged, _message(kind, judged))


def differs(kind: AlertKind, now: Judged, then: Judged) -> bool:
    """Whether readers see another alert now, given that they see the same attendance, if any, and that it was open then."""
    return (
        _updated(now) // 1000 != _updated(then) // 1000
        or _message(kind, now) != _message(kind, then)
        or _expected(kind, now) != _expected(kind, then)
    )


def _data(kind: AlertKind, judged: Judged, message: str) -> AlertData:
    booking_id, session_id, seen = judged.booking_id, judged.session_id, judged.seen
    attendance = document(booking_id, session_id, seen) if seen and session_id else None
    data: AlertData = {
        "alertId": alert_id(kind, booking_id, session_id),
        "kind": kind,
        "severity": SEVERITIES[kind],
        "bookingId": booking_id,
        "attendance": attendance,
        "expected": _expected(kind, judged),
        "openedAt": attendance["updatedDate"] if attendance else format_time(_updated(judged)),
        "message": message,
    }
    if session_id is not None:
        data["sessionId"] = session_id
    return data


def _updated(judged: Judged) -> int:
    """The attendance's ``updated`` now; of one that is gone, the time at which it went."""
    known = effective_time(judged.seen.updated) if judged.seen else judged.newest
    known = known if known > NEVER else max(decode(judged.row)[0].horizon, judged.floor)
    # an alert of a booking whose attendances all went, with no horizon that reaches it, cannot be; never fail on it
    return known if known > NEVER else 0


def _event(data: AlertData, digest: str, when: str, *, resolved: bool) -> AlertEvent:
    return {
        "specversion": "1.0",
        "id": f"{data['alertId']}:{'resolved' if resolved else 'opened'}:{digest}",
        "source": SOURCE,
        "type": RESOLVED if resolved else OPENED,
        "time": when,
        "datacontenttype": "application/json",
        "data": data,
    }


def record_digest(booking: Booking | None) -> str:
    """Stands for a booking's record in the ids of alerts."""
    if booking is None:
        return ""
    booking_id, participants, walk_ins_allowed, canceled, sessions, time = booking
    # the names and then the times: the repr of a named tuple takes long
    listed = sessions and [*sessions, *chain.from_iterable(sessions.values())]
    return sha256(repr((booking_id, participants, walk_ins_allowed, canceled, listed, time)).encode()).hexdigest()


def _digest(judged: Judged) -> str:
    """Stands for what was judged."""
    said = f"{judged.seen.status}{judged.seen.number}" if judged.seen else ""
    text = JOIN.join((judged.record, said, str(judged.floor), str(judged.newest), *chain.from_iterable(judged.statuses)))
    # but for the format and which alerts were ever open, which tells the way there
    return sha256(text.encode() + judged.row[2:]).hexdigest()[:32]


def _expected(kind: AlertKind, judged: Judged) -> dict[str, Any]:
    """What would be no mismatch. Here as in `_message` the kinds that are raised most come first."""
    seen, booking = judged.seen, judged.booking
    if kind is AlertKind.CONFLICTING_REPORTS:
        return {"reports": "one status"}
    if kind is AlertKind.FREQUENT_NO_SHOWS:
        return {"notAttended": {"atMost": max(2, _decided(judged)[1] // 2)}}
    if kind is AlertKind.STATUS_COUNT_MISMATCH:
        return {"numberOfAttendees": {"atLeast": 1} if seen and seen.status == AttendanceStatus.ATTENDED else {"atMost": 0}}
    if kind is AlertKind.PARTICIPANTS_EXCEEDED:
        return {"numberOfAttendees": {"atMost": booking.participants if booking else 0}}
    if kind is AlertKind.BOOKING_CANCELED:
        return {"status": ["NOT_SET", "NOT_ATTENDED"]}
    if kind is AlertKind.UNKNOWN_SESSION:
        return {"sessionId": sorted(booking.sessions or {})[:20] if booking else []}
    newest = newest_key(judged.row)
    return {"time": {"atMost": format_time(effective_time(newest))}} if newest else {}


def _message(kind: AlertKind, judged: Judged) -> str:
    """What is there instead, while the alert is open."""
    seen, booking, row = judged.seen, judged.booking, judged.row
    number = seen.number if seen else 0
    if kind is AlertKind.CONFLICTING_REPORTS:
        return _conflict(row)
    if kind is AlertKind.FREQUENT_NO_SHOWS:
        return "Missed {} of {} sessions".format(*_decided(judged))
    if kind is AlertKind.STATUS_COUNT_MISMATCH:
        return f"{seen.status if seen else 'No attendance'} with {number} attendees"
    if kind is AlertKind.PARTICIPANTS_EXCEEDED:
        return f"{number} attendees came on a booking for {booking.participants if booking else 0}"
    if kind is AlertKind.BOOKING_CANCELED:
        return "ATTENDED, but the booking is canceled"
    if kind is AlertKind.UNKNOWN_SESSION:
        listed = (booking.sessions if booking else None) or ()
        return f"The booking lists {len(listed)} sessions, and this is none of them"
    newest = newest_key(row)
    if not seen or not newest:
        return "The attendance is gone"
    ahead = (event_time(newest) - effective_time(newest)) // 1_000_000
    return f"The clock of {text_of(seen.source)} runs at least {ahead} s ahead of what the clock tolerance allows"


def _conflict(row: bytes) -> str:
    said = [
        f"{text_of(source_of(row, at))} said {status} at {format_time(effective_time(row, at))}"
        for status, at in zip(("ATTENDED", "NOT_ATTENDED"), opposed(row) or (), strict=False)
    ]
    return ", ".join(said)


def _decided(judged: Judged) -> tuple[int, int]:
    """How many of the booking's attendances are missed, and how many are missed or attended."""
    statuses = [status for _, status in judged.statuses]
    missed = statuses.count(AttendanceStatus.NOT_ATTENDED)
    return missed, missed + statuses.count(AttendanceStatus.ATTENDED)
