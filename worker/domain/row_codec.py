"""A session's row as bytes: as it rests in tables and changelogs, and as it is folded and looked at in place.

A worker holds hundreds of thousands of rows. As one piece of bytes each they take a quarter of the memory that tuples of
tuples take, and an event touches few of them, so nothing is unpacked that is not changed.

Big endian: format (1), mask of the alerts ever open (1), horizon (8, microseconds), where each of base, newest, attended,
missed and settled is (half a byte each: 0 nowhere, 15 spelt out, n in the place of the nth of them), what the base says
(5); then the marks that are spelt out, in that order: order key (32), source after its length (2).

What a base or an attendance *says* is 5 bytes: its status by its place in `STATUSES`, and its number (4).
"""

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from schemas.attendance import STATUSES, AttendanceStatus
from schemas.events import Event
from schemas.packing import LENGTH, pack_known_text, unpack_text
from worker.domain.fold import CHECK_IN, NEVER, NOTHING, Base, Mark, Row, digest, pack_times

FORMAT = 3

_HEAD = Struct(">BBq3sBI")
_FIRST = _HEAD.size
"""Where the first mark is."""
_TIMES = 24
"""Bytes of an order key before its digest."""
_FIRST_DIGEST, _FIRST_SOURCE = _FIRST + _TIMES, _FIRST + 32
_MARK_KEY = 32
_HORIZON, _PLACES, _SAID = 2, 10, 13
_SAYS = Struct(">BI")
_unpack_says, pack_says = _SAYS.unpack, _SAYS.pack
_length = LENGTH.unpack_from
_CODE_OF = {str(status): code for code, status in enumerate(STATUSES)}
_ABSENT, _SPELT_OUT = 0, 15


def _shape(places: str) -> bytes:
    """No horizon, and these places of base, newest, attended, missed and settled."""
    return NEVER.to_bytes(8, "big", signed=True) + bytes.fromhex("0" + places)


#: Horizon and places of nearly all rows: the newest report is the base, and there may be an older one of the opposite.
_CAME, _CAME_BUT, _MISSED, _MISSED_BUT = map(_shape, ("f1100", "f11f0", "f1010", "f1f10"))
#: Of those: whether the newest says that somebody came, and whether there is the other.
_PLAIN = {_CAME: (True, False), _CAME_BUT: (True, True), _MISSED: (False, False), _MISSED_BUT: (False, True)}
#: Format, mask, horizon and places of the row that a first report makes: nobody came, somebody did.
_NEW = tuple(bytes((FORMAT, 0)) + shape for shape in (_MISSED, _CAME))
_SAYS_CAME, _SAYS_MISSED = pack_says(0, 1), pack_says(1, 0)


class OtherFormat(Exception):
    """A row was written by another version of this software; no retry helps, the operator runs that one."""

    def __init__(self, found: int) -> None:
        super().__init__(
            f"a table row has format {found}, this worker writes {FORMAT}: set a new ATTENDANCE_TOPIC_PREFIX and publish "
            "again, or run the version that wrote the row"
        )


class Seen(NamedTuple):
    """An attendance without its ids."""

    status: AttendanceStatus
    number: int
    updated: bytes
    """8 bytes that compare as times do; `fold.effective_time` reads them."""
    source: bytes
    """UTF-8 after its length of two bytes."""


def check(form: int) -> None:
    """Raises OtherFormat."""
    if form != FORMAT:
        raise OtherFormat(form)


def encode(row: Row, ever: int) -> bytes:
    """A row, given the mask of alerts ever open; marks that are the same event are written once."""
    horizon, base, *rest = row
    codes = 0
    marks: list[Mark | None] = []
    body: list[bytes] = []
    for mark in (base.mark if base else None, *rest):
        code = _ABSENT if mark is None else marks.index(mark) + 1 if mark in marks else _SPELT_OUT
        codes = codes << 4 | code
        marks.append(mark)
        if mark is not None and code == _SPELT_OUT:
            body += (mark.key, pack_known_text(mark.source))
    status, number = (_CODE_OF[base.status], base.number) if base else (0, 0)
    head = _HEAD.pack(FORMAT, ever, horizon, codes.to_bytes(3, "big"), status, number)
    return b"".join((head, *body))


def decode(packed: bytes) -> tuple[Row, int]:
    """(row, mask of alerts ever open)."""
    form, ever, horizon, _, status, number = _HEAD.unpack_from(packed)
    check(form)
    marks = [_mark(packed, at) if at else None for at in _marks(packed)]
    base = Base(marks[0], STATUSES[status], number) if marks[0] else None
    return Row(horizon, base, *marks[1:]), ever


EMPTY = encode(NOTHING, 0)
"""The row of what nobody said anything of."""


def fold_report(packed: bytes, event: Event, tolerance: int) -> bytes | None:
    """`fold.fold` of one check_in or no_show where nothing else was ever said, and nobody was scanned, in place.

    Args:
        packed: the row before.
        tolerance: of clocks, microseconds.

    Returns:
        The row after, the same object if the event adds nothing; None where the row holds more than such reports.
    """
    kind, _, _, time, source, _, _, number, _, received = event
    came, times = kind == CHECK_IN, pack_times(time, received, tolerance)
    plain = _PLAIN.get(packed[_HORIZON:_SAID])
    if plain is None:
        if packed is not EMPTY and packed != EMPTY:
            return None
        return b"".join((_NEW[came], _says(came, number), times, digest(event), pack_known_text(source)))
    newest_came, has_other = plain
    if came is newest_came:
        if times < packed[_FIRST:_FIRST_DIGEST]:
            return packed  # most late copies end here, before the digest is made
        key = times + digest(event)
        if key <= packed[_FIRST:_FIRST_SOURCE]:
            return packed
        other = packed[_second(packed) :] if has_other else b""
        return b"".join((packed[:_SAID], _says(came, number), key, pack_known_text(source), other))
    end = _second(packed)
    if has_other and times < packed[end : end + _TIMES]:
        return packed
    key = times + digest(event)
    if has_other and key <= packed[end : end + _MARK_KEY]:
        return packed
    newest = packed[_FIRST:end]
    if key > newest:  # its key comes first in it, and no two events have the same
        shape = _CAME_BUT if came else _MISSED_BUT
        return b"".join((packed[:_HORIZON], shape, _says(came, number), key, pack_known_text(source), newest))
    shape = _CAME_BUT if newest_came else _MISSED_BUT
    return b"".join((packed[:_HORIZON], shape, packed[_SAID:end], key, pack_known_text(source)))


def with_ever(packed: bytes, mask: int) -> bytes:
    """The row, knowing that these alerts were open too."""
    ever = packed[1] | mask
    return packed if ever == packed[1] else b"%c%c%b" % (FORMAT, ever, packed[2:])


def ever_of(packed: bytes) -> int:
    """Mask of the alerts that were ever open."""
    return packed[1]


def says(packed: bytes, participants: int) -> bytes:
    """What the attendance of a row says with so many participants scanned; empty where there is no attendance."""
    said = packed[_SAID:_FIRST] if packed[_PLACES] else b""
    if not participants:
        return said
    status, number = _unpack_says(said) if said else (0, 0)
    return pack_says(0, max(participants, number) if status == 0 else participants)


def said_by(rows: Mapping[str, bytes]) -> dict[str, bytes]:
    """`says` of all rows, by session, where nobody was ever scanned."""
    return {name: row[_SAID:_FIRST] for name, row in rows.items() if row[_PLACES]}


def see(packed: bytes, said: bytes) -> Seen | None:
    """The attendance of a row that says this."""
    newest = newest_of(packed)
    if not said or not newest:
        return None
    status, number = _unpack_says(said)
    return Seen(STATUSES[status], number, packed[newest : newest + 8], source_of(packed, newest))


def newest_of(packed: bytes) -> int:
    """Where the newest mark is, 0 where there is none."""
    newest = packed[_PLACES + 1] >> 4
    if newest == _SPELT_OUT and packed[_PLACES]:
        return _second(packed)
    return _FIRST if newest else 0


def newest_key(packed: bytes) -> bytes:
    """The order key of the newest mark, empty where there is none."""
    newest = newest_of(packed)
    return packed[newest : newest + _MARK_KEY] if newest else b""


def source_of(packed: bytes, mark: int) -> bytes:
    """The source of the mark there, after its length."""
    source = mark + _MARK_KEY
    end: int = source + LENGTH.size + _length(packed, source)[0]
    return packed[source:end]


def opposed(packed: bytes) -> tuple[int, int] | None:
    """Where the newest report that somebody came is, and the newest that nobody did; None where one of them is not."""
    plain = _PLAIN.get(packed[_HORIZON:_SAID])
    if plain is not None:
        if not plain[1]:
            return None
        return (_FIRST, _second(packed)) if plain[0] else (_second(packed), _FIRST)
    _, _, came, missed, _ = _marks(packed)
    return (came, missed) if came and missed else None


def _says(came: bool, number: int | None) -> bytes:
    """What the base says that a report makes."""
    if number is None:
        return _SAYS_CAME if came else _SAYS_MISSED
    return pack_says(0 if came else 1, number)


def _second(packed: bytes) -> int:
    """Where the second mark is, or the end."""
    length: int = _length(packed, _FIRST_SOURCE)[0]
    return _FIRST_SOURCE + LENGTH.size + length


def _marks(packed: bytes) -> list[int]:
    """Where base, newest, attended, missed and settled are, 0: nowhere."""
    at, places = _FIRST, int.from_bytes(packed[_PLACES:_SAID], "big")
    found: list[int] = []
    for shift in (16, 12, 8, 4, 0):
        code = places >> shift & 15
        found.append(at if code == _SPELT_OUT else found[code - 1] if code else 0)
        if code == _SPELT_OUT:
            source = at + _MARK_KEY
            at = source + LENGTH.size + _length(packed, source)[0]
    return found


def _mark(packed: bytes, at: int) -> Mark:
    source, _ = unpack_text(packed, at + _MARK_KEY)
    return Mark(packed[at : at + _MARK_KEY], source.decode())
