"""What a booking record says, as bytes: part of its row, and what identifies the record in the ids of alerts.

Big endian: flags (1: known, 2: walk-ins are allowed, 4: canceled, 8: lists its sessions), participants (4), time (8,
microseconds), number of listed sessions (2); then of each listed session, in the order of `schemas.events.in_order`, the length
of its id (2), start and end (8 each, microseconds; `fold.NEVER` if unknown), its id.
"""

from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from schemas.events import Booking, Window, in_order
from worker.domain.fold import NEVER

_HEAD = Struct(">BIqH")
#: Bytes before the listed sessions.
HEAD_SIZE = _HEAD.size
_LISTED = Struct(">Hqq")
_KNOWN, _WALK_INS, _CANCELED, _LISTS = 1, 2, 4, 8


class EncodedBooking(NamedTuple):
    """A booking that is encoded already."""

    booking_id: str
    fields: bytes
    listed: bytes
    """The listed sessions."""


def encode_content(booking: Booking | EncodedBooking | None) -> tuple[bytes, bytes]:
    """(the fields of a booking, its listed sessions); None: the record makes it unknown."""
    if booking is None:
        return bytes(HEAD_SIZE), b""
    if isinstance(booking, EncodedBooking):
        return booking.fields, booking.listed
    sessions = booking.sessions
    flags = _KNOWN | booking.walk_ins_allowed * _WALK_INS | booking.canceled * _CANCELED | (sessions is not None) * _LISTS
    listed = b"".join(_encode_listed(name, window) for name, window in (sessions or {}).items())
    return _HEAD.pack(flags, booking.participants, booking.time, len(sessions or ())), listed


def decode_content(booking_id: str, head: bytes, listed: bytes) -> Booking | None:
    """The inverse of `encode_content`."""
    flags, participants, time, count = _HEAD.unpack(head)
    if not flags & _KNOWN:
        return None
    sessions = _decode_listed(listed, count) if flags & _LISTS else None
    return Booking(booking_id, participants, bool(flags & _WALK_INS), bool(flags & _CANCELED), sessions, time)


def _encode_listed(name: str, window: Window) -> bytes:
    times = (NEVER if moment is None else moment for moment in window)
    encoded = name.encode()
    return _LISTED.pack(len(encoded), *times) + encoded


@lru_cache(maxsize=5_000)
def _decode_listed(listed: bytes, count: int) -> dict[str, Window]:
    """The sessions that a booking lists. Never changed, so that bookings with the same sessions share it."""
    sessions, at = {}, 0
    for _ in range(count):
        length, *window = _LISTED.unpack_from(listed, at)
        at += _LISTED.size
        starts, ends = (None if moment == NEVER else moment for moment in window)
        sessions[listed[at : at + length].decode()] = Window(starts, ends)
        at += length
    return in_order(sessions)
