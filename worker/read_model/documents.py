"""The packed pair, as ``apply.lua`` reads its head and the reader all of it.

First what the pair contributes to its session's tally, big endian: flags (1: has an attendance, 2: listed), status (0
ATTENDED, 1 NOT_ATTENDED, 2 NOT_SET), number (4 bytes), expected participants (4), length of the window (1), the window
(``<startMs>:<endMs>``, empty where unknown). Then updated (8, microseconds), sessionId, bookingId and source, each of
these after its length (2).
"""

from functools import lru_cache
from struct import Struct

from schemas.attendance import Attendance, AttendanceStatus, guid
from schemas.packing import pack_known_text, pack_text, unpack_text
from schemas.times import format_time

_HEAD = Struct(">BBIIB")
_UPDATED = Struct(">q")
_HAS_ATTENDANCE, _LISTED = 1, 2
STATUSES = (AttendanceStatus.ATTENDED, AttendanceStatus.NOT_ATTENDED, AttendanceStatus.NOT_SET)
_ATTENDED, _NOT_ATTENDED, _NOT_SET = STATUSES
_pack_head, _pack_updated = _HEAD.pack, _UPDATED.pack

Known = tuple[AttendanceStatus, int, int, str]
"""An attendance: status, number, updated (microseconds), source."""
Listing = tuple[int | None, int | None]
"""Start and end of a session as its booking lists it, microseconds, None where unknown."""


def contribution(attendance: Known | None, expected: int, window: Listing | None) -> bytes:
    """What a pair adds to its session's tally.

    Args:
        attendance: None where the session is only listed.
        expected: participants of a known, uncanceled booking, else 0.
        window: None where the booking does not list the session.
    """
    flags, written = (0, b"") if window is None else (_LISTED, _window(window))
    if attendance is None:
        return _pack_head(flags, 2, 0, expected, len(written)) + written
    status = attendance[0]
    code = 0 if status is _ATTENDED else 1 if status is _NOT_ATTENDED else 2
    return _pack_head(flags | _HAS_ATTENDANCE, code, attendance[1], expected, len(written)) + written


def pack(contributed: bytes, attendance: Known | None, session_id: str, booking_id: str) -> bytes:
    """The bytes of a pair."""
    _, _, updated, source = attendance or (_NOT_SET, 0, 0, "")
    texts = (pack_known_text(session_id), pack_text(booking_id), pack_known_text(source))
    return b"".join((contributed, _pack_updated(updated), *texts))


def unpack(identity: bytes, packed: bytes) -> Attendance | None:
    """The attendance in a pair, None where the session is only listed."""
    flags, status, number, _, length = _HEAD.unpack_from(packed)
    if not flags & _HAS_ATTENDANCE:
        return None
    at = _HEAD.size + length
    updated = _UPDATED.unpack_from(packed, at)[0]
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


@lru_cache(maxsize=20_000)
def _window(window: Listing) -> bytes:
    starts, ends = ("" if moment is None else str(moment // 1000) for moment in window)
    return f"{starts}:{ends}".encode() if starts or ends else b""
