"""From a mask of mismatches to alerts and their CloudEvents: pure functions of the state (schemas/README.md, alerts)."""

from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

from schemas.alerts import OPENED, RESOLVED, SEVERITIES, SOURCE, AlertData, AlertEvent, AlertKind, alert_id
from schemas.attendance import JOIN, AttendanceStatus
from schemas.events import Booking
from schemas.packing import pack_text
from schemas.times import format_time
from worker.domain.booking_content import encode_content
from worker.domain.fold import NEVER, effective_time, event_time
from worker.domain.row_codec import AttendanceValue, StoredRow, encode
from worker.domain.summaries import document


class AlertInput(NamedTuple):
    """What an alert was detected from. For an alert about a whole booking ``row`` is empty and ``attendance`` is None."""

    booking_id: str
    session_id: str | None
    row: StoredRow
    """The session's."""
    attendance: AttendanceValue | None
    booking: Booking | None
    erasure_horizon: int
    """The booking's erasure horizon, microseconds."""
    record: str
    """`record_digest` of the booking; only the id of a CloudEvent needs it."""
    statuses: tuple[tuple[str, AttendanceStatus], ...] = ()
    """Of a whole booking: (session, status) of each attendance, in order."""
    newest: int = NEVER
    """Of a whole booking: the newest ``updated`` of its attendances, microseconds; else `NEVER`."""


def alert_event(kind: AlertKind, alert_input: AlertInput, *, is_open: bool) -> AlertEvent:
    """The CloudEvent of an alert: of one that is open, or of one that no longer is."""
    data = _data(kind, alert_input, _message(kind, alert_input) if is_open else f"{kind} no longer applies")
    time = data["openedAt"]
    if not is_open:
        time = format_time(max(_updated(alert_input), alert_input.booking.time if alert_input.booking else NEVER))
        data["resolvedAt"] = time
    return {
        "specversion": "1.0",
        "id": f"{data['alertId']}:{'opened' if is_open else 'resolved'}:{_digest(alert_input)}",
        "source": SOURCE,
        "type": OPENED if is_open else RESOLVED,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    }


def open_alert(kind: AlertKind, alert_input: AlertInput) -> AlertData:
    """The alert as readers see it while it is open."""
    return _data(kind, alert_input, _message(kind, alert_input))


def differs(kind: AlertKind, now: AlertInput, then: AlertInput) -> bool:
    """Whether readers see a changed alert. It was open ``then``, and its attendance, if any, is unchanged."""
    return (
        _updated(now) // 1000 != _updated(then) // 1000
        or _message(kind, now) != _message(kind, then)
        or _expected(kind, now) != _expected(kind, then)
    )


def _data(kind: AlertKind, alert_input: AlertInput, message: str) -> AlertData:
    booking_id, session_id, value = alert_input.booking_id, alert_input.session_id, alert_input.attendance
    attendance = document(booking_id, session_id, value) if value and session_id else None
    data: AlertData = {
        "alertId": alert_id(kind, booking_id, session_id),
        "kind": kind,
        "severity": SEVERITIES[kind],
        "bookingId": booking_id,
        "attendance": attendance,
        "expected": _expected(kind, alert_input),
        "openedAt": attendance["updatedDate"] if attendance else format_time(_updated(alert_input)),
        "message": message,
    }
    if session_id is not None:
        data["sessionId"] = session_id
    return data


def _updated(alert_input: AlertInput) -> int:
    """The attendance's ``updated``; of an attendance that is gone, the horizon that removed it."""
    updated = alert_input.attendance.updated if alert_input.attendance else alert_input.newest
    updated = updated if updated > NEVER else max(alert_input.row.row.horizon, alert_input.erasure_horizon)
    # an alert with neither attendance nor horizon cannot occur; never fail on one
    return updated if updated > NEVER else 0


def record_digest(booking: Booking | None) -> str:
    """Identifies a booking's record in the ids of alerts."""
    if booking is None:
        return ""
    return sha256(b"".join((pack_text(booking.booking_id), *encode_content(booking)))).hexdigest()


def _digest(alert_input: AlertInput) -> str:
    """Identifies what the alert was detected from."""
    status = f"{alert_input.attendance.status}{alert_input.attendance.number}" if alert_input.attendance else ""
    text = JOIN.join(
        (
            alert_input.record,
            status,
            str(alert_input.erasure_horizon),
            str(alert_input.newest),
            *chain.from_iterable(alert_input.statuses),
        )
    )
    # without format and ever opened alerts, the first two bytes: the latter depend on how events were batched
    return sha256(text.encode() + encode(*alert_input.row)[2:]).hexdigest()[:32]


def _expected(kind: AlertKind, alert_input: AlertInput) -> dict[str, Any]:
    """What would be no mismatch. The most frequent kinds come first, here and in `_message`."""
    attendance, booking = alert_input.attendance, alert_input.booking
    if kind is AlertKind.CONFLICTING_REPORTS:
        return {"reports": "one status"}
    if kind is AlertKind.FREQUENT_NO_SHOWS:
        return {"notAttended": {"atMost": max(2, _missed_and_decided(alert_input)[1] // 2)}}
    if kind is AlertKind.STATUS_COUNT_MISMATCH:
        attended = attendance and attendance.status == AttendanceStatus.ATTENDED
        return {"numberOfAttendees": {"atLeast": 1} if attended else {"atMost": 0}}
    if kind is AlertKind.PARTICIPANTS_EXCEEDED:
        return {"numberOfAttendees": {"atMost": booking.participants if booking else 0}}
    if kind is AlertKind.BOOKING_CANCELED:
        return {"status": ["NOT_SET", "NOT_ATTENDED"]}
    if kind is AlertKind.UNKNOWN_SESSION:
        return {"sessionId": sorted(booking.sessions or {})[:20] if booking else []}
    newest = alert_input.row.row.newest
    return {"time": {"atMost": format_time(effective_time(newest.key))}} if newest else {}


def _message(kind: AlertKind, alert_input: AlertInput) -> str:
    """The actual values, while the alert is open."""
    attendance, booking, row = alert_input.attendance, alert_input.booking, alert_input.row.row
    number = attendance.number if attendance else 0
    if kind is AlertKind.CONFLICTING_REPORTS:
        reports = (("ATTENDED", row.attended), ("NOT_ATTENDED", row.missed))
        return ", ".join(
            f"{mark.source} reported {status} at {format_time(effective_time(mark.key))}" for status, mark in reports if mark
        )
    if kind is AlertKind.FREQUENT_NO_SHOWS:
        return "Missed {} of {} sessions".format(*_missed_and_decided(alert_input))
    if kind is AlertKind.STATUS_COUNT_MISMATCH:
        return f"{attendance.status if attendance else 'No attendance'} with {number} attendees"
    if kind is AlertKind.PARTICIPANTS_EXCEEDED:
        return f"{number} attendees came on a booking for {booking.participants if booking else 0}"
    if kind is AlertKind.BOOKING_CANCELED:
        return "ATTENDED, but the booking is canceled"
    if kind is AlertKind.UNKNOWN_SESSION:
        listed = (booking.sessions if booking else None) or ()
        return f"The booking lists {len(listed)} sessions, but not this one"
    if not attendance or not row.newest:
        return "The attendance no longer exists"
    ahead = (event_time(row.newest.key) - effective_time(row.newest.key)) // 1_000_000
    return f"The clock of {attendance.source} runs at least {ahead} s ahead of what the clock tolerance allows"


def _missed_and_decided(alert_input: AlertInput) -> tuple[int, int]:
    """How many of the booking's attendances are NOT_ATTENDED, and how many are ATTENDED or NOT_ATTENDED."""
    statuses = [status for _, status in alert_input.statuses]
    missed = statuses.count(AttendanceStatus.NOT_ATTENDED)
    return missed, missed + statuses.count(AttendanceStatus.ATTENDED)
