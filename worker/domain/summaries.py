"""What readers see of a booking: its (booking, session) pairs and its summary (schemas/README.md)."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from schemas.attendance import Attendance, attendance_id, guid
from schemas.events import Booking, Window, start_of
from schemas.times import format_time
from worker.domain.row_codec import AttendanceValue

#: How a session counts in a summary: as the index of its status in `STATUSES`, as only listed, or not at all.
ATTENDED, NOT_ATTENDED, NOT_SET, _LISTED, _NOTHING = range(5)
#: Summaries of bookings with up to so many sessions are cached.
_CACHED_SESSIONS = 16


class Summary(NamedTuple):
    """How many pairs a booking has of each status; ``longest_run`` is of NOT_ATTENDED, sessions ordered by their start."""

    attended: int
    not_attended: int
    not_set: int
    longest_run: int

    @property
    def no_show_rate(self) -> float:
        decided = self.attended + self.not_attended
        return self.not_attended / decided if decided else 0.0


def same_for_readers(one: AttendanceValue, other: AttendanceValue) -> bool:
    """Whether two attendances look the same to readers, who see times in milliseconds."""
    return one[:2] == other[:2] and one.source == other.source and one.updated // 1000 == other.updated // 1000


def listing(session_id: str, booking: Booking | None) -> tuple[int, Window | None]:
    """(expected participants, 0 if unknown or canceled; window, None if not listed) of a session in a booking record."""
    if booking is None:
        return 0, None
    _, participants, _, canceled, sessions, _ = booking
    if canceled:
        return 0, None
    return participants, sessions.get(session_id) if sessions else None


def summarise(statuses: Mapping[str, bytes], booking: Booking | None) -> Summary | None:
    """The booking's summary, from the packed statuses of its attendances by session; None if it has no pair."""
    sessions = (booking.sessions if booking else None) or {}
    no_attendance = _LISTED if booking and not booking.canceled else _NOTHING
    counted = [statuses[name][0] if name in statuses else no_attendance for name in sessions]
    if len(counted) - counted.count(no_attendance) < len(statuses):
        names = sorted({*sessions, *statuses}, key=lambda name: start_of(name, sessions.get(name)))
        counted = [statuses[name][0] if name in statuses else no_attendance for name in names]
    return _summarised(bytes(counted)) if len(counted) <= _CACHED_SESSIONS else _summarised.__wrapped__(bytes(counted))


@lru_cache(maxsize=10_000)
def _summarised(counted: bytes) -> Summary | None:
    """The summary of sessions ordered by their start, one byte each: how it counts. Few distinct values occur, and often."""
    attended, missed = counted.count(ATTENDED), counted.count(NOT_ATTENDED)
    not_set = counted.count(NOT_SET) + counted.count(_LISTED)
    if not attended + missed + not_set:
        return None
    decided = counted.translate(None, bytes((NOT_SET, _LISTED, _NOTHING)))
    return Summary(attended, missed, not_set, max(map(len, decided.split(bytes((ATTENDED,))))))


def document(booking_id: str, session_id: str, value: AttendanceValue) -> Attendance:
    """The attendance as readers get it."""
    return {
        "id": guid(attendance_id(booking_id, session_id)),
        "bookingId": booking_id,
        "sessionId": session_id,
        "status": value.status,
        "numberOfAttendees": value.number,
        "updatedDate": format_time(value.updated),
        "source": value.source,
    }
