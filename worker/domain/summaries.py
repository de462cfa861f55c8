"""What readers see of a booking: its (booking, session) pairs and its summary (contract, section 5)."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from schemas.attendance import Attendance, attendance_id, guid
from schemas.events import Booking, Window, start_of
from schemas.packing import text_of
from schemas.times import format_time
from worker.domain.fold import effective_time
from worker.domain.row_codec import Seen

#: As what a session counts in a summary: the place of its status in `STATUSES`; one that is only listed; one that is not.
ATTENDED, NOT_ATTENDED, NOT_SET, _LISTED, _NOTHING = range(5)
#: Summaries of bookings of so many sessions are worth remembering.
_USUAL_SESSIONS = 16


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


def alike(one: Seen, other: Seen) -> bool:
    """Whether readers see the same in two attendances: times have milliseconds there."""
    return (
        one[:2] == other[:2]
        and one.source == other.source
        and effective_time(one.updated) // 1000 == effective_time(other.updated) // 1000
    )


def listing(session_id: str, booking: Booking | None) -> tuple[int, Window | None]:
    """What a booking says of a pair: participants expected, 0 if unknown or canceled; and when, None if it does not list it."""
    if booking is None or booking[3]:
        return 0, None
    sessions = booking[4]
    return booking[1], sessions.get(session_id) if sessions else None


def summarise(said: Mapping[str, bytes], booking: Booking | None) -> Summary | None:
    """The booking's summary, given by session what its attendances say; None where it has no pair."""
    sessions = (booking.sessions if booking else None) or {}
    unsaid = _LISTED if booking and not booking.canceled else _NOTHING
    counted = [said[name][0] if name in said else unsaid for name in sessions]
    if len(counted) - counted.count(unsaid) < len(said):
        names = sorted({*sessions, *said}, key=lambda name: start_of(name, sessions.get(name)))
        counted = [said[name][0] if name in said else unsaid for name in names]
    return _summarised(bytes(counted)) if len(counted) <= _USUAL_SESSIONS else _summarised.__wrapped__(bytes(counted))


@lru_cache(maxsize=10_000)
def _summarised(counted: bytes) -> Summary | None:
    """The summary of sessions in the order of their start, each as what it counts. The few that there are come often."""
    attended, missed = counted.count(ATTENDED), counted.count(NOT_ATTENDED)
    not_set = counted.count(NOT_SET) + counted.count(_LISTED)
    if not attended + missed + not_set:
        return None
    decided = counted.translate(None, bytes((NOT_SET, _LISTED, _NOTHING)))
    return Summary(attended, missed, not_set, max(map(len, decided.split(bytes((ATTENDED,))))))


def document(booking_id: str, session_id: str, seen: Seen) -> Attendance:
    """The attendance in the contract's shape."""
    return {
        "id": guid(attendance_id(booking_id, session_id)),
        "bookingId": booking_id,
        "sessionId": session_id,
        "status": seen.status,
        "numberOfAttendees": seen.number,
        "updatedDate": format_time(effective_time(seen.updated)),
        "source": text_of(seen.source),
    }
