"""A session's row as bytes, as tables and changelogs store it.

Big endian: format (1), mask of the alerts ever opened (1), horizon (8, microseconds), a code for each of the marks base,
newest, attended, missed and override (3: half a byte unused, then half a byte each: 0 absent, 15 written out, n equal to
the nth mark), the packed status of the base (5); then the marks that are written out, in that order: order key (32), source
after its length (2).

The *packed status* of a base or an attendance is 5 bytes: status (1, its index in `STATUSES`), number of attendees (4).
"""

from struct import Struct
from typing import NamedTuple

from schemas.attendance import STATUSES, AttendanceStatus
from schemas.packing import pack_text, unpack_text
from worker.domain.fold import NOTHING, Base, Mark, Row, effective_time

FORMAT = 3

_HEAD = Struct(">BBq3sBI")
_KEY_SIZE = 32
_STATUS = Struct(">BI")
pack_status = _STATUS.pack
_CODE_OF = {status: code for code, status in enumerate(STATUSES)}
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


class StoredRow(NamedTuple):
    """What a table stores of one (booking, session)."""

    row: Row
    ever_opened: int
    """The mask of alerts that were ever open."""


EMPTY = StoredRow(NOTHING, 0)
"""The row of a session without events."""


class AttendanceValue(NamedTuple):
    """An attendance without its ids."""

    status: AttendanceStatus
    number: int
    updated: int
    """The effective time of its newest event, microseconds."""
    source: str


def check(form: int) -> None:
    """Raises OtherFormat if a row has not the current format."""
    if form != FORMAT:
        raise OtherFormat(form)


def encode(row: Row, ever_opened: int) -> bytes:
    """Packs a row and the mask of alerts ever opened. Marks of the same event are written once."""
    base = row.base
    marks = (base.mark if base else None, row.newest, row.attended, row.missed, row.override)
    codes = 0
    body: list[bytes] = []
    for index, mark in enumerate(marks):
        code = _ABSENT
        if mark is not None and (first := marks.index(mark)) < index:
            code = first + 1
        elif mark is not None:
            code = _WRITTEN_OUT
            body += (mark.key, pack_text(mark.source))
        codes = codes << 4 | code
    status, number = (_CODE_OF[base.status], base.number) if base else (0, 0)
    head = _HEAD.pack(FORMAT, ever_opened, row.horizon, codes.to_bytes(3, "big"), status, number)
    return b"".join((head, *body))


def decode(packed: bytes) -> StoredRow:
    """The inverse of `encode`."""
    form, ever_opened, horizon, codes, status, number = _HEAD.unpack_from(packed)
    check(form)
    at, marks = _HEAD.size, list[Mark | None]()
    for code in f"{codes.hex()}"[1:]:
        mark = None
        if code == "f":
            source, end = unpack_text(packed, at + _KEY_SIZE)
            mark, at = Mark(packed[at : at + _KEY_SIZE], source.decode()), end
        elif code != "0":
            mark = marks[int(code) - 1]
        marks.append(mark)
    base, newest, attended, missed, override = marks
    of_base = Base(base, STATUSES[status], number) if base else None
    return StoredRow(Row(horizon, of_base, newest, attended, missed, override), ever_opened)


def packed_status(row: Row, participants: int) -> bytes:
    """The packed status of a row with so many scanned participants; empty if there is no attendance."""
    base = row.base
    if participants:
        stated = base.number if base and base.status is AttendanceStatus.ATTENDED else 0
        return pack_status(0, max(participants, stated))
    return pack_status(_CODE_OF[base.status], base.number) if base else b""


def attendance_value(row: Row, status_and_number: bytes) -> AttendanceValue | None:
    """The attendance of a row with this packed status; None if there is none."""
    if not status_and_number or row.newest is None:
        return None
    status, number = _STATUS.unpack(status_and_number)
    return AttendanceValue(STATUSES[status], number, effective_time(row.newest.key), row.newest.source)


def arrival_minute(row: Row, status_and_number: bytes) -> int:
    """The minute in which the people of an ATTENDED attendance arrived, in minutes since the epoch; 0 if it is not ATTENDED.

    That of the newest ATTENDED report, or of the base where there is none: an ``attendance.set``. Times before 1970 and in its
    first minute give 1, those that 32 bits cannot hold (from the year 10136 on) the last minute.

    Args:
        row: the row.
        status_and_number: its packed status.
    """
    mark = row.attended or (row.base and row.base.mark)
    if not status_and_number or status_and_number[0] or mark is None:
        return 0
    return min(max(effective_time(mark.key) // _MINUTE, 1), _LAST_MINUTE)
