"""The mismatch rules (schemas/README.md, alerts): which alerts an attendance, or all attendances of a booking, keep open.

A set of kinds is a bit mask, because it is compared for every row of a batch and stored in the row.
"""

from functools import lru_cache
from typing import NamedTuple

from schemas.alerts import AlertKind
from schemas.attendance import STATUSES, AttendanceStatus
from schemas.events import Booking
from worker.domain.fold import Row, effective_time, event_time

#: The kinds that concern one (booking, session), each with its bit. Rows store the bits: only append.
BITS = {
    AlertKind.STATUS_COUNT_MISMATCH: 1,
    AlertKind.PARTICIPANTS_EXCEEDED: 2,
    AlertKind.BOOKING_CANCELED: 4,
    AlertKind.UNKNOWN_SESSION: 8,
    AlertKind.CONFLICTING_REPORTS: 16,
    AlertKind.CLOCK_AHEAD: 32,
}
_STATUS_COUNT, _EXCEEDED, _CANCELED, _UNKNOWN, _CONFLICTING, _AHEAD = BITS.values()
_ATTENDED = STATUSES.index(AttendanceStatus.ATTENDED)
#: The kind that concerns the whole booking.
FREQUENT = AlertKind.FREQUENT_NO_SHOWS


class Rules(NamedTuple):
    """The settings that shape results, in microseconds."""

    clock_tolerance: int
    conflict_window: int
    max_event_age: int


@lru_cache
def kinds(mask: int) -> tuple[AlertKind, ...]:
    """The kinds in a bit mask."""
    return tuple(kind for kind, bit in BITS.items() if mask & bit)


@lru_cache(maxsize=10_000)
def _check_status(status: bytes) -> tuple[bool, int, int]:
    """(whether it is ATTENDED, number of attendees, mask of mismatches) of a packed status by itself."""
    attended, number = status[0] == _ATTENDED, int.from_bytes(status[1:], "big")
    return attended, number, _STATUS_COUNT if attended == (number == 0) else 0


def detect(session_id: str, status: bytes, row: Row, booking: Booking | None, rules: Rules) -> int:
    """The mask of an attendance's mismatches, from its packed status, its row and its booking record, if there is one."""
    attended, number, mask = _check_status(status)
    if booking is not None:
        _, participants, walk_ins_allowed, canceled, sessions, _ = booking
        if number > participants and not walk_ins_allowed:
            mask |= _EXCEEDED
        if canceled and attended:
            mask |= _CANCELED
        if sessions is not None and session_id not in sessions:
            mask |= _UNKNOWN
    if row.attended and row.missed and row.attended.source != row.missed.source:
        apart = effective_time(row.attended.key) - effective_time(row.missed.key)
        if -rules.conflict_window <= apart <= rules.conflict_window:
            mask |= _CONFLICTING
    if row.newest and effective_time(row.newest.key) < event_time(row.newest.key):
        mask |= _AHEAD
    return mask


def frequent_no_shows(attended: int, missed: int) -> bool:
    """Whether a booking missed at least 3 sessions, and more than half of those that are attended or missed."""
    return missed >= 3 and missed > attended
