"""The packed pair, as ``apply.lua`` reads its head and the reader all of it.

Head, big endian: flags (1: has an attendance, 2: listed), status (0 ATTENDED, 1 NOT_ATTENDED, 2 NOT_SET), number (4
bytes), expected participants (4), updated (8, microseconds), length of the window (1). Then the window
(``<startMs>:<endMs>``, empty where unknown), then sessionId, bookingId and source, each after its length (2).
"""

from struct import Struct
from typing import NamedTuple

from schemas.attendance import Attendance, AttendanceStatus, guid
from schemas.times import format_time

_HEAD = Struct(">BBIIqB")
_LENGTH = Struct(">H")
_HAS_ATTENDANCE, _LISTED = 1, 2
STATUSES = (AttendanceStatus.ATTENDED, AttendanceStatus.NOT_ATTENDED, AttendanceStatus.NOT_SET)
_CODES = {status: code for code, status in enumerate(STATUSES)}


class PairDocument(NamedTuple):
    """One (booking, session) as the read model holds it. Times are microseconds."""

    booking_id: str
    session_id: str
    attendance: tuple[AttendanceStatus, int, int, str] | None
    """(status, number, updated, source); None where the session is only listed."""
    expected: int
    window: tuple[int | None, int | None] | None
    """Start and end as the booking lists them; None where it does not list the session."""


def pack(document: PairDocument) -> bytes:
    """The bytes of a pair."""
    status, number, updated, source = document.attendance or (AttendanceStatus.NOT_SET, 0, 0, "")
    window = b"" if document.window is None else _window(document.window)
    flags = (document.attendance is not None) * _HAS_ATTENDANCE | (document.window is not None) * _LISTED
    session, booking, origin = document.session_id.encode(), document.booking_id.encode(), source.encode()
    return b"".join(
        (
            _HEAD.pack(flags, _CODES[status], number, document.expected, updated, len(window)),
            window,
            _LENGTH.pack(len(session)),
            session,
            _LENGTH.pack(len(booking)),
            booking,
            _LENGTH.pack(len(origin)),
            origin,
        )
    )


def unpack(identity: bytes, packed: bytes) -> Attendance | None:
    """The attendance in a pair, None where the session is only listed."""
    flags, status, number, _, updated, length = _HEAD.unpack_from(packed)
    if not flags & _HAS_ATTENDANCE:
        return None
    texts = []
    at = _HEAD.size + length
    for _ in range(3):
        end = at + 2 + _LENGTH.unpack_from(packed, at)[0]
        texts.append(packed[at + 2 : end].decode())
        at = end
    return {
        "id": guid(identity),
        "bookingId": texts[1],
        "sessionId": texts[0],
        "status": STATUSES[status],
        "numberOfAttendees": number,
        "updatedDate": format_time(updated),
        "source": texts[2],
    }


def _window(window: tuple[int | None, int | None]) -> bytes:
    starts, ends = ("" if moment is None else str(moment // 1000) for moment in window)
    return f"{starts}:{ends}".encode() if starts or ends else b""
