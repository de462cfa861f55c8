"""The binary format of a packed pair: what Redis stores of one booking at one session.

A hash of values of at most 64 bytes is one listpack to Redis, which takes half of what a hash table does: so a pair is as short
as it can be without looking anything up. Big endian. `lua/documents.lua` and ``worker/native/src/document.rs`` know the format.

A pair begins with its contribution to the session's tally:

- a head (1 byte): 1 it has an attendance; 2 the booking lists the session; 4 and 8 the status (0 ATTENDED, 1 NOT_ATTENDED,
  2 NOT_SET); 16 the numbers are wide; 32 and 64 the form of the window; 128 always, so that no pair begins as JSON does
- number of attendees and expected participants, 4 bits each; wide, where one of them is above 15: 4 bytes each
- the window. Form 0: neither end is known. Form 1: start, in minutes since the epoch (27 bits), and length in minutes (13).
  Form 2: start, in ms since the epoch (6 bytes), and length in ms (4). Form 3, where neither can say it: its length (1) and
  ``<startMs>:<endMs>``, either of which may be empty

Then tags (1 byte): 1 the minute of the arrival is written; 2, 4 and 8 sessionId, bookingId and source are GUIDs; 16 the pair is
long, as one with a name of more than 255 bytes or a time before 1970 or after 2112. If it has an attendance, the updated time
follows: microseconds since the epoch (7 bytes), or, of a long pair, those + 2**63 (8). Then the arrival minute (4, since the
epoch), where it is written, as in every long pair: where it is not, it is that of the updated time of an ATTENDED attendance
and 0 otherwise. Then sessionId, bookingId and source: a GUID (as text: lower case with hyphens) as its
16 bytes; another text after its length (1 byte; 2 in a long pair), but for the source, which is the rest.
"""

import re
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from schemas.attendance import STATUSES, Attendance, AttendanceStatus, guid, guid_bytes
from schemas.times import format_time

_HAS_ATTENDANCE, _LISTED, _WIDE, _ALWAYS = 1, 2, 16, 128
_STATUS_SHIFT, _FORM_SHIFT = 2, 5
_NO_WINDOW, _IN_MINUTES, _IN_MS, _AS_TEXT = range(4)
_MINUTE_WRITTEN, _SESSION, _BOOKING, _SOURCE, _LONG = 1, 2, 4, 8, 16
_NARROW_MOST = 15
_NUMBERS = Struct(">II")
_LENGTH_BITS, _MINUTE_BITS = 13, 27
_MINUTES_SIZE, _MS_START, _MS_LENGTH = 5, 6, 4
_MS_SIZE = _MS_START + _MS_LENGTH
_MINUTE_MS, _MINUTE_US = 60_000, 60_000_000
_MINUTE = Struct(">I")
_ZERO = 1 << 63
_TIME, _LONG_TIME = 7, 8
#: Lua computes with doubles: of times before this (the year 2112) it finds the minute.
_EXACT = 1 << 52
_MOST_SHORT = 255
_ATTENDED, _NOT_SET = STATUSES.index(AttendanceStatus.ATTENDED), STATUSES.index(AttendanceStatus.NOT_SET)
#: Of contributions by their head; 0: the window is a text.
_SIZES = tuple(
    0 if form == _AS_TEXT else (9 if head & _WIDE else 2) + (0, _MINUTES_SIZE, _MS_SIZE)[form]
    for head, form in ((head, head >> _FORM_SHIFT & 3) for head in range(256))
)
_is_guid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch

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


@lru_cache(maxsize=20_000)
def contribution(status_and_number: bytes, expected: int, window: Listing | None) -> bytes:
    """The contribution of a pair to its session's tally.

    Args:
        status_and_number: of the attendance, packed (1 byte, 4 bytes); empty if the booking only lists the session.
        expected: participants of a known booking that is not canceled, otherwise 0.
        window: None if the booking does not list the session.
    """
    status, number = (status_and_number[0], int.from_bytes(status_and_number[1:])) if status_and_number else (_NOT_SET, 0)
    form, written = _packed_window(window)
    head = _ALWAYS | status << _STATUS_SHIFT | form << _FORM_SHIFT
    if status_and_number:
        head |= _HAS_ATTENDANCE
    if window is not None:
        head |= _LISTED
    if number > _NARROW_MOST or expected > _NARROW_MOST:
        return bytes((head | _WIDE,)) + _NUMBERS.pack(number, expected) + written
    return bytes((head, number << 4 | expected)) + written


def pack(
    contributed: bytes, session_id: str, booking_id: str, minute: int = 0, updated: bytes | None = None, source: str = ""
) -> bytes:
    """The bytes of a pair.

    Args:
        contributed: its `contribution`.
        minute: in which its attendees arrived, in minutes since the epoch; 0 unless the attendance is ATTENDED.
        updated: of its attendance, microseconds since the epoch + 2**63 in 8 bytes; None if it has none.
    """
    (is_session, session), (is_booking, booking), (is_source, origin) = map(_packed_text, (session_id, booking_id, source))
    tags = is_session * _SESSION | is_booking * _BOOKING | is_source * _SOURCE
    micros = 0 if updated is None else int.from_bytes(updated) - _ZERO
    is_long = not 0 <= micros < _EXACT or len(session) > _MOST_SHORT or len(booking) > _MOST_SHORT
    size, times = 2 if is_long else 1, b""
    if updated is not None:
        times = updated if is_long else updated[-_TIME:]
        if is_long or minute != (micros // _MINUTE_US if _status(contributed) == _ATTENDED else 0):
            tags |= _MINUTE_WRITTEN
            times += _MINUTE.pack(minute)
    named = (
        b"" if is_session else len(session).to_bytes(size),
        session,
        b"" if is_booking else len(booking).to_bytes(size),
        booking,
    )
    return b"".join((contributed, (tags | is_long * _LONG).to_bytes(), times, *named, origin))


def unpack_contribution(packed: bytes) -> Contribution:
    """The contribution at the begin of a pair, or alone."""
    head = packed[0]
    number, expected, at = _numbers(packed)
    form = head >> _FORM_SHIFT & 3
    window = b"" if form == _NO_WINDOW else _window_text(form, packed, at)
    return Contribution(bool(head & _HAS_ATTENDANCE), _status(packed), number, expected, window)


def contribution_size(packed: bytes) -> int:
    """The length of the contribution at the begin of a pair."""
    head = packed[0]
    at = 1 + _NUMBERS.size if head & _WIDE else 2
    return _SIZES[head] or at + 1 + packed[at]


def names_of(packed: bytes) -> tuple[bytes, bytes]:
    """sessionId and bookingId of a pair, UTF-8."""
    tags, at = _time_place(packed)
    session, at = _text_at(packed, _behind_times(packed, tags, at), tags, _SESSION)
    return session.encode(), _text_at(packed, at, tags, _BOOKING)[0].encode()


def unpack(identity: bytes, packed: bytes) -> Attendance | None:
    """The attendance in a pair; None if the booking only lists the session."""
    head = packed[0]
    if not head & _HAS_ATTENDANCE:
        return None
    # without calls: a page reads a hundred pairs or more
    at = _SIZES[head] or contribution_size(packed)
    tags = packed[at]
    if tags & (_LONG | _MINUTE_WRITTEN):
        updated, at = _time_at(packed, tags, at + 1), _behind_times(packed, tags, at + 1)
    else:
        updated, at = int.from_bytes(packed[at + 1 : at + 8]), at + 8
    if tags & (_LONG | _SESSION):
        session, at = _text_at(packed, at, tags, _SESSION)
    else:
        end = at + 1 + packed[at]
        session, at = packed[at + 1 : end].decode(), end
    if tags & (_LONG | _BOOKING):
        booking, at = _text_at(packed, at, tags, _BOOKING)
    else:
        end = at + 1 + packed[at]
        booking, at = packed[at + 1 : end].decode(), end
    return {
        "id": guid(identity),
        "bookingId": booking,
        "sessionId": session,
        "status": STATUSES[head >> _STATUS_SHIFT & 3],
        "numberOfAttendees": _numbers(packed)[0] if head & _WIDE else packed[1] >> 4,
        "updatedDate": format_time(updated),
        "source": guid(packed[at:]) if tags & _SOURCE else packed[at:].decode(),
    }


def updated_of(packed: bytes) -> int:
    """The updated time of a pair that has an attendance, in microseconds since the epoch."""
    return _time_at(packed, *_time_place(packed))


def minute_of(packed: bytes) -> int:
    """The minute in which the attendees of a pair arrived, in minutes since the epoch; 0 unless it is ATTENDED."""
    if not packed[0] & _HAS_ATTENDANCE or _status(packed) != _ATTENDED:
        return 0
    tags, at = _time_place(packed)
    if not tags & _MINUTE_WRITTEN:
        return _time_at(packed, tags, at) // _MINUTE_US
    minute: int = _MINUTE.unpack_from(packed, _behind_times(packed, tags, at) - _MINUTE.size)[0]
    return minute


def _status(packed: bytes) -> int:
    return packed[0] >> _STATUS_SHIFT & 3


def _time_place(packed: bytes) -> tuple[int, int]:
    """The tags of a pair, and the index behind them."""
    at = contribution_size(packed)
    return packed[at], at + 1


def _time_at(packed: bytes, tags: int, at: int) -> int:
    if tags & _LONG:
        return int.from_bytes(packed[at : at + _LONG_TIME]) - _ZERO
    return int.from_bytes(packed[at : at + _TIME])


def _behind_times(packed: bytes, tags: int, at: int) -> int:
    """The index of the sessionId, given that behind the tags."""
    if not packed[0] & _HAS_ATTENDANCE:
        return at
    return at + (_LONG_TIME if tags & _LONG else _TIME) + (_MINUTE.size if tags & _MINUTE_WRITTEN else 0)


def _text_at(packed: bytes, at: int, tags: int, tag: int) -> tuple[str, int]:
    """A text, and the index behind it."""
    if tags & tag:
        return guid(packed[at : at + 16]), at + 16
    start = at + (2 if tags & _LONG else 1)
    end = start + int.from_bytes(packed[at:start])
    return packed[start:end].decode(), end


def _numbers(packed: bytes) -> tuple[int, int, int]:
    """(number, expected, index behind them) of a contribution."""
    if packed[0] & _WIDE:
        return (*_NUMBERS.unpack_from(packed, 1), 1 + _NUMBERS.size)
    return packed[1] >> 4, packed[1] & _NARROW_MOST, 2


@lru_cache(maxsize=50_000)
def _packed_text(text: str) -> tuple[bool, bytes]:
    """Whether it is the text of a GUID, and its bytes, without a length."""
    return (True, guid_bytes(text)) if _is_guid(text) else (False, text.encode())


def _packed_window(window: Listing | None) -> tuple[int, bytes]:
    """Form and bytes of a window."""
    start, end = (None if moment is None else moment // 1000 for moment in window or (None, None))
    if start is None and end is None:
        return _NO_WINDOW, b""
    if start is not None and end is not None:
        length = end - start
        if not start % _MINUTE_MS and not length % _MINUTE_MS:
            minutes, long = start // _MINUTE_MS, length // _MINUTE_MS
            if 0 <= minutes < 1 << _MINUTE_BITS and 0 <= long < 1 << _LENGTH_BITS:
                return _IN_MINUTES, (minutes << _LENGTH_BITS | long).to_bytes(_MINUTES_SIZE)
        if 0 <= start < 1 << 8 * _MS_START and 0 <= length < 1 << 8 * _MS_LENGTH:
            return _IN_MS, start.to_bytes(_MS_START) + length.to_bytes(_MS_LENGTH)
    written = ":".join("" if moment is None else str(moment) for moment in (start, end)).encode()
    return _AS_TEXT, bytes((len(written),)) + written


def _window_text(form: int, packed: bytes, at: int) -> bytes:
    """``<startMs>:<endMs>``."""
    if form == _AS_TEXT:
        return packed[at + 1 : at + 1 + packed[at]]
    if form == _IN_MINUTES:
        both = int.from_bytes(packed[at : at + _MINUTES_SIZE])
        start = (both >> _LENGTH_BITS) * _MINUTE_MS
        return b"%d:%d" % (start, start + (both & (1 << _LENGTH_BITS) - 1) * _MINUTE_MS)
    start = int.from_bytes(packed[at : at + _MS_START])
    return b"%d:%d" % (start, start + int.from_bytes(packed[at + _MS_START : at + _MS_SIZE]))
