"""A booking as a worker holds it, and what one batch of records does to it: fold and judge.

``apply`` changes the state in place and says what was there before. If a batch is given up before its rows are stored, its
partition and all states of it are given up with it, so that memory never outlives what it was ahead of.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.events import Booking, BookingGone, Event, EventType, Window
from worker.domain import fold
from worker.domain.alerts import Judged, record_digest
from worker.domain.fold import EMPTY, NEVER, Row
from worker.domain.mismatch import Rules, detect, frequent_no_shows
from worker.domain.views import Seen, Summary, counted_as, is_listed, see, summarise, summary_after

_ERASED = EventType.BOOKING_ERASED.value
_new = tuple.__new__  # what a named tuple's constructor does, without binding its arguments
_REPORTS = (EventType.CHECK_IN.value, EventType.NO_SHOW.value)

Reference = tuple[int, Booking | BookingGone]
"""A bookings record: its offset and what it says."""


@dataclass(slots=True)
class Session:
    """One (booking, session): what rests in the table, and what readers were last shown of it."""

    row: Row = EMPTY
    scans: dict[bytes, bytes] | None = None
    """Participants that count, None where there were never any."""
    ever: int = 0
    """Mask of the alerts that were ever open."""
    mask: int = 0
    """Mask of the alerts open now."""
    seen: Seen | None = None
    """The attendance, None where there is none."""
    identity: bytes = field(default=b"", compare=False)
    """The attendance's id, once somebody made it."""


@dataclass(slots=True)
class BookingState:
    """One booking: its reference data, its horizon, its sessions. Times are microseconds."""

    booking_id: str
    floor: int = NEVER
    """Horizon of the whole booking: latest effective time of a ``booking.erased``."""
    ever_frequent: bool = False
    booking: Booking | None = None
    booking_offset: int = -1
    formerly: frozenset[str] = frozenset()
    """Sessions that the booking listed before its last record, of which readers may not have been told yet."""
    sessions: dict[str, Session] = field(default_factory=dict)
    summary: Summary | None = None
    frequent: bool = False
    digest: str = field(default="", compare=False)
    """Of the booking's record, once an alert needed it."""

    def pairs(self) -> Iterator[tuple[str, Seen | None]]:
        """Every (session id, attendance) that readers see, those that are only listed included."""
        for session_id, session in self.sessions.items():
            if session.seen is not None:
                yield session_id, session.seen
        for session_id in listed_by(self.booking):
            known = self.sessions.get(session_id)
            if (known is None or known.seen is None) and is_listed(session_id, self.booking):
                yield session_id, None

    def judged(self) -> Judged:
        """The booking as a whole, as FREQUENT_NO_SHOWS is judged by."""
        seen = sorted((name, session.seen) for name, session in self.sessions.items() if session.seen is not None)
        newest = max((attendance.updated for _, attendance in seen), default=NEVER)
        statuses = tuple((name, attendance.status) for name, attendance in seen)
        return Judged(self.booking_id, None, EMPTY, None, self.booking, self.floor, self._digest(), statuses, newest)

    def judged_session(self, name: str) -> Judged:
        """One session, as its alerts are judged by."""
        session = self.sessions[name]
        return Judged(self.booking_id, name, session.row, session.seen, self.booking, self.floor, self._digest())

    def _digest(self) -> str:
        if not self.digest:
            self.digest = record_digest(self.booking)
        return self.digest


class Before(NamedTuple):
    """What a session was before a batch."""

    row: Row
    seen: Seen | None
    mask: int
    ever: int


class Was(NamedTuple):
    """What a booking was before a batch."""

    booking: Booking | None
    booking_offset: int
    floor: int
    summary: Summary | None
    ever_frequent: bool
    judged: Judged | None
    """As it was judged while it was a frequent no-show, else None."""


@dataclass(slots=True)
class Change:
    """What a batch made of a booking: the state now, and what was before."""

    state: BookingState
    again: bool
    """Whether the batch was redelivered, and perhaps applied before: then everything it touches is said again."""
    was: Was
    whole: bool = False
    """Whether it changed, or says again, what concerns every session: the booking's record or its horizon."""
    sessions: dict[str, Before] = field(default_factory=dict)
    """Those that changed or, again or whole, are to be said."""
    scans: dict[str, dict[bytes, bytes | None]] | None = None
    """By session, participants that count anew (order key of their scan) or no longer (None)."""
    refers: bool = False
    """Whether a later record of the booking came."""
    listed: Iterable[str] = ()
    """Sessions without an attendance before and after that the booking lists, or listed, and whose listing is to be said."""


def listed_by(booking: Booking | None) -> Mapping[str, Window]:
    """The sessions that a booking lists."""
    return (booking.sessions if booking else None) or {}


def apply(
    state: BookingState, events: Sequence[Event], references: Sequence[Reference], rules: Rules, *, again: bool = False
) -> Change | None:
    """Applies records of one batch to a booking; what they changed, None where that is nothing.

    Args:
        references: in the order of their offsets.
        again: whether the batch was redelivered, and may have been applied before.
    """
    judged = state.judged() if state.frequent else None
    was = (state.booking, state.booking_offset, state.floor, state.summary, state.ever_frequent, judged)
    change = None
    for event in events:
        if event[0] in _REPORTS and state.floor == NEVER:
            name = event[2]
            session = state.sessions.get(name)
            if session is None:
                session = state.sessions[name] = Session()
            row = session.row
            if session.scans is None and fold.is_plain(row):
                after = fold.fold_report(row, event, rules[0])
                if after is not row or again:
                    if change is None:
                        change = Change(state, again, _new(Was, was))
                    _touch(change, name, session)
                    session.row = after
                continue
        if change is None:
            change = Change(state, again, _new(Was, was))
        _fold(change, event, rules.clock_tolerance)
    if references:
        change = change or Change(state, again, _new(Was, was))
        _refer(change, references)
    if change is None or not (change.sessions or change.whole or change.refers):
        return None
    _judge_all(change, rules)
    return change


def _touch(change: Change, name: str, session: Session) -> None:
    """Remembers what a session was before the batch."""
    if name not in change.sessions:
        change.sessions[name] = _new(Before, (session.row, session.seen, session.mask, session.ever))


def _fold(change: Change, event: Event, tolerance: int) -> None:
    """Any event into its session; an erasure into the booking's horizon."""
    state, key = change.state, fold.order_key(event, tolerance)
    if event.type == _ERASED:
        state.floor = max(state.floor, fold.effective_time(key))
        change.whole |= change.again or state.floor > change.was.floor
        return
    session = state.sessions.get(event.session_id)
    if session is None:
        session = state.sessions[event.session_id] = Session()
    after, scans = fold.fold(session.row, session.scans or {}, [(key, event)], state.floor)
    if scans or after != session.row or change.again:
        _touch(change, event.session_id, session)
    session.row = after
    if scans:
        _keep_scans(change, event.session_id, session, scans)


def _keep_scans(change: Change, name: str, session: Session, scans: Mapping[bytes, bytes | None]) -> None:
    known = session.scans
    if known is None:
        known = session.scans = {}
    for who, key in scans.items():
        if key is None:
            known.pop(who, None)
        else:
            known[who] = key
    if change.scans is None:
        change.scans = {}
    change.scans.setdefault(name, {}).update(scans)


def _refer(change: Change, references: Sequence[Reference]) -> None:
    state = change.state
    for at, said in references:
        if at > state.booking_offset:
            state.booking, state.booking_offset = (said if isinstance(said, Booking) else None), at
            state.digest = ""
    if state.booking_offset > change.was.booking_offset:
        dropped = listed_by(change.was.booking).keys() - listed_by(state.booking).keys()
        state.formerly = (state.formerly if change.again else frozenset()) | dropped
        change.refers = True
    change.whole |= change.again or state.booking != change.was.booking


def _settle_all(change: Change) -> None:
    """Every session is touched: a horizon takes from each what it makes void, a booking's record shows in each."""
    state = change.state
    for name, session in state.sessions.items():
        row, known = session.row, session.scans or {}
        _touch(change, name, session)
        if state.floor > change.was.floor:
            session.row = fold.normalised(row, state.floor)
            counting = fold.counting(session.row, known, state.floor)
            if len(counting) < len(known):
                _keep_scans(change, name, session, dict.fromkeys(known.keys() - counting.keys()))
    listed = listed_by(change.was.booking).keys() | listed_by(state.booking).keys() | state.formerly
    change.listed = listed - state.sessions.keys()


def _judge_all(change: Change, rules: Rules) -> None:
    """What the folded rows come to for readers: attendances, alerts, the summary."""
    if change.whole:
        _settle_all(change)
    counts = change.whole
    for name, before in change.sessions.items():
        counts |= _judge(change.state, name, before, rules)
    if counts:
        _summarise(change)


def _judge(state: BookingState, name: str, before: Before, rules: Rules) -> bool:
    """Sees and judges a session anew; whether the booking's summary counts it as something else now."""
    session = state.sessions[name]
    seen = see(session.row, len(session.scans) if session.scans else 0)
    session.seen = seen
    mask = 0
    if seen is not None:
        mask = detect(name, seen[0], seen[1], session.row, state.booking, rules)
        session.ever |= mask
    session.mask = mask
    was = before[1]
    return (was and was[0]) is not (seen and seen[0])


def _summarise(change: Change) -> None:
    state = change.state
    summary = None
    if not change.whole:
        summary = summary_after(
            state.summary,
            [
                (counted_as(name, before.seen, state.booking), counted_as(name, state.sessions[name].seen, state.booking))
                for name, before in change.sessions.items()
            ],
        )
    if summary is None:
        summary = summarise(state.pairs(), state.booking)
    state.summary = summary
    state.frequent = summary is not None and frequent_no_shows(summary.attended, summary.not_attended)
    state.ever_frequent = state.ever_frequent or state.frequent
