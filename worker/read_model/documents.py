"""The binary format of a packed pair: what Redis stores of one booking at one session.

A pair begins with its contribution to the session's tally, the part that ``apply.lua`` reads. Big endian: flags (1: has an
attendance, 2: the booking lists the session), status (0 ATTENDED, 1 NOT_ATTENDED, 2 NOT_SET), number of attendees (4 bytes),
expected participants (4), length of the window (1), the window (``<startMs>:<endMs>``, either may be empty).

Then the arrival minute (4, since the epoch; 0 unless the attendance is ATTENDED), the updated time (8, microseconds since the
epoch + 2**63, so that the bytes sort as times do), and sessionId, bookingId and source, each preceded by its length (2).
"""

from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from schemas.attendance import STATUSES, Attendance, AttendanceStatus, guid
from schemas.packing import pack_text, unpack_text
from schemas.times import format_time

_HEAD = Struct(">BBIIB")
_MINUTE = Struct(">I")
_LISTING = Struct(">IB").pack
_UPDATED = Struct(">Q")
_ZERO = 1 << 63
_HAS_ATTENDANCE, _LISTED = 1, 2
_ATTENDANCE, _LISTED_ATTENDANCE = bytes((_HAS_ATTENDANCE,)), bytes((_HAS_ATTENDANCE | _LISTED,))
_NOT_SET = STATUSES.index(AttendanceStatus.NOT_SET)
_ONLY_LISTED = bytes((_LISTED, _NOT_SET)) + bytes(4)
_NEVER = bytes(8)

Listing = tuple[int | None, int | None]
"""Start and end of a session as the booking lists it, in microseconds; None if unknown."""


class Contribution(NamedTuple):
    """What a pair adds to its session's tally, see `contribution`."""

    has_attendance: bool
    status: int
    """Index in `STATUSES`."""
    number: int
    expected: int
    window: bytes
    """``<startMs>:<endMs>``; empty if neither is known."""


def contribution(status_and_number: bytes, expected: int, window: Listing | None) -> bytes:
    """The contribution of a pair to its session's tally.

    Args:
        status_and_number: of the attendance, packed; empty if the booking only lists the session.
        expected: participants of a known booking that is not canceled, otherwise 0.
        window: None if the booking does not list the session.
    """
    if not status_and_number:
        return _ONLY_LISTED + _listing(expected, window)
    flags = _ATTENDANCE if window is None else _LISTED_ATTENDANCE
    return b"".join((flags, status_and_number, _listing(expected, window)))


def pack(
    contributed: bytes,
    session_id: str,
    booking_id: str,
    minute: int = 0,
    updated: bytes = _NEVER,
    source: bytes = b"\0\0",
) -> bytes:
    """The bytes of a pair.

    Args:
        contributed: its `contribution`.
        minute: in which its attendees arrived, in minutes since the epoch; 0 unless the attendance is ATTENDED.
        updated: already packed, as ``source``.
    """
    return b"".join((contributed, _MINUTE.pack(minute), updated, pack_text(session_id), pack_text(booking_id), source))


def unpack_contribution(packed: bytes) -> Contribution:
    """The contribution at the begin of a pair, or alone."""
    flags, status, number, expected, length = _HEAD.unpack_from(packed)
    window = packed[_HEAD.size : _HEAD.size + length]
    return Contribution(bool(flags & _HAS_ATTENDANCE), status, number, expected, window)


def unpack(identity: bytes, packed: bytes) -> Attendance | None:
    """The attendance in a pair; None if the booking only lists the session."""
    flags, status, number, _, length = _HEAD.unpack_from(packed)
    if not flags & _HAS_ATTENDANCE:
        return None
    at = _HEAD.size + length + _MINUTE.size
    updated = _UPDATED.unpack_from(packed, at)[0] - _ZERO
    at += _UPDATED.size
    texts = []
    for _ in range(3):
        text, at = unpack_text(packed, at)
        texts.append(text.decode())
    return {
        "id": guid(identity),
        "bookingId": texts[1],
        "sessionId": texts[0],
        "status": STATUSES[status],
        "numberOfAttendees": number,
        "updatedDate": format_time(updated),
        "source": texts[2],
    }


def updated_of(packed: bytes) -> int:
    """The updated time of a pair that has an attendance, in microseconds since the epoch."""
    updated: int = _UPDATED.unpack_from(packed, _HEAD.size + packed[_HEAD.size - 1] + _MINUTE.size)[0]
    return updated - _ZERO


def minute_of(packed: bytes) -> int:
    """The minute in which the attendees of a pair arrived, in minutes since the epoch; 0 unless it is ATTENDED."""
    minute: int = _MINUTE.unpack_from(packed, _HEAD.size + packed[_HEAD.size - 1])[0]
    return minute


@lru_cache(maxsize=20_000)
def _listing(expected: int, window: Listing | None) -> bytes:
    starts, ends = ("" if moment is None else str(moment // 1000) for moment in window or (None, None))
    written = f"{starts}:{ends}".encode() if starts or ends else b""
    return _LISTING(expected, len(written)) + written
