"""Rows as they rest in tables and changelogs: bytes that merge (design, "Rows merge").

===============  ==============================  =========================================================
table            key after the booking and NUL   value
===============  ==============================  =========================================================
``attendance``   (nothing)                       horizon of the booking, whether it ever was a frequent no-show
``attendance``   session                         the session's row
``attendance``   session, NUL, participant hash  order key of the participant's newest scan
``attendance``   (of no booking) SOH, partition  the partition's generation and the settings that shape its rows
``attendance``   (of no booking) SOH, applied    offsets of events and bookings up to which rows may have been changed, and
                                                their newest effective time and time of reception
``bookings``     (nothing)                       the record that holds, decoded and as it came; what it no longer lists
===============  ==============================  =========================================================

Every value begins with a format byte. Ids hold no control character, so NUL separates; a participant hash is 16 bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple
from zlib import compress, decompress

from schemas.events import Booking, Window, in_order
from schemas.packing import pack_known_text, unpack_text
from worker.domain import fold, row_codec
from worker.domain.alert_rules import Rules, detect, frequent_no_shows
from worker.domain.booking_state import BookingRecord, BookingState, Change, Place
from worker.domain.row_codec import FORMAT, check
from worker.domain.summaries import summarise

SEPARATOR = b"\0"
#: Where a partition keeps its own row: of no booking, under a suffix that no session can have.
PARTITION_GROUP, PARTITION_SUFFIX = b"", b"\x01partition"
APPLIED_SUFFIX = b"\x01applied"

_APPLIED = Struct(">Bqqqq")
_BOOKING = Struct(">BBq")
_REFERENCE = Struct(">BqqqBIqHHI")
_LISTED = Struct(">Hqq")
_KNOWN, _WALK_INS, _CANCELED, _LISTS = 1, 2, 4, 8
_UNKNOWN_TIME = fold.NEVER
#: Level of zlib: a booking of four sessions comes to 40 % in 9 us, and higher ones gain little.
_FAST = 1
_FORMAT_BYTE = bytes((FORMAT,))
_new = tuple.__new__  # what a named tuple's constructor does, without binding its arguments


def changed_rows(change: Change) -> tuple[dict[bytes, bytes | None], bytes | None]:
    """What a batch changed: rows of the table ``attendance`` by suffix (None: delete), and the row of ``bookings``."""
    state = change.state
    rows: dict[bytes, bytes | None] = {}
    if state.floor != change.was.floor or state.ever_frequent != change.was.ever_frequent:
        rows[b""] = _BOOKING.pack(FORMAT, state.ever_frequent, state.floor)
    for name, row_was, row, *_ in change.sessions:
        if row != row_was:
            rows[name.encode()] = row
    if change.scans is not None:
        for name, scans in change.scans.items():
            suffix = name.encode() + SEPARATOR
            for who, key in scans.items():
                rows[suffix + who] = None if key is None else _FORMAT_BYTE + key
    if change.record is None:
        return rows, None
    return rows, encode_reference(change.record, state.formerly)


class Applied(NamedTuple):
    """What a partition has applied: offsets up to which its rows may have been changed, and times in microseconds."""

    events: int = 0
    bookings: int = 0
    events_time: int = fold.NEVER
    """Newest effective time of an event."""
    bookings_time: int = fold.NEVER
    """When the newest booking record was received."""

    @property
    def ends(self) -> tuple[int, int]:
        return self[:2]

    @property
    def times(self) -> tuple[int, int]:
        return self[2:]

    def merged(self, other: "Applied") -> "Applied":
        """What both have applied together."""
        return Applied(*map(max, self, other))


def encode_applied(applied: Applied) -> bytes:
    """The row that keeps it."""
    return _APPLIED.pack(FORMAT, *applied)


def decode_applied(value: bytes | None) -> Applied:
    """What is in that row; where there is none, nothing was applied."""
    if value is None:
        return Applied()
    check(value[0])
    return Applied(*_APPLIED.unpack(value)[1:])


class BookingRow(NamedTuple):
    """A row of ``bookings``: the record that holds, and what earlier ones listed (see `BookingState.formerly`)."""

    record: BookingRecord
    formerly: frozenset[str]


def encode_reference(record: BookingRecord, formerly: Iterable[str] = ()) -> bytes:
    """A row of ``bookings``. What is read most comes first, and the original, which hardly ever is, last."""
    place, booking, original = record
    dropped = sorted(formerly)
    flags = participants = time = 0
    sessions: Mapping[str, Window] | None = None
    if booking is not None:
        _, participants, walk_ins, canceled, sessions, time = booking
        flags = _KNOWN | walk_ins * _WALK_INS | canceled * _CANCELED | (sessions is not None) * _LISTS
    listed = b"".join(_encode_listed(name, window) for name, window in (sessions or {}).items())
    counts = (len(sessions or ()), len(dropped), len(listed))
    head = _REFERENCE.pack(FORMAT, *place, flags, participants, time, *counts)
    return b"".join((head, *map(pack_known_text, dropped), listed, compress(original, _FAST)))


def decode_reference(booking_id: str, value: bytes) -> BookingRow:
    """A row of ``bookings``; its record without the original, which `original_of` has."""
    check(value[0])
    _, received, offset, read_at, flags, participants, time, count, dropped, size = _REFERENCE.unpack_from(value)
    at, formerly = _REFERENCE.size, []
    for _ in range(dropped):
        name, at = unpack_text(value, at)
        formerly.append(name.decode())
    booking = None
    if flags & _KNOWN:
        sessions = _decode_listed(value[at : at + size], count) if flags & _LISTS else None
        fields = (booking_id, participants, bool(flags & _WALK_INS), bool(flags & _CANCELED), sessions, time)
        booking = _new(Booking, fields)
    return BookingRow(BookingRecord(_new(Place, (received, offset, read_at)), booking, b""), frozenset(formerly))


def place_of(value: bytes) -> Place:
    """Of the record in a row of ``bookings``."""
    check(value[0])
    _, received, offset, read_at, *_ = _REFERENCE.unpack_from(value)
    return Place(received, offset, read_at)


def original_of(value: bytes) -> bytes:
    """The packed original of the record in a row of ``bookings``."""
    *_, dropped, size = _REFERENCE.unpack_from(value)
    at = _REFERENCE.size
    for _ in range(dropped):
        _, at = unpack_text(value, at)
    return decompress(value[at + size :])


def merge_attendance_rows(suffix: bytes, one: bytes, other: bytes) -> bytes:
    """The row of the union of what two rows of the same key hold."""
    if suffix == PARTITION_SUFFIX:
        # two workers can only have begun a partition at the same moment; one choice, whoever reads
        return min(one, other)
    if suffix == APPLIED_SUFFIX:
        return encode_applied(decode_applied(one).merged(decode_applied(other)))
    if not suffix:
        _, frequent, floor = _booking_row(one)
        _, other_frequent, other_floor = _booking_row(other)
        return _BOOKING.pack(FORMAT, frequent | other_frequent, max(floor, other_floor))
    if SEPARATOR in suffix:
        check(max(one[0], other[0]))
        return max(one, other)
    (row, ever), (other_row, other_ever) = map(row_codec.decode, (one, other))
    return row_codec.encode(fold.merge(row, other_row), ever | other_ever)


def merge_booking_rows(_suffix: bytes, one: bytes, other: bytes) -> bytes:
    """Of two rows of ``bookings`` the one whose record holds; of two workers' rows of one record, any, but always the same."""
    return max(one, other, key=lambda value: (place_of(value), value))


def load(booking_id: str, rows: Mapping[bytes, bytes], reference: bytes | None, rules: Rules) -> BookingState:
    """A booking from its rows, judged and projected as when they were written."""
    state = BookingState(booking_id)
    if reference is not None:
        (state.place, state.booking, _), state.formerly = decode_reference(booking_id, reference)
    said = _take(rows, state, rules) if rows else {}
    state.summary = summary = summarise(said, state.booking)
    state.frequent = summary is not None and frequent_no_shows(summary.attended, summary.not_attended)
    return state


def _take(rows: Mapping[bytes, bytes], state: BookingState, rules: Rules) -> dict[str, bytes]:
    """Puts the rows of ``attendance`` into a booking, and judges them; what each attendance says, by session."""
    if b"" in rows:
        _, ever, state.floor = _booking_row(rows[b""])
        state.ever_frequent = bool(ever)
    for suffix, value in rows.items():
        check(value[0])
        if SEPARATOR in suffix:
            name, _, who = suffix.partition(SEPARATOR)
            state.scans.setdefault(_shared(name), {})[who] = value[1:]
        elif suffix:
            state.rows[_shared(suffix)] = value
    if state.floor != fold.NEVER:
        for session_id, value in state.rows.items():
            row, ever = row_codec.decode(value)
            state.rows[session_id] = row_codec.encode(fold.normalised(row, state.floor), ever)
    for session_id, known in state.scans.items():
        row, _ = row_codec.decode(state.rows.get(session_id, row_codec.EMPTY))
        state.scans[session_id] = fold.counting(row, known, state.floor)
    said = {}
    for session_id, value in state.rows.items():
        if says := row_codec.says(value, state.participants(session_id)):
            said[session_id] = says
            if mask := detect(session_id, says, value, state.booking, rules):
                state.masks[session_id] = mask
    return said


def stored(state: BookingState) -> Iterator[tuple[bytes, bytes]]:
    """Every row of ``attendance`` that a state stands for, by suffix."""
    yield b"", _BOOKING.pack(FORMAT, state.ever_frequent, state.floor)
    for name, row in state.rows.items():
        yield name.encode(), row
        for who, key in state.scans.get(name, {}).items():
            yield name.encode() + SEPARATOR + who, _FORMAT_BYTE + key


def _booking_row(value: bytes) -> tuple[int, int, int]:
    check(value[0])
    form, frequent, floor = _BOOKING.unpack(value)
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
        length, starts, ends = _LISTED.unpack_from(listed, at)
        at += _LISTED.size
        window = (None if starts == _UNKNOWN_TIME else starts, None if ends == _UNKNOWN_TIME else ends)
        sessions[_shared(listed[at : at + length])] = _new(Window, window)
        at += length
    return in_order(sessions)
