"""The mismatch rules (contract, section 6): which alerts an attendance, or a booking's attendances, hold open.

A set of kinds is a bit mask, because it is compared for every row of every batch and stored in the row.
"""

from typing import NamedTuple

from schemas.alerts import AlertKind
from schemas.attendance import AttendanceStatus
from schemas.events import Booking
from worker.domain.fold import Row, effective_time

#: The kinds that concern one (booking, session), each with its bit. Their order is stored: only append.
BITS = {
    AlertKind.STATUS_COUNT_MISMATCH: 1,
    AlertKind.PARTICIPANTS_EXCEEDED: 2,
    AlertKind.BOOKING_CANCELED: 4,
    AlertKind.UNKNOWN_SESSION: 8,
    AlertKind.CONFLICTING_REPORTS: 16,
    AlertKind.CLOCK_AHEAD: 32,
}
_STATUS_COUNT, _EXCEEDED, _CANCELED, _UNKNOWN, _CONFLICTING, _AHEAD = BITS.values()
#: The kind that concerns the whole booking.
FREQUENT = AlertKind.FREQUENT_NO_SHOWS


class Rules(NamedTuple):
    """The settings that shape results, microseconds."""

    clock_tolerance: int
    conflict_window: int
    max_event_age: int


def kinds(mask: int) -> list[AlertKind]:
    """The kinds in a bit mask."""
    return [kind for kind, bit in BITS.items() if mask & bit]


def detect(session_id: str, status: AttendanceStatus, number: int, row: Row, booking: Booking | None, rules: Rules) -> int:
    """The mask of what is wrong with an attendance, given its row and what is known of its booking."""
    mask = 0
    if (number == 0) if status == AttendanceStatus.ATTENDED else (number > 0):
        mask = _STATUS_COUNT
    if booking is not None:
        if number > booking.participants and not booking.walk_ins_allowed:
            mask |= _EXCEEDED
        if booking.canceled and status == AttendanceStatus.ATTENDED:
            mask |= _CANCELED
        if booking.sessions is not None and session_id not in booking.sessions:
            mask |= _UNKNOWN
    if _conflict(row, rules):
        mask |= _CONFLICTING
    if row.newest is not None and row.newest.key[:8] < row.newest.key[8:16]:
        mask |= _AHEAD
    return mask


def frequent_no_shows(attended: int, missed: int) -> bool:
    """Whether a booking missed at least 3 sessions, and more than half of those that came to a decision."""
    return missed >= 3 and missed > attended


def _conflict(row: Row, rules: Rules) -> bool:
    one, other = row.attended, row.missed
    if one is None or other is None:
        return False
    apart = abs(effective_time(one.key) - effective_time(other.key))
    return one.source != other.source and apart <= rules.conflict_window
