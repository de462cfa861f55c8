"""Rows as they rest in tables and changelogs: bytes that merge (design, "Rows merge").

===============  ==============================  =========================================================
table            key after the booking and NUL   value
===============  ==============================  =========================================================
``attendance``   (nothing)                       horizon of the booking, whether it ever was a frequent no-show
``attendance``   session                         the session's row
``attendance``   session, NUL, participant hash  order key of the participant's newest scan
``attendance``   (of no booking) SOH, partition  the partition's generation and the settings that shape its rows
``bookings``     (nothing)                       the last booking record, its offset, what it no longer lists
===============  ==============================  =========================================================

Every value begins with a format byte. Ids hold no control character, so NUL separates; a participant hash is 16 bytes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct

from schemas.attendance import AttendanceStatus
from schemas.events import Booking, Window
from worker.domain import fold
from worker.domain.fold import Base, Mark, Row
from worker.domain.mismatch import Rules, detect, frequent_no_shows
from worker.domain.state import BookingState, Draft, Session
from worker.domain.views import pair, see, summarise

FORMAT = 1
SEPARATOR = b"\0"
#: Where a partition keeps its own row: of no booking, under a suffix that no session can have.
PARTITION_GROUP, PARTITION_SUFFIX = b"", b"\x01partition"

_BOOKING = Struct(">BBqq")
_SESSION = Struct(">BBqqBI3s")
_REFERENCE = Struct(">Bq")
_LENGTH = Struct(">H")
_STATUSES = tuple(AttendanceStatus)
_MARK_KEY = 32
_ABSENT, _SPELT_OUT = 0, 15


class NewerFormat(Exception):
    """A row was written by a newer version of this software; no retry helps, the operator upgrades the worker."""

    def __init__(self, found: int) -> None:
        super().__init__(f"a table row has format {found}, this worker knows {FORMAT}: run the newer version")


def changed_rows(draft: Draft) -> tuple[dict[bytes, bytes | None], bytes | None]:
    """What a draft changes: rows of the table ``attendance`` by suffix (None: delete), and the row of ``bookings``."""
    state = draft.state
    rows: dict[bytes, bytes | None] = {}
    if draft.floor != state.floor or draft.ever_frequent != state.ever_frequent:
        rows[b""] = _BOOKING.pack(FORMAT, draft.ever_frequent, draft.offset, draft.floor)
    for name, session in draft.sessions.items():
        suffix = name.encode()
        if session.is_stored_anew:
            rows[suffix] = encode_session(session.row, session.ever, session.offset)
        for who, key in session.scans.items():
            rows[suffix + SEPARATOR + who] = None if key is None else bytes((FORMAT,)) + key
    if draft.booking_offset == state.booking_offset:
        return rows, None
    return rows, encode_reference(draft.booking, draft.booking_offset, draft.formerly)


def encode_session(row: Row, ever: int, offset: int) -> bytes:
    """A session's row; marks that are the same event are written once."""
    marks = (row.base.mark if row.base else None, row.newest, row.attended, row.missed, row.settled)
    places: dict[Mark, int] = {}
    codes = 0
    body: list[bytes] = []
    for index, mark in enumerate(marks):
        code = _ABSENT if mark is None else places.get(mark, _SPELT_OUT)
        if mark is not None and code == _SPELT_OUT:
            places[mark] = index + 1
            source = mark.source.encode()
            body += (mark.key, _LENGTH.pack(len(source)), source)
        codes = codes << 4 | code
    status = _STATUSES.index(row.base.status) if row.base else 0
    number = row.base.number if row.base else 0
    head = _SESSION.pack(FORMAT, ever, offset, row.horizon, status, number, codes.to_bytes(3, "big"))
    return head + b"".join(body)


def decode_session(value: bytes) -> tuple[Row, int, int]:
    """(row, mask of alerts ever open, offset) of a session's row."""
    form, ever, offset, horizon, status, number, codes = _SESSION.unpack_from(value)
    _check(form)
    at, packed = _SESSION.size, int.from_bytes(codes, "big")
    marks: list[Mark | None] = []
    for shift in (16, 12, 8, 4, 0):
        code = packed >> shift & 15
        if code == _SPELT_OUT:
            start = at + _MARK_KEY + _LENGTH.size
            end = start + _LENGTH.unpack_from(value, at + _MARK_KEY)[0]
            marks.append(Mark(value[at : at + _MARK_KEY], value[start:end].decode()))
            at = end
        else:
            marks.append(None if code == _ABSENT else marks[code - 1])
    base = Base(marks[0], _STATUSES[status], number) if marks[0] else None
    return Row(horizon, base, *marks[1:]), ever, offset


def encode_reference(booking: Booking | None, offset: int, formerly: Iterable[str] = ()) -> bytes:
    """A row of ``bookings``; None: the record at this offset left the booking unknown."""
    return _REFERENCE.pack(FORMAT, offset) + json.dumps([booking, sorted(formerly)], ensure_ascii=False).encode()


def decode_reference(value: bytes) -> tuple[Booking | None, int, frozenset[str]]:
    """(booking, offset, sessions listed formerly) of a row of ``bookings``."""
    form, offset = _REFERENCE.unpack_from(value)
    _check(form)
    known, formerly = json.loads(value[_REFERENCE.size :])
    if known is None:
        return None, offset, frozenset(formerly)
    booking_id, participants, walk_ins, canceled, listed, time = known
    sessions = None if listed is None else {name: Window(*window) for name, window in listed.items()}
    return Booking(booking_id, participants, walk_ins, canceled, sessions, time), offset, frozenset(formerly)


def merge_attendance_rows(suffix: bytes, one: bytes, other: bytes) -> bytes:
    """The row of the union of what two rows of the same key hold."""
    if suffix == PARTITION_SUFFIX:
        # two workers can only have begun a partition at the same moment; one choice, whoever reads
        return min(one, other)
    if not suffix:
        _, frequent, offset, floor = _booking_row(one)
        _, other_frequent, other_offset, other_floor = _booking_row(other)
        return _BOOKING.pack(FORMAT, frequent | other_frequent, max(offset, other_offset), max(floor, other_floor))
    if SEPARATOR in suffix:
        _check(max(one[0], other[0]))
        return max(one, other)
    row, ever, offset = decode_session(one)
    other_row, other_ever, other_offset = decode_session(other)
    return encode_session(fold.merge(row, other_row), ever | other_ever, max(offset, other_offset))


def merge_booking_rows(_suffix: bytes, one: bytes, other: bytes) -> bytes:
    """Of two rows of ``bookings`` the one with the later offset."""
    _check(max(one[0], other[0]))
    return max(one, other, key=lambda value: _REFERENCE.unpack_from(value)[1])


def load(booking_id: str, rows: Mapping[bytes, bytes], reference: bytes | None, rules: Rules) -> BookingState:
    """A booking from its rows, judged and projected as when they were written."""
    state = BookingState(booking_id)
    if reference is not None:
        state.booking, state.booking_offset, state.formerly = decode_reference(reference)
    if b"" in rows:
        _, ever, state.offset, state.floor = _booking_row(rows[b""])
        state.ever_frequent = bool(ever)
    scans: dict[bytes, dict[bytes, bytes]] = {}
    for suffix, value in rows.items():
        name, separator, who = suffix.partition(SEPARATOR)
        if separator:
            _check(value[0])
            scans.setdefault(name, {})[who] = value[1:]
    for name in {*scans, *(suffix for suffix in rows if suffix and SEPARATOR not in suffix)}:
        row, ever, offset = decode_session(rows[name]) if name in rows else (fold.EMPTY, 0, -1)
        session = Session(fold.normalised(row, state.floor), {}, ever, offset)
        session.scans = fold.counting(session.row, scans.get(name, {}), state.floor)
        _judge(session, name.decode(), state, rules)
        state.sessions[name.decode()] = session
    state.summary = summarise(state.pairs(), state.booking)
    summary = state.summary
    state.frequent = summary is not None and frequent_no_shows(summary.attended, summary.not_attended)
    return state


def stored(state: BookingState) -> Iterator[tuple[bytes, bytes]]:
    """Every row of ``attendance`` that a state stands for, by suffix."""
    yield b"", _BOOKING.pack(FORMAT, state.ever_frequent, state.offset, state.floor)
    for name, session in state.sessions.items():
        yield name.encode(), encode_session(session.row, session.ever, session.offset)
        for who, key in session.scans.items():
            yield name.encode() + SEPARATOR + who, bytes((FORMAT,)) + key


def _judge(session: Session, name: str, state: BookingState, rules: Rules) -> None:
    seen = see(session.row, len(session.scans))
    session.pair = pair(name, seen, state.booking)
    if seen is not None:
        session.mask = detect(name, seen.status, seen.number, session.row, state.booking, rules)


def _booking_row(value: bytes) -> tuple[int, int, int, int]:
    form, frequent, offset, floor = _BOOKING.unpack(value)
    _check(form)
    return form, frequent, offset, floor


def _check(form: int) -> None:
    if form > FORMAT:
        raise NewerFormat(form)
