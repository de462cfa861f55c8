"""What readers see of a booking: its (booking, session) pairs and its summary (contract, section 5)."""

from collections.abc import Iterable
from typing import NamedTuple

from schemas.attendance import Attendance, AttendanceStatus, attendance_id, guid
from schemas.events import Booking, Window
from schemas.times import format_time
from worker.domain.fold import Row, effective_time

ATTENDED, NOT_ATTENDED, NOT_SET = AttendanceStatus.ATTENDED, AttendanceStatus.NOT_ATTENDED, AttendanceStatus.NOT_SET
_new = tuple.__new__


class Seen(NamedTuple):
    """An attendance without its ids; ``updated`` in microseconds."""

    status: AttendanceStatus
    number: int
    updated: int
    source: str


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
    _, base, newest, _, _, _ = row
    if participants:
        at_desk = base[2] if base is not None and base[1] is ATTENDED else 0
        status, number = ATTENDED, max(participants, at_desk)
    elif base is not None:
        status, number = base[1], base[2]
    else:
        return None
    assert newest is not None
    return _new(Seen, (status, number, effective_time(newest[0]), newest[1]))


def alike(one: Seen, other: Seen) -> bool:
    """Whether readers see the same in two attendances: times have milliseconds there."""
    return one[:2] == other[:2] and one.updated // 1000 == other.updated // 1000 and one.source == other.source


def listing(session_id: str, booking: Booking | None) -> tuple[int, Window | None]:
    """What a booking says of a pair: participants expected, 0 if unknown or canceled; and when, None if it does not list it."""
    if booking is None or booking[3]:
        return 0, None
    sessions = booking[4]
    return booking[1], sessions.get(session_id) if sessions else None


def is_listed(session_id: str, booking: Booking | None) -> bool:
    """Whether a known, uncanceled booking lists the session."""
    return listing(session_id, booking)[1] is not None


def counted_as(session_id: str, seen: Seen | None, booking: Booking | None) -> AttendanceStatus | None:
    """The status as which a summary counts the pair; None where there is no pair."""
    if seen is not None:
        return seen[0]
    return NOT_SET if is_listed(session_id, booking) else None


def summary_after(
    before: Summary | None, moves: Iterable[tuple[AttendanceStatus | None, AttendanceStatus | None]]
) -> Summary | None:
    """The summary once pairs counted as one status are counted as another; None where only `summarise` can tell."""
    attended, missed, unset = before[:3] if before else (0, 0, 0)
    for was, now in moves:
        attended += (now is ATTENDED) - (was is ATTENDED)
        missed += (now is NOT_ATTENDED) - (was is NOT_ATTENDED)
        unset += (now is NOT_SET) - (was is NOT_SET)
    known = missed <= 1 and (attended or missed or unset)
    return Summary(attended, missed, unset, missed) if known else None


def summarise(pairs: Iterable[tuple[str, Seen | None]], booking: Booking | None) -> Summary | None:
    """The booking's summary over its (session id, attendance) pairs, None where it has no pair."""
    attended = missed = unset = 0
    decided: list[tuple[str, bool]] = []
    for session_id, seen in pairs:
        status = NOT_SET if seen is None else seen[0]
        if status is NOT_SET:
            unset += 1
            continue
        absent = status is NOT_ATTENDED
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
