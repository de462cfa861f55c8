"""Rows as they rest in tables and changelogs: bytes that merge (design, "Rows merge").

===============  ==============================  =========================================================
table            key after the booking and NUL   value
===============  ==============================  =========================================================
``attendance``   (nothing)                       horizon of the booking, whether it ever was a frequent no-show
``attendance``   session                         the session's row
``attendance``   session, NUL, participant hash  order key of the participant's newest scan
``attendance``   (of no booking) SOH, partition  the partition's generation and the settings that shape its rows
``attendance``   (of no booking) SOH, applied    offsets of events and bookings up to which rows may have been changed
``bookings``     (nothing)                       the last booking record, its offset, what it no longer lists
===============  ==============================  =========================================================

Every value begins with a format byte. Ids hold no control character, so NUL separates; a participant hash is 16 bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from struct import Struct

from schemas.attendance import AttendanceStatus
from schemas.events import Booking, Window
from schemas.packing import pack_known_text, unpack_text
from worker.domain import fold
from worker.domain.fold import Base, Mark, Row
from worker.domain.mismatch import Rules, detect, frequent_no_shows
from worker.domain.state import BookingState, Change, Session
from worker.domain.views import see, summarise

FORMAT = 1
SEPARATOR = b"\0"
#: Where a partition keeps its own row: of no booking, under a suffix that no session can have.
PARTITION_GROUP, PARTITION_SUFFIX = b"", b"\x01partition"
APPLIED_SUFFIX = b"\x01applied"

_APPLIED = Struct(">Bqq")
_BOOKING = Struct(">BBq")
_SESSION = Struct(">BBqBI3s")
_REFERENCE = Struct(">BqBIqHH")
_LISTED = Struct(">Hqq")
_KNOWN, _WALK_INS, _CANCELED, _LISTS = 1, 2, 4, 8
_UNKNOWN_TIME = fold.NEVER
_FORMAT_BYTE = bytes((FORMAT,))
_STATUSES = tuple(AttendanceStatus)
_CODE_OF = {str(status): code for code, status in enumerate(_STATUSES)}
_MARK_KEY = 32
_ABSENT, _SPELT_OUT = 0, 15
#: Where each of base, newest, attended, missed, settled is: spelt out, or in the place (from 1) of an earlier one.
_CAME, _CAME_BUT = b"\x0f\x11\x00", b"\x0f\x11\xf0"
_MISSED, _MISSED_BUT = b"\x0f\x10\x10", b"\x0f\x1f\x10"


class NewerFormat(Exception):
    """A row was written by a newer version of this software; no retry helps, the operator upgrades the worker."""

    def __init__(self, found: int) -> None:
        super().__init__(f"a table row has format {found}, this worker knows {FORMAT}: run the newer version")


def changed_rows(change: Change) -> tuple[dict[bytes, bytes | None], bytes | None]:
    """What a batch changed: rows of the table ``attendance`` by suffix (None: delete), and the row of ``bookings``."""
    state = change.state
    rows: dict[bytes, bytes | None] = {}
    if state.floor != change.was.floor or state.ever_frequent != change.was.ever_frequent:
        rows[b""] = _BOOKING.pack(FORMAT, state.ever_frequent, state.floor)
    for name, before in change.sessions.items():
        session = state.sessions[name]
        if session.row != before[0] or session.ever != before[3]:
            rows[name.encode()] = encode_session(session.row, session.ever)
    if change.scans is not None:
        for name, scans in change.scans.items():
            suffix = name.encode() + SEPARATOR
            for who, key in scans.items():
                rows[suffix + who] = None if key is None else _FORMAT_BYTE + key
    if not change.refers:
        return rows, None
    return rows, encode_reference(state.booking, state.booking_offset, state.formerly)


def encode_applied(events: int, bookings: int) -> bytes:
    """The row that says up to which offsets the rows of a partition may have been changed."""
    return _APPLIED.pack(FORMAT, events, bookings)


def decode_applied(value: bytes | None) -> tuple[int, int]:
    """(offset of events, of bookings) in it; where there is none, nothing was changed."""
    if value is None:
        return 0, 0
    form, events, bookings = _APPLIED.unpack(value)
    _check(form)
    return events, bookings


def encode_session(row: Row, ever: int) -> bytes:
    """A session's row; marks that are the same event are written once."""
    horizon, base, newest, attended, missed, settled = row
    if base is None or newest is not base[0] or settled is not None:
        return _encode_any(row, ever)
    # nearly every row: the newest report is the base, and there may be an older one that says the opposite
    if attended is newest:
        codes, other = (_CAME, None) if missed is None else (_CAME_BUT, missed)
    elif missed is newest:
        codes, other = (_MISSED, None) if attended is None else (_MISSED_BUT, attended)
    else:
        return _encode_any(row, ever)
    head = _SESSION.pack(FORMAT, ever, horizon, _CODE_OF[base[1]], base[2], codes)
    if other is None:
        return b"".join((head, newest[0], pack_known_text(newest[1])))
    return b"".join((head, newest[0], pack_known_text(newest[1]), other[0], pack_known_text(other[1])))


def _encode_any(row: Row, ever: int) -> bytes:
    horizon, base, *rest = row
    codes, marks, body = 0, list[Mark | None](), list[bytes]()
    for mark in (base.mark if base else None, *rest):
        code = _ABSENT if mark is None else marks.index(mark) + 1 if mark in marks else _SPELT_OUT
        codes = codes << 4 | code
        marks.append(mark)
        if mark is not None and code == _SPELT_OUT:
            body += (mark.key, pack_known_text(mark.source))
    status, number = (_CODE_OF[base.status], base.number) if base else (0, 0)
    head = _SESSION.pack(FORMAT, ever, horizon, status, number, codes.to_bytes(3, "big"))
    return b"".join((head, *body))


def decode_session(value: bytes) -> tuple[Row, int]:
    """(row, mask of alerts ever open) of a session's row."""
    form, ever, horizon, status, number, codes = _SESSION.unpack_from(value)
    _check(form)
    at, packed = _SESSION.size, int.from_bytes(codes, "big")
    marks: list[Mark | None] = []
    for shift in (16, 12, 8, 4, 0):
        code = packed >> shift & 15
        if code == _SPELT_OUT:
            key = value[at : at + _MARK_KEY]
            source, at = unpack_text(value, at + _MARK_KEY)
            marks.append(Mark(key, _shared(source)))
        else:
            marks.append(None if code == _ABSENT else marks[code - 1])
    base = Base(marks[0], _STATUSES[status], number) if marks[0] else None
    return Row(horizon, base, *marks[1:]), ever


def encode_reference(booking: Booking | None, offset: int, formerly: Iterable[str] = ()) -> bytes:
    """A row of ``bookings``; None: the record at this offset left the booking unknown."""
    dropped = sorted(formerly)
    tail = [pack_known_text(name) for name in dropped]
    if booking is None:
        return b"".join((_REFERENCE.pack(FORMAT, offset, 0, 0, 0, 0, len(dropped)), *tail))
    _, participants, walk_ins, canceled, sessions, time = booking
    flags = _KNOWN | walk_ins * _WALK_INS | canceled * _CANCELED | (sessions is not None) * _LISTS
    head = _REFERENCE.pack(FORMAT, offset, flags, participants, time, len(sessions or ()), len(dropped))
    return b"".join((head, *tail, *(_encode_listed(name, window) for name, window in (sessions or {}).items())))


def decode_reference(booking_id: str, value: bytes) -> tuple[Booking | None, int, frozenset[str]]:
    """(booking, offset, sessions listed formerly) of a row of ``bookings``."""
    form, offset, flags, participants, time, count, dropped = _REFERENCE.unpack_from(value)
    _check(form)
    at, formerly = _REFERENCE.size, []
    for _ in range(dropped):
        name, at = unpack_text(value, at)
        formerly.append(name.decode())
    if not flags & _KNOWN:
        return None, offset, frozenset(formerly)
    sessions = _decode_listed(value[at:], count) if flags & _LISTS else None
    booking = Booking(booking_id, participants, bool(flags & _WALK_INS), bool(flags & _CANCELED), sessions, time)
    return booking, offset, frozenset(formerly)


def merge_attendance_rows(suffix: bytes, one: bytes, other: bytes) -> bytes:
    """The row of the union of what two rows of the same key hold."""
    if suffix == PARTITION_SUFFIX:
        # two workers can only have begun a partition at the same moment; one choice, whoever reads
        return min(one, other)
    if suffix == APPLIED_SUFFIX:
        return encode_applied(*map(max, decode_applied(one), decode_applied(other)))
    if not suffix:
        _, frequent, floor = _booking_row(one)
        _, other_frequent, other_floor = _booking_row(other)
        return _BOOKING.pack(FORMAT, frequent | other_frequent, max(floor, other_floor))
    if SEPARATOR in suffix:
        _check(max(one[0], other[0]))
        return max(one, other)
    row, ever = decode_session(one)
    other_row, other_ever = decode_session(other)
    return encode_session(fold.merge(row, other_row), ever | other_ever)


def merge_booking_rows(_suffix: bytes, one: bytes, other: bytes) -> bytes:
    """Of two rows of ``bookings`` the one with the later offset."""
    _check(max(one[0], other[0]))
    return max(one, other, key=lambda value: _REFERENCE.unpack_from(value)[1])


def load(booking_id: str, rows: Mapping[bytes, bytes], reference: bytes | None, rules: Rules) -> BookingState:
    """A booking from its rows, judged and projected as when they were written."""
    state = BookingState(booking_id)
    if reference is not None:
        state.booking, state.booking_offset, state.formerly = decode_reference(booking_id, reference)
    if b"" in rows:
        _, ever, state.floor = _booking_row(rows[b""])
        state.ever_frequent = bool(ever)
    scans: dict[bytes, dict[bytes, bytes]] = {}
    for suffix, value in rows.items():
        name, separator, who = suffix.partition(SEPARATOR)
        if separator:
            _check(value[0])
            scans.setdefault(name, {})[who] = value[1:]
        elif suffix:
            state.sessions[_shared(suffix)] = _session(value, state.floor)
    for encoded, known in scans.items():
        session = state.sessions.setdefault(_shared(encoded), Session())
        session.scans = fold.counting(session.row, known, state.floor)
    for session_id, session in state.sessions.items():
        session.seen = seen = see(session.row, len(session.scans) if session.scans else 0)
        if seen is not None:
            session.mask = detect(session_id, seen.status, seen.number, session.row, state.booking, rules)
    state.summary = summary = summarise(state.pairs(), state.booking)
    state.frequent = summary is not None and frequent_no_shows(summary.attended, summary.not_attended)
    return state


def stored(state: BookingState) -> Iterator[tuple[bytes, bytes]]:
    """Every row of ``attendance`` that a state stands for, by suffix."""
    yield b"", _BOOKING.pack(FORMAT, state.ever_frequent, state.floor)
    for name, session in state.sessions.items():
        yield name.encode(), encode_session(session.row, session.ever)
        for who, key in (session.scans or {}).items():
            yield name.encode() + SEPARATOR + who, _FORMAT_BYTE + key


def _session(value: bytes, floor: int) -> Session:
    row, ever = decode_session(value)
    return Session(row if floor == fold.NEVER else fold.normalised(row, floor), None, ever)


def _booking_row(value: bytes) -> tuple[int, int, int]:
    form, frequent, floor = _BOOKING.unpack(value)
    _check(form)
    return form, frequent, floor


@lru_cache(maxsize=20_000)
def _shared(encoded: bytes) -> str:
    """The text; the same object where it is asked again, since many bookings share sessions and devices."""
    return encoded.decode()


def _encode_listed(name: str, window: Window) -> bytes:
    times = (_UNKNOWN_TIME if moment is None else moment for moment in window)
    encoded = name.encode()
    return _LISTED.pack(len(encoded), *times) + encoded


@lru_cache(maxsize=5_000)
def _decode_listed(listed: bytes, count: int) -> dict[str, Window]:
    """Never changed by anyone, so that bookings that list the same sessions share it."""
    sessions, at = {}, 0
    for _ in range(count):
        length, *times = _LISTED.unpack_from(listed, at)
        at += _LISTED.size
        window = Window(*(None if moment == _UNKNOWN_TIME else moment for moment in times))
        sessions[_shared(listed[at : at + length])] = window
        at += length
    return sessions


def _check(form: int) -> None:
    if form > FORMAT:
        raise NewerFormat(form)
