"""The mismatch alerts (schemas/README.md) that are open, from the attendances and the bookings as they are."""

from collections.abc import Iterable
from typing import Any

from tests.support.oracle.law import Judged
from tests.support.oracle.reading import Reference
from tests.support.oracle.shapes import Rules

FREQUENT_AT_LEAST = 3


def of_attendance(judged: Judged, rules: Rules) -> Iterable[str]:
    """The kinds that an attendance raises by itself."""
    status, number = judged.attendance["status"], judged.attendance["numberOfAttendees"]
    if (status in {"NOT_ATTENDED", "NOT_SET"} and number > 0) or (status == "ATTENDED" and number == 0):
        yield "STATUS_COUNT_MISMATCH"
    came, missed = judged.attended, judged.not_attended
    if came is not None and missed is not None and came.fact.source != missed.fact.source:
        apart = abs(came.effective - missed.effective)
        if apart <= rules.conflict_window:
            yield "CONFLICTING_REPORTS"
    if judged.newest.effective < judged.newest.fact.time:
        yield "CLOCK_AHEAD"


def of_booking(judged: Judged, known: Reference) -> Iterable[str]:
    """The kinds that an attendance raises against its known booking."""
    attendance = judged.attendance
    if attendance["numberOfAttendees"] > known.participants and not known.walk_ins:
        yield "PARTICIPANTS_EXCEEDED"
    if attendance["status"] == "ATTENDED" and known.canceled:
        yield "BOOKING_CANCELED"
    if known.sessions is not None and attendance["sessionId"] not in known.sessions:
        yield "UNKNOWN_SESSION"


def missed_too_often(attendances: list[dict[str, Any]]) -> bool:
    """Whether the attendances of one booking raise FREQUENT_NO_SHOWS."""
    statuses = [attendance["status"] for attendance in attendances]
    missed, attended = statuses.count("NOT_ATTENDED"), statuses.count("ATTENDED")
    return missed >= FREQUENT_AT_LEAST and missed * 2 > missed + attended


def open_alerts(
    judged: dict[tuple[str, str], Judged], known: dict[str, Reference], rules: Rules
) -> dict[tuple[str, str, str | None], dict[str, Any]]:
    """Every open alert by (kind, bookingId, sessionId or None)."""
    alerts: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for (booking, session), one in judged.items():
        kinds = [*of_attendance(one, rules), *(of_booking(one, known[booking]) if booking in known else [])]
        for kind in kinds:
            alerts[kind, booking, session] = {
                "openedAt": one.attendance["updatedDate"],
                "attendance": one.attendance,
            }
    for booking in {booking for booking, _ in judged}:
        own = [one.attendance for pair, one in judged.items() if pair[0] == booking]
        if missed_too_often(own):
            opened = max(attendance["updatedDate"] for attendance in own)
            alerts["FREQUENT_NO_SHOWS", booking, None] = {"openedAt": opened, "attendance": None}
    return alerts
