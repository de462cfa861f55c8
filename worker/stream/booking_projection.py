"""From the change of a booking to its record in Redis and to its places in the index by booking. Pure."""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from schemas.attendance import STATUSES
from worker.domain.booking_state import BookingState, Change
from worker.domain.summaries import Summary
from worker.read_model.booking_records import MOST_IN_RECORD, NO_ATTENDANCE, UNKNOWN, mark_of, pack_record, status_of
from worker.read_model.write_batch import Entries

_LIST, _UNLIST = 1, 2
_STATUSES = range(len(STATUSES))
Marks = Mapping[str, int]
"""By session, the mark of its attendance (`worker.read_model.booking_records`); only of sessions that have one."""


def project_changed_booking(change: Change, entries: Entries, *, known: bool) -> None:
    """Adds the record of a booking that a batch changed, and its places in the index by booking.

    Nothing is added if neither the summary nor a mark changed, unless the batch was redelivered.

    Args:
        known: whether Redis holds exactly the state from before the batch; otherwise all of the booking is sent.
    """
    state = change.state
    moved = {
        each.name: mark_before
        for each in change.sessions
        if each.status != each.status_before and (mark_before := _mark(each.status_before)) != _mark(each.status)
    }
    was_frequent = change.before.judged is not None
    is_same = not moved and state.summary == change.before.summary and state.frequent == was_frequent
    if is_same and not change.is_redelivery:
        return
    now = _marks(state)
    if not known:
        _project(state, now, entries)
        return
    before = {name: mark for name, mark in {**now, **moved}.items() if mark != NO_ATTENDANCE}
    rate, rate_before = _rate(state.summary), _rate(change.before.summary)
    rate_change = 0.0 if rate == rate_before else -rate or 1.0
    is_large, was_large = len(now) > MOST_IN_RECORD, len(before) > MOST_IN_RECORD
    # a reader finds each attendance in the record or in the index, whatever part of this it sees
    if is_large:
        _index(state, moved if was_large else now, now, before if was_large else {}, entries)
    entries.booking(state.booking_id, _record(state, now), _listed(_present(now), _present(before)), rate_change)
    if was_large and not is_large:
        _index(state, before, {}, before, entries)


def project_booking(state: BookingState, entries: Entries, *, is_empty: bool) -> None:
    """Adds the record of a booking that has a pair, and its places in the index by booking.

    Args:
        is_empty: whether the read models hold nothing of the booking yet.
    """
    now = _marks(state)
    if not is_empty:
        _project(state, now, entries)
        return
    if len(now) > MOST_IN_RECORD:
        _index(state, now, now, {}, entries)
    entries.booking(state.booking_id, _record(state, now), _listed(_present(now), ()), 0.0 - _rate(state.summary))


def _project(state: BookingState, now: Marks, entries: Entries) -> None:
    """The same whatever Redis holds of the booking."""
    is_large = len(now) > MOST_IN_RECORD
    # only a booking with so many rows can be large, or have been
    names = list(state.rows) if len(state.rows) > MOST_IN_RECORD else []
    unknown = dict.fromkeys(names, UNKNOWN)
    if is_large:
        _index(state, names, now, unknown, entries)
    present = _present(now)
    listed = _listed(present, _STATUSES) | _listed(present, ())
    entries.booking(state.booking_id, _record(state, now), listed, -_rate(state.summary) or 1.0)
    if not is_large:
        _index(state, names, {}, unknown, entries)


def _index(state: BookingState, names: Iterable[str], now: Marks, before: Marks, entries: Entries) -> None:
    """Moves attendances of a large booking in the index, in the order of ids."""
    for identity, name in sorted((state.identity(name), name) for name in names):
        entries.indexed(state.booking_id, identity, now.get(name, NO_ATTENDANCE), before.get(name, NO_ATTENDANCE))


def _record(state: BookingState, now: Marks) -> bytes:
    """The record of a booking; empty if it has no pair."""
    if state.summary is None:
        return b""
    is_large = len(now) > MOST_IN_RECORD
    attendances = [] if is_large else sorted([(state.identity(name), mark) for name, mark in now.items()])
    packed = [mark.to_bytes() + identity for identity, mark in attendances]
    return pack_record(state.summary, packed, is_frequent=state.frequent, is_large=is_large)


def _marks(state: BookingState) -> Marks:
    return {name: _mark(status) for name, status in state.statuses.items()}


@lru_cache(maxsize=1000)
def _mark(status: bytes) -> int:
    """The mark of an attendance, from its packed status."""
    return mark_of(status[0], int.from_bytes(status[1:])) if status else NO_ATTENDANCE


def _present(marks: Marks) -> Collection[int]:
    """The statuses whose index lists the booking itself; none if it is large."""
    return () if len(marks) > MOST_IN_RECORD else {status_of(mark) for mark in set(marks.values())}


def _listed(now: Collection[int], before: Collection[int]) -> int:
    """How the booking moves in the indexes of the statuses, as `Entries.booking` takes it."""
    bits = 0
    for status in _STATUSES:
        if (status in now) != (status in before):
            bits |= (_LIST if status in now else _UNLIST) << 2 * status
    return bits


def _rate(summary: Summary | None) -> float:
    return 0.0 if summary is None else summary.no_show_rate
