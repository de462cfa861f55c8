"""Rows as tables and changelogs store them: bytes that merge (see `worker.engine.table`).

===============  ==============================  =========================================================
table            key after the booking and NUL   value
===============  ==============================  =========================================================
``attendance``   (nothing)                       erasure horizon, whether FREQUENT_NO_SHOWS was ever opened
``attendance``   session                         the session's row
``attendance``   session, NUL, participant hash  order key of the participant's newest scan
``attendance``   (no booking) SOH, partition     the partition's generation and the settings that shape its rows
``attendance``   (no booking) SOH, device, NUL,  a source's newest event (see `worker.domain.devices`)
                source
``attendance``   (no booking) SOH, erased, NUL,  marker of an erased booking (see `worker.domain.erasures`)
                keyed hash
``attendance``   (no booking) SOH, erasing, NUL, a booking whose rows are to leave, since it was erased
                booking
``attendance``   (no booking) SOH, applied       offsets of events and bookings up to which rows may have been changed, the
                                                newest effective time of an event, the newest reception of a booking
``bookings``     (nothing)                       the current record, decoded and in its original bytes; sessions whose
                                                removal may not be projected yet
===============  ==============================  =========================================================

Every value begins with a format byte. Ids hold no control character, so NUL separates; a participant hash is 16 bytes.
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import NamedTuple
from zlib import DEFLATED, compress, compressobj, decompress

from schemas.packing import pack_text, unpack_text
from worker.domain import fold, row_codec
from worker.domain.alert_rules import Rules, detect
from worker.domain.booking_content import HEAD_SIZE, decode_content, encode_content
from worker.domain.booking_state import BookingRecord, BookingState, Change, Place, summarise_booking
from worker.domain.erasures import ERASED_PREFIX, Marker, merge_markers
from worker.domain.row_codec import FORMAT, check

SEPARATOR = b"\0"
#: Key of a partition's own row: no booking, and a suffix that no session can have.
PARTITION_GROUP, PARTITION_SUFFIX = b"", b"\x01partition"
APPLIED_SUFFIX = b"\x01applied"

#: Topics of a partition, in the order of `Applied`.
EVENTS, BOOKINGS = range(2)
Ends = tuple[int, int]
"""Offsets in the events topic and in the bookings topic."""

_APPLIED = Struct(">Bqqqq")
_BOOKING = Struct(">BBq")
#: A row of ``bookings``: format and place; then the fields of `booking_content`, how many removed sessions follow and how many
#: bytes of listed ones.
_PLACE, _COUNTS = Struct(">Bqqq"), Struct(">HI")
#: Originals up to so many bytes are stored as they are, in zlib's format: 2 us. RocksDB compresses its blocks anyway.
_SHORT_ORIGINAL = 1024
#: Level of zlib for longer ones, window (4 KiB) and memory: a booking of four sessions would shrink to 40 % in 15 us; higher
#: levels gain little. With zlib's own window and memory, which the system gives anew and fills with zeros for each: 124 us.
_FAST, _WINDOW_BITS, _MEMORY_LEVEL = 1, 12, 4
_FORMAT_BYTE = bytes((FORMAT,))


def changed_rows(change: Change) -> tuple[dict[bytes, bytes | None], bytes | None]:
    """The rows that a batch changed: of ``attendance`` by suffix (None: delete), and of ``bookings`` (None: unchanged)."""
    state = change.state
    rows: dict[bytes, bytes | None] = {}
    if state.erasure_horizon != change.before.erasure_horizon or state.ever_frequent != change.before.ever_frequent:
        rows[b""] = _BOOKING.pack(FORMAT, state.ever_frequent, state.erasure_horizon)
    for name, row_before, row, *_ in change.sessions:
        if row != row_before:
            rows[name.encode()] = row_codec.encode(*row)
    if change.scans is not None:
        for name, scans in change.scans.items():
            suffix = name.encode() + SEPARATOR
            for participant, key in scans.items():
                rows[suffix + participant] = None if key is None else _FORMAT_BYTE + key
    if change.record is None:
        return rows, None
    return rows, encode_reference(change.record, state.removed_unprojected)


def void_rows(state: BookingState, rows: Iterable[bytes]) -> list[bytes]:
    """Of the suffixes of an erased booking's rows those whose rows hold nothing that its marker does not hold."""
    void = []
    for suffix in rows:
        name, _, participant = suffix.partition(SEPARATOR)
        if participant:
            is_void = participant not in state.scans.get(name.decode(), {})
        elif suffix:
            row = state.rows.get(name.decode(), row_codec.EMPTY).row
            is_void = row._replace(horizon=max(row.horizon, state.erasure_horizon)) == fold.Row(state.erasure_horizon)
        else:
            is_void = not state.frequent
        if is_void:
            void.append(suffix)
    return void


class Applied(NamedTuple):
    """How far a partition has applied its topics: offsets up to which rows may have been changed, times in microseconds."""

    events: int = 0
    bookings: int = 0
    events_time: int = fold.NEVER
    """The newest effective time of an event."""
    bookings_time: int = fold.NEVER
    """When the newest booking record was received."""

    @classmethod
    def of(cls, topic: int, end: int, newest: int | None) -> "Applied":
        """After a batch of one topic: the offset after it, and its newest time, if it has one."""
        time = fold.NEVER if newest is None else newest
        return cls(events=end, events_time=time) if topic == EVENTS else cls(bookings=end, bookings_time=time)

    @property
    def ends(self) -> Ends:
        return self[:2]

    @property
    def times(self) -> tuple[int, int]:
        return self[2:]

    def merged(self, other: "Applied") -> "Applied":
        """The maximum of each field."""
        return Applied(*map(max, self, other))

    def encode(self) -> bytes:
        """The row that stores it."""
        return _APPLIED.pack(FORMAT, *self)

    @classmethod
    def decode(cls, row: bytes | None) -> "Applied":
        """The content of that row; None: nothing was applied."""
        if row is None:
            return cls()
        check(row[0])
        return cls(*_APPLIED.unpack(row)[1:])


def encode_reference(record: BookingRecord, removed_unprojected: Iterable[str] = ()) -> bytes:
    """Packs a row of ``bookings``. The fields that are read most come first; the original, which is hardly ever read, last."""
    place, booking, original = record
    removed = sorted(removed_unprojected)
    head, listed = encode_content(booking)
    counts = _COUNTS.pack(len(removed), len(listed))
    return b"".join((_PLACE.pack(FORMAT, *place), head, counts, *map(pack_text, removed), listed, _compressed(original)))


def _compressed(original: bytes) -> bytes:
    if len(original) <= _SHORT_ORIGINAL:
        return compress(original, 0)
    compressing = compressobj(_FAST, DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL)
    return compressing.compress(original) + compressing.flush()


def decode_reference(booking_id: str, value: bytes) -> tuple[BookingRecord, frozenset[str]]:
    """(record without its original: see `original_of`; `BookingState.removed_unprojected`) of a row of ``bookings``."""
    place = place_of(value)
    removed, size = _COUNTS.unpack_from(value, _PLACE.size + HEAD_SIZE)
    at, removed_unprojected = _PLACE.size + HEAD_SIZE + _COUNTS.size, []
    for _ in range(removed):
        name, at = unpack_text(value, at)
        removed_unprojected.append(name.decode())
    booking = decode_content(booking_id, value[_PLACE.size : _PLACE.size + HEAD_SIZE], value[at : at + size])
    return BookingRecord(place, booking, b""), frozenset(removed_unprojected)


def place_of(value: bytes) -> Place:
    """The place of the record in a row of ``bookings``."""
    check(value[0])
    return Place(*_PLACE.unpack_from(value)[1:])


def original_of(value: bytes) -> bytes:
    """The packed original of the record in a row of ``bookings``."""
    removed, size = _COUNTS.unpack_from(value, _PLACE.size + HEAD_SIZE)
    at = _PLACE.size + HEAD_SIZE + _COUNTS.size
    for _ in range(removed):
        _, at = unpack_text(value, at)
    return decompress(value[at + size :])


def merge_attendance_rows(suffix: bytes, one: bytes, other: bytes) -> bytes:
    """Merges two rows of ``attendance`` with the same key: the result holds what both hold."""
    if suffix == PARTITION_SUFFIX:
        # two workers created the partition at the same time; every reader must choose the same row
        return min(one, other)
    if suffix == APPLIED_SUFFIX:
        return Applied.decode(one).merged(Applied.decode(other)).encode()
    if suffix.startswith(ERASED_PREFIX):
        return merge_markers(one, other)
    if not suffix:
        _, frequent, erasure_horizon = _booking_row(one)
        _, other_frequent, other_horizon = _booking_row(other)
        return _BOOKING.pack(FORMAT, frequent | other_frequent, max(erasure_horizon, other_horizon))
    if SEPARATOR in suffix:
        check(max(one[0], other[0]))
        return max(one, other)
    (row, ever_opened), (other_row, other_ever_opened) = map(row_codec.decode, (one, other))
    return row_codec.encode(fold.merge(row, other_row), ever_opened | other_ever_opened)


def merge_booking_rows(_suffix: bytes, one: bytes, other: bytes) -> bytes:
    """The row of ``bookings`` with the greater place. Rows of the same record may differ: then any, but always the same one."""
    return max(one, other, key=lambda value: (place_of(value), value))


def load(
    booking_id: str, rows: Mapping[bytes, bytes], reference: bytes | None, rules: Rules, marker: Marker | None = None
) -> BookingState:
    """A booking from its rows, with the statuses, open alerts and summary that it had when they were written.

    Args:
        booking_id: its id.
        rows: of ``attendance``, by suffix.
        reference: of ``bookings``.
        rules: the settings that shape results.
        marker: of an erased booking: what the rows hold that it makes void does not count.
    """
    state = BookingState(booking_id)
    if reference is not None:
        (state.place, state.booking, _), state.removed_unprojected = decode_reference(booking_id, reference)
    if marker is not None:
        state.erasure_horizon = marker.horizon
        if marker.place[:2] >= state.place[:2]:
            state.place, state.booking = marker.place, None
    if rows:
        _load_attendances(rows, state, rules)
    summarise_booking(state)
    return state


def _load_attendances(rows: Mapping[bytes, bytes], state: BookingState, rules: Rules) -> None:
    """Puts the rows of ``attendance``, their statuses and open alerts into a booking."""
    if b"" in rows:
        _, ever_frequent, horizon = _booking_row(rows[b""])
        state.ever_frequent, state.erasure_horizon = bool(ever_frequent), max(horizon, state.erasure_horizon)
    for suffix, value in rows.items():
        check(value[0])
        if SEPARATOR in suffix:
            name, _, participant = suffix.partition(SEPARATOR)
            state.scans.setdefault(name.decode(), {})[participant] = value[1:]
        elif suffix:
            state.rows[suffix.decode()] = row_codec.decode(value)
    if state.erasure_horizon != fold.NEVER:
        for session_id, (row, ever_opened) in state.rows.items():
            state.rows[session_id] = row_codec.StoredRow(fold.normalised(row, state.erasure_horizon), ever_opened)
    for session_id, scans in state.scans.items():
        row = state.rows.get(session_id, row_codec.EMPTY).row
        state.scans[session_id] = fold.counting(row, scans, state.erasure_horizon)
    for session_id, (row, _) in state.rows.items():
        if status := row_codec.packed_status(row, len(state.scans.get(session_id, ()))):
            state.statuses[session_id] = status
            if mask := detect(session_id, status, row, state.booking, rules):
                state.masks[session_id] = mask


def _booking_row(value: bytes) -> tuple[int, int, int]:
    check(value[0])
    return _BOOKING.unpack(value)
