"""The binary format of a booking's record: its summary, and its attendances with their statuses and numbers.

A record is a head, then attendances. Big endian. The head: flags (1 byte; 1: FREQUENT_NO_SHOWS is open, 2: the booking is
large, 4: the numbers are wide), then four numbers of 1 byte each (wide: 4 bytes each, where one of them is above 255):
attended, notAttended, notSet, longestNoShowRun.

Then, unless the booking is large, each of its attendances in the order of ids: a mark (1 byte), id (16 bytes). A mark has the
index of the status in `STATUSES` in its two low bits, and numberOfAttendees in the others (`MOST_MARKED`: this or more). A
booking with more than `MOST_IN_RECORD` attendances is large: it has none in its record, and each of them is a member of an
index by booking.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Any

#: Anybody can publish a booking with any number of sessions, and a record is written as a whole.
MOST_IN_RECORD = 64
#: A mark holds numberOfAttendees up to here.
MOST_MARKED = 63
#: The mark where there is no attendance.
NO_ATTENDANCE = 3
_FREQUENT, _LARGE, _WIDE = 1, 2, 4
_NARROW_HEAD, _WIDE_HEAD = Struct(">BBBBB"), Struct(">BIIII")
_MOST_NARROW = 255


def mark_of(status: int, number: int) -> int:
    """The mark of an attendance, from the index of its status and numberOfAttendees."""
    return status | min(number, MOST_MARKED) << 2


def status_of(mark: int) -> int:
    """The index of the status in a mark; `NO_ATTENDANCE` if there is no attendance."""
    return mark & 3


def number_of(mark: int) -> int:
    """numberOfAttendees in a mark; `MOST_MARKED`: this or more."""
    return mark >> 2


def pack_record(counts: tuple[int, int, int, int], attendances: Iterable[bytes], *, is_frequent: bool, is_large: bool) -> bytes:
    """The record of a booking.

    Args:
        counts: attended, notAttended, notSet, longestNoShowRun.
        attendances: mark and id of each, in the order of ids; none if the booking is large.
    """
    flags = is_frequent * _FREQUENT | is_large * _LARGE
    if max(counts) > _MOST_NARROW:
        return b"".join((_WIDE_HEAD.pack(flags | _WIDE, *counts), *attendances))
    return b"".join((_NARROW_HEAD.pack(flags, *counts), *attendances))


def unpack_summary(record: bytes) -> dict[str, Any]:
    """The summary in a record, as readers get it."""
    head = _WIDE_HEAD if record[0] & _WIDE else _NARROW_HEAD
    _, attended, missed, not_set, longest_run = head.unpack_from(record)
    return {
        "attended": attended,
        "notAttended": missed,
        "notSet": not_set,
        "noShowRate": missed / (attended + missed) if missed else 0.0,
        "longestNoShowRun": longest_run,
    }


def attendances_of(record: bytes) -> list[tuple[int, bytes]]:
    """Mark and id of each attendance in a record."""
    start = (_WIDE_HEAD if record[0] & _WIDE else _NARROW_HEAD).size
    return [(record[at], record[at + 1 : at + 17]) for at in range(start, len(record), 17)]


def is_frequent(record: bytes) -> bool:
    """Whether FREQUENT_NO_SHOWS is open."""
    return bool(record[0] & _FREQUENT)


def is_large(record: bytes) -> bool:
    """Whether the attendances of the booking are not in its record, only in the indexes by booking."""
    return bool(record[0] & _LARGE)
