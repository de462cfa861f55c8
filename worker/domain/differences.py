"""What differs between two states of a booking for whoever reads its attendances and is told of its alerts."""

from typing import NamedTuple

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance
from worker.domain.alert_events import open_alert
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
    then, now = _attendances(before), _attendances(after)
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    attendances = [AttendanceDifference(name, then.get(name), now.get(name)) for name in changed]
    open_then, open_now = open_alerts(before), open_alerts(after)
    places = sorted(open_then.keys() | open_now.keys(), key=lambda each: (each[1] or "", each[0]))
    alerts = [AlertDifference(*each, open_then.get(each), open_now.get(each)) for each in places]
    return Differences(attendances, [each for each in alerts if each.before != each.after], before.booking != after.booking)


def open_alerts(state: BookingState) -> OpenAlerts:
    """The alerts of a booking that are open."""
    found: OpenAlerts = {}
    for name, mask in state.masks.items():
        judged = state.judged_session(name)
        for kind in kinds(mask):
            found[kind, name] = open_alert(kind, judged)
    if state.frequent:
        found[FREQUENT, None] = open_alert(FREQUENT, state.judged())
    return found


def _attendances(state: BookingState) -> dict[str, Attendance]:
    seen = {name: state.seen(name) for name in state.rows}
    return {name: document(state.booking_id, name, value) for name, value in seen.items() if value is not None}
