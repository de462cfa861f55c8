"""A booking as a worker holds it, and what one batch of records does to it: fold, judge, project.

``apply`` changes nothing: it returns a draft, which is installed once its rows are in the changelog, so that memory is
never ahead of what would survive a crash.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.events import Booking, BookingGone, Event, EventType, Window
from worker.domain.alerts import Judged
from worker.domain.fold import EMPTY, NEVER, Row, effective_time, fold, order_key
from worker.domain.mismatch import Rules, detect, frequent_no_shows
from worker.domain.views import Pair, Summary, pair, see, summarise

_ERASED = EventType.BOOKING_ERASED.value

Reference = tuple[int, Booking | BookingGone]
"""A bookings record: its offset and what it says."""


@dataclass(slots=True)
class Session:
    """One (booking, session): what rests in the table, and what readers were last shown of it."""

    row: Row = EMPTY
    scans: dict[bytes, bytes] = field(default_factory=dict)
    ever: int = 0
    """Mask of the alerts that were ever open."""
    offset: int = -1
    """Offset in the events topic of the last record that touched it."""
    mask: int = 0
    """Mask of the alerts open now."""
    pair: Pair | None = None


@dataclass(slots=True)
class BookingState:
    """One booking: its reference data, its horizon, its sessions. Times are microseconds."""

    booking_id: str
    floor: int = NEVER
    """Horizon of the whole booking: latest effective time of a ``booking.erased``."""
    offset: int = -1
    """Offset in the events topic of the last ``booking.erased``."""
    ever_frequent: bool = False
    booking: Booking | None = None
    booking_offset: int = -1
    formerly: frozenset[str] = frozenset()
    """Sessions that the booking listed before its last record, of which readers may not have been told yet."""
    sessions: dict[str, Session] = field(default_factory=dict)
    summary: Summary | None = None
    frequent: bool = False

    def pairs(self) -> Iterator[tuple[str, Pair]]:
        """Every pair that readers see, those without an attendance included."""
        for session_id, session in self.sessions.items():
            if session.pair is not None:
                yield session_id, session.pair
        for session_id in listed_by(self.booking):
            if session_id not in self.sessions:
                listed = pair(session_id, None, self.booking)
                if listed is not None:
                    yield session_id, listed


@dataclass(slots=True)
class SessionDraft:
    """What a batch makes of one session; ``again`` where a redelivered record touches it."""

    row: Row
    scans: dict[bytes, bytes | None]
    ever: int
    offset: int
    mask: int
    pair: Pair | None
    before: Session
    again: bool

    @property
    def is_stored_anew(self) -> bool:
        # with changed scans too, though they have rows of their own: the offset tells that record when it comes again
        return self.row != self.before.row or self.ever != self.before.ever or bool(self.scans)

    def judged(self, draft: "Draft", session_id: str) -> Judged:
        seen = self.pair.attendance if self.pair else None
        return Judged(draft.state.booking_id, session_id, self.row, seen, draft.booking, draft.floor)


@dataclass(slots=True)
class Draft:
    """What a batch makes of one booking. ``again`` where a redelivered record touches the booking as a whole."""

    state: BookingState
    floor: int
    offset: int
    booking: Booking | None
    booking_offset: int
    formerly: frozenset[str]
    sessions: dict[str, SessionDraft]
    listed: dict[str, tuple[Pair | None, Pair | None]]
    """Sessions that are only listed: their pair before and after, where the listing changed or is said again."""
    summary: Summary | None
    frequent: bool
    again: bool

    @property
    def ever_frequent(self) -> bool:
        return self.state.ever_frequent or self.frequent

    def judged(self) -> Judged:
        """The booking as a whole, as FREQUENT_NO_SHOWS is judged by."""
        seen = sorted((sid, p.attendance) for sid, p in self.pairs() if p.attendance is not None)
        newest = max((attendance.updated for _, attendance in seen), default=NEVER)
        statuses = tuple((sid, attendance.status) for sid, attendance in seen)
        return Judged(self.state.booking_id, None, EMPTY, None, self.booking, self.floor, statuses, newest)

    def pairs(self) -> Iterator[tuple[str, Pair]]:
        """Every pair as it is after the batch."""
        for session_id, session in self.state.sessions.items():
            draft = self.sessions.get(session_id)
            after = session.pair if draft is None else draft.pair
            if after is not None:
                yield session_id, after
        for session_id, draft in self.sessions.items():
            if session_id not in self.state.sessions and draft.pair is not None:
                yield session_id, draft.pair
        for session_id in listed_by(self.booking):
            if session_id not in self.state.sessions and session_id not in self.sessions:
                listed = pair(session_id, None, self.booking)
                if listed is not None:
                    yield session_id, listed

    def install(self) -> None:
        """Makes the draft the state. Only for a draft whose rows are stored."""
        state = self.state
        state.floor, state.offset = self.floor, self.offset
        state.booking, state.booking_offset, state.formerly = self.booking, self.booking_offset, self.formerly
        state.ever_frequent, state.frequent, state.summary = self.ever_frequent, self.frequent, self.summary
        for session_id, draft in self.sessions.items():
            session = draft.before
            session.row, session.ever, session.offset = draft.row, draft.ever, draft.offset
            session.mask, session.pair = draft.mask, draft.pair
            for who, key in draft.scans.items():
                if key is None:
                    session.scans.pop(who, None)
                else:
                    session.scans[who] = key
            state.sessions[session_id] = session


def listed_by(booking: Booking | None) -> Mapping[str, Window]:
    """The sessions that a booking lists."""
    return (booking.sessions if booking else None) or {}


def apply(state: BookingState, events: Sequence[tuple[int, Event]], references: Sequence[Reference], rules: Rules) -> Draft:
    """What these records, each with its offset and in the order of their offsets, make of a booking."""
    floor, offset, again = state.floor, state.offset, False
    by_session: dict[str, list[tuple[bytes, Event]]] = {}
    offsets: dict[str, tuple[int, int]] = {}
    for at, event in events:
        key = order_key(event, rules.clock_tolerance)
        if event.type == _ERASED:
            again = again or at <= state.offset
            floor, offset = max(floor, effective_time(key)), max(offset, at)
            continue
        name = event.session_id
        if name in by_session:
            by_session[name].append((key, event))
            offsets[name] = (offsets[name][0], at)
        else:
            by_session[name] = [(key, event)]
            offsets[name] = (at, at)
    booking, booking_offset = state.booking, state.booking_offset
    for at, said in references:
        again = again or at <= state.booking_offset
        if at > booking_offset:
            booking, booking_offset = (said if isinstance(said, Booking) else None), at
    formerly = state.formerly
    if booking_offset > state.booking_offset:
        formerly = (formerly if again else frozenset()) | listed_by(state.booking).keys() - listed_by(booking).keys()
    ends = (floor, offset, booking, booking_offset, formerly)
    draft = Draft(state, *ends, {}, {}, state.summary, state.frequent, again)
    whole = again or booking != state.booking or floor > state.floor
    names: Iterable[str] = {**dict.fromkeys(state.sessions), **by_session} if whole else by_session
    for name in names:
        _draft_session(draft, name, by_session.get(name, ()), offsets.get(name), rules, whole)
    _project(draft, whole)
    return draft


def _draft_session(
    draft: Draft,
    name: str,
    events: Sequence[tuple[bytes, Event]],
    offsets: tuple[int, int] | None,
    rules: Rules,
    whole: bool,
) -> None:
    session = draft.state.sessions.get(name) or Session()
    row, scans = fold(session.row, session.scans, events, draft.floor)
    first, last = offsets or (session.offset + 1, session.offset)
    again = draft.again or first <= session.offset
    if not whole and not again and not scans and row == session.row:
        return
    participants = len(session.scans)
    for who, key in scans.items():
        participants += (key is not None) - (who in session.scans)
    seen = see(row, participants)
    mask = 0 if seen is None else detect(name, seen.status, seen.number, row, draft.booking, rules)
    draft.sessions[name] = SessionDraft(
        row,
        scans,
        session.ever | mask,
        max(session.offset, last),
        mask,
        pair(name, seen, draft.booking),
        session,
        again,
    )


def _project(draft: Draft, whole: bool) -> None:
    """The parts that concern the booking as a whole: listed sessions, summary, FREQUENT_NO_SHOWS."""
    state = draft.state
    if whole:
        for name in listed_by(state.booking).keys() | listed_by(draft.booking).keys() | state.formerly:
            if name not in draft.sessions:
                then, now = pair(name, None, state.booking), pair(name, None, draft.booking)
                if then != now or draft.again:
                    draft.listed[name] = (then, now)
    elif all(_status(each.pair) == _status(each.before.pair) for each in draft.sessions.values()):
        return
    summary = draft.summary = summarise(draft.pairs(), draft.booking)
    draft.frequent = summary is not None and frequent_no_shows(summary.attended, summary.not_attended)


def _status(each: Pair | None) -> object:
    """What the summary counts a pair as; None where there is no pair."""
    return None if each is None else (each.attendance.status if each.attendance else "listed")
