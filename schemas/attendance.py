"""The attendance of one booking at one session, as readers see it, and its id."""

from enum import StrEnum
from hashlib import sha1
from uuid import UUID

from typing_extensions import TypedDict

#: Namespace of every attendance id: UUIDv5(NAMESPACE, bookingId + JOIN + sessionId). It must never change.
NAMESPACE = UUID("6f0c1f0e-4a55-5d0b-9a67-2f0a3d1c7b42")
#: Separates ids in a hashed name. No id may hold a control character, so ("a", "bc") and ("ab", "c") differ.
JOIN = "\0"

_NAMESPACE_BYTES = NAMESPACE.bytes
_from_bytes = int.from_bytes
#: Clears the version and variant bits of a digest, and sets those of a UUIDv5.
_UUID_MASK, _UUID5 = ~(0xF << 76 | 0x3 << 62), 5 << 76 | 2 << 62


class AttendanceStatus(StrEnum):
    NOT_SET = "NOT_SET"
    ATTENDED = "ATTENDED"
    NOT_ATTENDED = "NOT_ATTENDED"


#: Packed bytes hold a status as its index in this tuple. The order must never change.
STATUSES = (AttendanceStatus.ATTENDED, AttendanceStatus.NOT_ATTENDED, AttendanceStatus.NOT_SET)


class Attendance(TypedDict):
    """What is known about one booking at one session; ``updatedDate`` is RFC 3339, UTC, milliseconds."""

    id: str
    bookingId: str
    sessionId: str
    status: AttendanceStatus
    numberOfAttendees: int
    updatedDate: str
    source: str


def attendance_id(booking_id: str, session_id: str) -> bytes:
    """The 16 bytes of the attendance's GUID."""
    return uuid5(_NAMESPACE_BYTES, booking_id + JOIN + session_id)


def uuid5(namespace: bytes, name: str) -> bytes:
    """The 16 bytes of a UUIDv5 (RFC 9562, 5.5), at a fifth of the cost of ``uuid.uuid5``."""
    digest = sha1(namespace + name.encode(), usedforsecurity=False).digest()
    return (_from_bytes(digest[:16]) & _UUID_MASK | _UUID5).to_bytes(16)


def guid(raw: bytes) -> str:
    """The text of a GUID's 16 bytes: lower-case hexadecimal with hyphens."""
    # cheaper than to cut five parts
    text = raw.hex("-", 2)
    return f"{text[:4]}{text[5:29]}{text[30:34]}{text[35:]}"


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID, the inverse of `guid`."""
    return bytes.fromhex(text.replace("-", ""))
