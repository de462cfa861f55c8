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
_ATTENDED = AttendanceStatus.ATTENDED
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
    _, _, newest, attended, missed, _ = row
    mask = 0
    if (number == 0) if status is _ATTENDED else (number > 0):
        mask = _STATUS_COUNT
    if booking is not None:
        _, participants, walk_ins_allowed, canceled, sessions, _ = booking
        if number > participants and not walk_ins_allowed:
            mask |= _EXCEEDED
        if canceled and status is _ATTENDED:
            mask |= _CANCELED
        if sessions is not None and session_id not in sessions:
            mask |= _UNKNOWN
    if attended is not None and missed is not None and attended[1] != missed[1]:
        apart = effective_time(attended[0]) - effective_time(missed[0])
        if -rules[1] <= apart <= rules[1]:
            mask |= _CONFLICTING
    if newest is not None and newest[0][:8] < newest[0][8:16]:
        mask |= _AHEAD
    return mask


def frequent_no_shows(attended: int, missed: int) -> bool:
    """Whether a booking missed at least 3 sessions, and more than half of those that came to a decision."""
    return missed >= 3 and missed > attended
