"""What readers see of a booking: its (booking, session) pairs and its summary (contract, section 5)."""

from collections.abc import Iterable
from typing import NamedTuple

from schemas.attendance import Attendance, AttendanceStatus, attendance_id, guid
from schemas.events import Booking, Window
from schemas.times import format_time
from worker.domain.fold import Row, effective_time, status_and_number

ATTENDED, NOT_ATTENDED, NOT_SET = AttendanceStatus.ATTENDED, AttendanceStatus.NOT_ATTENDED, AttendanceStatus.NOT_SET


class Seen(NamedTuple):
    """An attendance without its ids; ``updated`` in microseconds."""

    status: AttendanceStatus
    number: int
    updated: int
    source: str


class Pair(NamedTuple):
    """One (booking, session) that counts in the session's tally.

    It is there because a known, uncanceled booking lists the session (``window``), or because it has an attendance.
    """

    attendance: Seen | None
    expected: int
    """``numberOfParticipants`` of a known, uncanceled booking, else 0."""
    window: Window | None


class Summary(NamedTuple):
    """A booking's pairs by status; ``longest_run`` of NOT_ATTENDED, in the order of their start."""

    attended: int
    not_attended: int
    not_set: int
    longest_run: int

    @property
    def no_show_rate(self) -> float:
        decided = self.attended + self.not_attended
        return self.not_attended / decided if decided else 0.0


def see(row: Row, participants: int) -> Seen | None:
    """The attendance of a row with so many participants scanned, None where there is none."""
    known = status_and_number(row, participants)
    if known is None:
        return None
    assert row.newest is not None
    return Seen(known[0], known[1], effective_time(row.newest.key), row.newest.source)


def pair(session_id: str, attendance: Seen | None, booking: Booking | None) -> Pair | None:
    """The pair that readers see, None where there is nothing to see."""
    if booking is None or booking.canceled:
        return None if attendance is None else Pair(attendance, 0, None)
    window = booking.sessions.get(session_id) if booking.sessions else None
    if attendance is None and window is None:
        return None
    return Pair(attendance, booking.participants, window)


def summarise(pairs: Iterable[tuple[str, Pair]], booking: Booking | None) -> Summary | None:
    """The booking's summary over its (session id, pair)s, None where it has no pair."""
    attended = missed = unset = 0
    decided: list[tuple[str, bool]] = []
    for session_id, each in pairs:
        status = NOT_SET if each.attendance is None else each.attendance.status
        if status == NOT_SET:
            unset += 1
            continue
        absent = status == NOT_ATTENDED
        missed += absent
        attended += not absent
        decided.append((session_id, absent))
    if not attended and not missed and not unset:
        return None
    return Summary(attended, missed, unset, _longest_run(decided, booking) if missed > 1 else missed)


def document(booking_id: str, session_id: str, seen: Seen) -> Attendance:
    """The attendance in the contract's shape."""
    return {
        "id": guid(attendance_id(booking_id, session_id)),
        "bookingId": booking_id,
        "sessionId": session_id,
        "status": seen.status,
        "numberOfAttendees": seen.number,
        "updatedDate": format_time(seen.updated),
        "source": seen.source,
    }


def _longest_run(decided: list[tuple[str, bool]], booking: Booking | None) -> int:
    listed = (booking.sessions if booking else None) or {}

    def when(entry: tuple[str, bool]) -> tuple[bool, int, str]:
        window = listed.get(entry[0])
        starts = window.starts if window else None
        return starts is None, starts or 0, entry[0]

    longest = run = 0
    for _, absent in sorted(decided, key=when):
        run = run + 1 if absent else 0
        longest = max(longest, run)
    return longest
