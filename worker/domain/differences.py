"""What differs between two states of a booking for whoever reads its attendances and is told of its alerts."""

from collections.abc import Iterator
from typing import NamedTuple

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance
from worker.domain import alert_events
from worker.domain.alert_rules import FREQUENT, kinds
from worker.domain.booking_state import BookingState
from worker.domain.summaries import document

OpenAlerts = dict[tuple[AlertKind, str | None], AlertData]
"""By kind and session; the session is None where an alert concerns the whole booking."""


class AttendanceDifference(NamedTuple):
    """An attendance before and after; None: there is none."""

    session_id: str
    before: Attendance | None
    after: Attendance | None


class AlertDifference(NamedTuple):
    """An alert that opens (nothing before), resolves (nothing after), or stays open with other data."""

    kind: AlertKind
    session_id: str | None
    before: AlertData | None
    after: AlertData | None


class Differences(NamedTuple):
    """Of one booking."""

    attendances: list[AttendanceDifference]
    alerts: list[AlertDifference]
    record_differs: bool
    """Whether the booking record differs."""

    def __bool__(self) -> bool:
        return bool(self.attendances or self.alerts or self.record_differs)


def differences(before: BookingState, after: BookingState) -> Differences:
    """What differs, in the order of sessions and kinds."""
    alerts_before, alerts_after = open_alerts(before), open_alerts(after)
    alerts = sorted(alerts_before.keys() | alerts_after.keys(), key=lambda each: (each[1] or "", each[0]))
    return Differences(
        list(_attendances(before, after)),
        [
            AlertDifference(*each, alerts_before.get(each), alerts_after.get(each))
            for each in alerts
            if alerts_before.get(each) != alerts_after.get(each)
        ],
        before.booking != after.booking,
    )


def open_alerts(state: BookingState) -> OpenAlerts:
    """The alerts of a booking that are open."""
    found: OpenAlerts = {}
    for name, mask in state.masks.items():
        for kind in kinds(mask):
            found[kind, name] = alert_events.open_alert(kind, state.judged_session(name))
    if state.frequent:
        found[FREQUENT, None] = alert_events.open_alert(FREQUENT, state.judged())
    return found


def _attendances(before: BookingState, after: BookingState) -> Iterator[AttendanceDifference]:
    for name in sorted(before.rows.keys() | after.rows.keys()):
        then, now = _attendance(before, name), _attendance(after, name)
        if then != now:
            yield AttendanceDifference(name, then, now)


def _attendance(state: BookingState, name: str) -> Attendance | None:
    value = state.seen(name)
    return value and document(state.booking_id, name, value)
