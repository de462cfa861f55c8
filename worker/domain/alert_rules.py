"""The mismatch rules (contract, section 6): which alerts an attendance, or a booking's attendances, hold open.

A set of kinds is a bit mask, because it is compared for every row of every batch and stored in the row.
"""

from functools import lru_cache
from typing import NamedTuple

from schemas.alerts import AlertKind
from schemas.attendance import STATUSES, AttendanceStatus
from schemas.events import Booking
from worker.domain.fold import effective_time
from worker.domain.row_codec import newest_of, opposed, source_of

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
_CAME = STATUSES.index(AttendanceStatus.ATTENDED)
#: The kind that concerns the whole booking.
FREQUENT = AlertKind.FREQUENT_NO_SHOWS


class Rules(NamedTuple):
    """The settings that shape results, microseconds."""

    clock_tolerance: int
    conflict_window: int
    max_event_age: int


@lru_cache
def kinds(mask: int) -> tuple[AlertKind, ...]:
    """The kinds in a bit mask."""
    return tuple(kind for kind, bit in BITS.items() if mask & bit)


@lru_cache(maxsize=10_000)
def _judge(says: bytes) -> tuple[bool, int, int]:
    """Whether an attendance that says this came, its number, and the mask of what is wrong with that alone."""
    came, number = says[0] == _CAME, int.from_bytes(says[1:], "big")
    return came, number, _STATUS_COUNT if came == (number == 0) else 0


def detect(session_id: str, says: bytes, row: bytes, booking: Booking | None, rules: Rules) -> int:
    """The mask of what is wrong with an attendance, given what it says, its packed row, and what is known of its booking."""
    came, number, mask = _judge(says)
    if booking is not None:
        _, participants, walk_ins_allowed, canceled, sessions, _ = booking
        if number > participants and not walk_ins_allowed:
            mask |= _EXCEEDED
        if canceled and came:
            mask |= _CANCELED
        if sessions is not None and session_id not in sessions:
            mask |= _UNKNOWN
    reports = opposed(row)
    if reports is not None and source_of(row, reports[0]) != source_of(row, reports[1]):
        apart = effective_time(row, reports[0]) - effective_time(row, reports[1])
        if -rules[1] <= apart <= rules[1]:
            mask |= _CONFLICTING
    newest = newest_of(row)
    if row[newest : newest + 8] < row[newest + 8 : newest + 16]:
        mask |= _AHEAD
    return mask


def frequent_no_shows(attended: int, missed: int) -> bool:
    """Whether a booking missed at least 3 sessions, and more than half of those that came to a decision."""
    return missed >= 3 and missed > attended
