"""A session's row as bytes: tables and changelogs store it so, and it is folded and read without being decoded.

A worker holds hundreds of thousands of rows. As bytes they take a quarter of the memory of tuples of tuples, and an event
concerns few of them, so only what changes is decoded.

Big endian: format (1), mask of the alerts ever opened (1), horizon (8, microseconds), a code for each of the marks base,
newest, attended, missed and override (3: half a byte unused, then half a byte each: 0 absent, 15 written out, n equal to
the nth mark), the packed status of the base (5); then the marks that are written out, in that order: order key (32), source
after its length (2).

The *packed status* of a base or an attendance is 5 bytes: status (1, its index in `STATUSES`), number of attendees (4).
"""

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from schemas.attendance import STATUSES, AttendanceStatus
from schemas.packing import LENGTH, pack_known_text, unpack_text
from worker.domain.fold import NOTHING, Base, Mark, Row, effective_time

FORMAT = 3

_HEAD = Struct(">BBq3sBI")
_FIRST = _HEAD.size
"""Index of the first mark."""
_TIMES = 24
"""Bytes of an order key before its digest."""
_FIRST_DIGEST, _FIRST_SOURCE = _FIRST + _TIMES, _FIRST + 32
_MARK_KEY = 32
_HORIZON, _CODES, _STATUS_AT = 2, 10, 13
_STATUS = Struct(">BI")
_unpack_status, pack_status = _STATUS.unpack, _STATUS.pack
_length = LENGTH.unpack_from
_CODE_OF = {str(status): code for code, status in enumerate(STATUSES)}
_ABSENT, _WRITTEN_OUT = 0, 15
_MINUTE = 60_000_000
_LAST_MINUTE = (1 << 32) - 1


class OtherFormat(Exception):
    """A row was written by another version of this software. No retry helps; the operator runs that version."""

    def __init__(self, row_format: int) -> None:
        super().__init__(
            f"a table row has format {row_format}, this worker writes {FORMAT}: run `attendance rebuild --refold` of this "
            "version, or set a new ATTENDANCE_TOPIC_PREFIX and publish again, or run the version that wrote the row"
        )


class AttendanceValue(NamedTuple):
    """An attendance without its ids."""

    status: AttendanceStatus
    number: int
    updated: bytes
    """8 bytes that sort by time; `fold.effective_time` reads them."""
    source: bytes
    """UTF-8, preceded by its length in two bytes."""


def check(form: int) -> None:
    """Raises OtherFormat if a row has not the current format."""
    if form != FORMAT:
        raise OtherFormat(form)


def encode(row: Row, ever_opened: int) -> bytes:
    """Packs a row and the mask of alerts ever opened. Marks of the same event are written once."""
    horizon, base, *rest = row
    codes = 0
    marks: list[Mark | None] = []
    body: list[bytes] = []
    for mark in (base.mark if base else None, *rest):
        code = _ABSENT if mark is None else marks.index(mark) + 1 if mark in marks else _WRITTEN_OUT
        codes = codes << 4 | code
        marks.append(mark)
        if mark is not None and code == _WRITTEN_OUT:
            body += (mark.key, pack_known_text(mark.source))
    status, number = (_CODE_OF[base.status], base.number) if base else (0, 0)
    head = _HEAD.pack(FORMAT, ever_opened, horizon, codes.to_bytes(3, "big"), status, number)
    return b"".join((head, *body))


def decode(packed: bytes) -> tuple[Row, int]:
    """(row, mask of alerts ever opened)."""
    form, ever_opened, horizon, _, status, number = _HEAD.unpack_from(packed)
    check(form)
    marks = [_mark(packed, at) if at else None for at in _marks(packed)]
    base = Base(marks[0], STATUSES[status], number) if marks[0] else None
    return Row(horizon, base, *marks[1:]), ever_opened


EMPTY = encode(NOTHING, 0)
"""The row of a session without events."""


def with_ever_opened(packed: bytes, mask: int) -> bytes:
    """The row with these alerts added to those ever opened."""
    ever_opened = packed[1] | mask
    return packed if ever_opened == packed[1] else b"%c%c%b" % (FORMAT, ever_opened, packed[2:])


def ever_opened_of(packed: bytes) -> int:
    """The mask of alerts ever opened."""
    return packed[1]


def packed_status(packed: bytes, participants: int) -> bytes:
    """The packed status of a row with so many scanned participants; empty if there is no attendance."""
    status_and_number = packed[_STATUS_AT:_FIRST] if packed[_CODES] else b""
    if not participants:
        return status_and_number
    status, number = _unpack_status(status_and_number) if status_and_number else (0, 0)
    return pack_status(0, max(participants, number) if status == 0 else participants)


def packed_statuses(rows: Mapping[str, bytes]) -> dict[str, bytes]:
    """`packed_status` of all rows by session, for a booking in which nobody was ever scanned."""
    return {name: row[_STATUS_AT:_FIRST] for name, row in rows.items() if row[_CODES]}


def attendance_value(packed: bytes, status_and_number: bytes) -> AttendanceValue | None:
    """The attendance of a row with this packed status; None if there is none."""
    newest = newest_of(packed)
    if not status_and_number or not newest:
        return None
    status, number = _unpack_status(status_and_number)
    return AttendanceValue(STATUSES[status], number, packed[newest : newest + 8], source_of(packed, newest))


def arrival_minute(packed: bytes, status_and_number: bytes) -> int:
    """The minute in which the people of an ATTENDED attendance arrived, in minutes since the epoch; 0 if it is not ATTENDED.

    That of the newest ATTENDED report, or of the base where there is none: an ``attendance.set``. Times before 1970 and in its
    first minute give 1, those that 32 bits cannot hold (from the year 10136 on) the last minute.

    Args:
        packed: the row.
        status_and_number: its packed status.
    """
    if not status_and_number or status_and_number[0]:
        return 0
    base, _, attended, _, _ = _marks(packed)
    mark = attended or base
    return min(max(effective_time(packed, mark) // _MINUTE, 1), _LAST_MINUTE)


def newest_of(packed: bytes) -> int:
    """Index of the newest mark; 0 if there is none."""
    return _marks(packed)[1]


def newest_key(packed: bytes) -> bytes:
    """The order key of the newest mark; empty if there is none."""
    newest = newest_of(packed)
    return packed[newest : newest + _MARK_KEY] if newest else b""


def source_of(packed: bytes, mark: int) -> bytes:
    """The source of the mark at this index, preceded by its length."""
    source = mark + _MARK_KEY
    end: int = source + LENGTH.size + _length(packed, source)[0]
    return packed[source:end]


def opposed_reports(packed: bytes) -> tuple[int, int] | None:
    """Indexes of the newest ATTENDED report and of the newest NOT_ATTENDED report; None unless there are both."""
    _, _, attended, missed, _ = _marks(packed)
    return (attended, missed) if attended and missed else None


def _marks(packed: bytes) -> list[int]:
    """Indexes of base, newest, attended, missed and override; 0: absent."""
    at, codes = _FIRST, int.from_bytes(packed[_CODES:_STATUS_AT], "big")
    indexes: list[int] = []
    for shift in (16, 12, 8, 4, 0):
        code = codes >> shift & 15
        indexes.append(at if code == _WRITTEN_OUT else indexes[code - 1] if code else 0)
        if code == _WRITTEN_OUT:
            source = at + _MARK_KEY
            at = source + LENGTH.size + _length(packed, source)[0]
    return indexes


def _mark(packed: bytes, at: int) -> Mark:
    source, _ = unpack_text(packed, at + _MARK_KEY)
    return Mark(packed[at : at + _MARK_KEY], source.decode())
