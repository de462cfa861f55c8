"""From the change of a booking to its record in Redis and to its members in the indexes by booking. Pure."""

from collections.abc import Mapping
from functools import lru_cache

from worker.domain.booking_state import BookingState, Change
from worker.domain.summaries import Summary
from worker.read_model.booking_records import MOST_IN_RECORD, NO_ATTENDANCE, mark_of, pack_record, status_of
from worker.read_model.write_batch import NO_MEMBER, UNKNOWN, Entries, RecordMember

_ATTENDED = 0
Marks = Mapping[str, int]
"""By session, the mark of its attendance (`worker.read_model.booking_records`); only of sessions that have one."""


def project_changed_booking(change: Change, entries: Entries, *, known: bool) -> None:
    """Adds the record of a booking that a batch changed, and its members in the indexes by booking.

    Nothing is added if neither the summary nor a mark changed, unless the batch was redelivered.

    Args:
        known: whether Redis holds exactly the state from before the batch; otherwise all that it may hold is replaced.
    """
    state = change.state
    marks_before = {each.name: _mark(each.status_before) for each in change.sessions}
    moved = {each.name for each in change.sessions if _mark(each.status) != marks_before[each.name]}
    was_frequent = change.before.judged is not None
    is_same = not moved and state.summary == change.before.summary and state.frequent == was_frequent
    if is_same and not change.is_redelivery:
        return
    now = _marks(state)
    if not known:
        # only a booking with so many rows can be large, or have been
        names = marks_before.keys() | (state.rows.keys() if len(state.rows) > MOST_IN_RECORD else set())
        _add(state, now, dict.fromkeys(names, UNKNOWN), _record_member(now), -_rate(state.summary) or 1.0, entries)
        return
    before = {name: mark for name, mark in {**now, **marks_before}.items() if mark != NO_ATTENDANCE}
    if _is_large(now) != _is_large(before):
        moved |= now.keys() | before.keys()
    members = {name: _member_status(before, name) for name in moved}
    rate, rate_before = _rate(state.summary), _rate(change.before.summary)
    rate_change = 0.0 if rate == rate_before else -rate or 1.0
    record_member = RecordMember.KEEP if _record_member(now) is _record_member(before) else _record_member(now)
    _add(state, now, members, record_member, rate_change, entries)


def project_booking(state: BookingState, entries: Entries, *, is_empty: bool) -> None:
    """Adds the record of a booking that has a pair, and its members in the indexes by booking.

    Args:
        is_empty: whether the read models hold nothing of the booking yet.
    """
    now, rate = _marks(state), _rate(state.summary)
    if is_empty:
        _add(state, now, dict.fromkeys(now, NO_MEMBER), _record_member(now), 0.0 - rate, entries)
    else:
        _add(state, now, dict.fromkeys(state.rows, UNKNOWN), _record_member(now), -rate or 1.0, entries)


def _add(state: BookingState, now: Marks, before: Marks, record_member: RecordMember, rate: float, entries: Entries) -> None:
    """Adds entries of a booking: its record, and the members of its attendances that move.

    A reader finds each attendance by its member or in the record, perhaps in both, whatever part of this it sees.

    Args:
        before: by session, the status in whose index its attendance was a member.
    """
    members = sorted((state.identity(name), _member_status(now, name), status) for name, status in before.items())
    moved = [each for each in members if each[1] != each[2]]
    for each in moved:
        if each[1] != NO_MEMBER:
            entries.member(state.booking_id, *each)
    entries.booking(state.booking_id, _record(state, now), record_member, rate)
    for each in moved:
        if each[1] == NO_MEMBER:
            entries.member(state.booking_id, *each)


def _member_status(marks: Marks, name: str) -> int:
    """The status in whose index by booking the attendance of a session is a member of its own."""
    status = status_of(marks.get(name, NO_ATTENDANCE))
    return NO_MEMBER if status == NO_ATTENDANCE or (status == _ATTENDED and not _is_large(marks)) else status


def _record_member(marks: Marks) -> RecordMember:
    """Whether the index of ATTENDED has a member that stands for those in the record."""
    is_listed = not _is_large(marks) and _ATTENDED in map(status_of, marks.values())
    return RecordMember.ADD if is_listed else RecordMember.REMOVE


def _is_large(marks: Marks) -> bool:
    return len(marks) > MOST_IN_RECORD


def _record(state: BookingState, now: Marks) -> bytes:
    """The record of a booking; empty if it has no pair."""
    if state.summary is None:
        return b""
    is_large = _is_large(now)
    attendances = [] if is_large else sorted([(state.identity(name), mark) for name, mark in now.items()])
    packed = [mark.to_bytes() + identity for identity, mark in attendances]
    return pack_record(state.summary, packed, is_frequent=state.frequent, is_large=is_large)


def _marks(state: BookingState) -> Marks:
    return {name: _mark(status) for name, status in state.statuses.items()}


@lru_cache(maxsize=1000)
def _mark(status: bytes) -> int:
    """The mark of an attendance, from its packed status."""
    return mark_of(status[0], int.from_bytes(status[1:])) if status else NO_ATTENDANCE


def _rate(summary: Summary | None) -> float:
    return 0.0 if summary is None else summary.no_show_rate
