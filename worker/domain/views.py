"""What readers see of a booking: its (booking, session) pairs and its summary (contract, section 5)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.attendance import STATUSES, Attendance, attendance_id, guid
from schemas.events import Booking, Window
from schemas.packing import text_of
from schemas.times import format_time
from worker.domain.fold import effective_time
from worker.domain.packed import Seen

#: Places in `STATUSES`, and in a summary.
ATTENDED, NOT_ATTENDED, NOT_SET = range(len(STATUSES))
_new = tuple.__new__


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


def is_listed(session_id: str, booking: Booking | None) -> bool:
    """Whether a known, uncanceled booking lists the session."""
    return listing(session_id, booking)[1] is not None


def counted_as(session_id: str, says: bytes, booking: Booking | None) -> int | None:
    """The place of the status as which a summary counts the pair, which says this; None where there is no pair."""
    if says:
        return says[0]
    return NOT_SET if is_listed(session_id, booking) else None


def summary_after(before: Summary | None, moves: Iterable[Sequence[int | None]]) -> Summary | None:
    """The summary once pairs counted as one status are counted as another; None where only `summarise` can tell."""
    counts = list(before[:3]) if before else [0, 0, 0]
    for was, now in moves:
        if was is not None:
            counts[was] -= 1
        if now is not None:
            counts[now] += 1
    missed = counts[NOT_ATTENDED]
    return _new(Summary, (*counts, missed)) if missed <= 1 and any(counts) else None


def summarise(said: Mapping[str, bytes], booking: Booking | None) -> Summary | None:
    """The booking's summary, given by session what its attendances say; None where it has no pair."""
    listed = (booking.sessions if booking and not booking.canceled else None) or {}
    if not said:
        return _new(Summary, (0, 0, len(listed), 0)) if listed else None
    counts = [0, 0, 0]
    for says in said.values():
        counts[says[0]] += 1
    counts[NOT_SET] += sum(name not in said for name in listed)
    missed = counts[NOT_ATTENDED]
    if missed > 1:
        decided = [(name, says[0] == NOT_ATTENDED) for name, says in said.items() if says[0] != NOT_SET]
        return _new(Summary, (*counts, _longest_run(decided, booking)))
    return _new(Summary, (*counts, missed))


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
