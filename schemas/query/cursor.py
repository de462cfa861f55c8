"""Cursors: where a page begins or ends, with the filter and the sort that it belongs to, as opaque URL-safe text.

Text is base64url of msgpack behind a checksum; GUIDs, which nearly all values are, take 16 bytes. A reader signs it
(`schemas.query.signatures`). What is decoded passes the same rules and limits as what a request spells all the same, so that a
forged cursor would reach no further than a request does.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple
from zlib import crc32

from msgspec import DecodeError, Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from schemas.attendance import STATUSES, Attendance, AttendanceStatus, guid, guid_bytes
from schemas.query.filter import (
    BOOKING,
    ID,
    LONGEST,
    MAX,
    MAX_FILTER_BYTES,
    MAX_LOOKUPS,
    MAX_VALUES,
    MAX_VALUES_OF_OPERATOR,
    NUMBER,
    SESSION,
    STATUS,
    STATUS_OF,
    Filter,
    Names,
    QueryField,
    lookups_of,
    packed_size,
    usable,
    values_of,
)
from schemas.query.signatures import is_signed, sign, unsigned

MAX_SORTS = 2
#: Characters; a filter of the largest size and a position fit.
MAX_CURSOR = 100_000
_CHECKSUM = 4
#: Begins no text, for it is a control character.
_SHORT = b"\0"
_FIELDS = tuple(QueryField)
_CODES = {field: 2 * place for place, field in enumerate(_FIELDS)}
#: Sets of statuses by their bits.
_STATUS_SETS = [frozenset(each for rank, each in enumerate(STATUSES) if bits >> rank & 1) for bits in range(2 ** len(STATUSES))]
_ANY = Names()
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_RANK = {str(status): rank for rank, status in enumerate(STATUSES)}
#: Turns the order of UTF-8 around, whose bytes end at 0xF4, and leaves 0xFF for the end of a text.
_TURNED = bytes(max(0xFE - byte, 0) for byte in range(256))


class Sort(NamedTuple):
    field: QueryField
    descending: bool = False


#: By their packed codes.
_SORTS = [Sort(field, descending) for field in _FIELDS for descending in (False, True)]


class Position(NamedTuple):
    """A place in an order: an attendance's values of the sort fields (a status as its text), then its id."""

    values: tuple[str | int, ...]
    id: str


class Cursor(NamedTuple):
    """Where to go on: behind the position, or before it when ``backwards``; always in the direction of ``sort`` when shown."""

    filter: Filter
    sort: tuple[Sort, ...]
    position: Position
    backwards: bool


def position_of(attendance: Attendance, sort: tuple[Sort, ...]) -> Position:
    """Where an attendance stands in an order."""
    found: Any = attendance
    values = [found[field] for field, _ in sort]
    return Position(tuple([str(each) if type(each) is AttendanceStatus else each for each in values]), attendance["id"])


def order_of(sort: tuple[Sort, ...]) -> Callable[[Position], Any]:
    """The key by which positions are in this order: for `sorted`, `min`, `heapq.merge`.

    Texts go by code points, statuses by their place in `STATUSES`, ties by id in the direction of the last sort field.
    """
    parts = [_part_of(*each) for each in sort]
    last = _part_of(ID, sort[-1].descending)
    if len(parts) == 1:
        only = parts[0]
        return lambda position: (only(position.values[0]), last(position.id))
    return lambda position: (*[part(value) for part, value in zip(parts, position.values, strict=True)], last(position.id))


def _part_of(field: QueryField, descending: bool) -> Callable[[Any], Any]:
    if field is NUMBER:
        return int.__neg__ if descending else int
    if field is STATUS:
        return (lambda status: -_RANK[status]) if descending else _RANK.__getitem__
    return (lambda text: text.encode().translate(_TURNED) + b"\xff") if descending else str


#: UTF-8, or `_SHORT` and a GUID's 16 bytes.
_Text = Annotated[bytes, Meta(min_length=1, max_length=4 * max(LONGEST.values()))]
_Number = Annotated[int, Meta(ge=0, le=MAX)]
#: Whether they are the allowed ones, and which.
_Names = tuple[bool, Annotated[list[_Text], Meta(max_length=MAX_VALUES)]] | None
_Code = Annotated[int, Meta(ge=0, lt=2 * len(_FIELDS))]


class _Packed(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A cursor as it is packed; sort fields as twice their place, one more when descending."""

    version: Literal[1]
    ids: _Names
    bookings: _Names
    sessions: _Names
    statuses: Annotated[int, Meta(ge=0, lt=2 ** len(STATUSES))]
    bounds: Annotated[list[_Number], Meta(max_length=2 * MAX_VALUES + 2)]
    sort: Annotated[list[_Code], Meta(min_length=1, max_length=MAX_SORTS)]
    values: Annotated[list[_Text | _Number], Meta(min_length=1, max_length=MAX_SORTS)]
    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    backwards: bool


_encode = Encoder().encode
_decode = Decoder(_Packed).decode


def encode_cursor(cursor: Cursor, key: bytes | None = None) -> str:
    """Its text, signed where a key is given; at most `MAX_CURSOR` characters where the filter came from a request."""
    wanted, sort, position, backwards = cursor
    packed = _encode(
        _Packed(
            1,
            _pack_names(wanted.ids),
            _pack_names(wanted.bookings),
            _pack_names(wanted.sessions),
            sum([1 << _RANK[status] for status in wanted.statuses]),
            [bound for each in wanted.numbers for bound in each],
            [_CODES[field] + descending for field, descending in sort],
            [_pack(value) if isinstance(value, str) else value for value in position.values],
            guid_bytes(position.id),
            backwards,
        )
    )
    text = urlsafe_b64encode(crc32(packed).to_bytes(_CHECKSUM) + packed).rstrip(b"=").decode()
    return text if key is None else sign(text, key)


def decode_cursor(text: str, key: bytes | None = None) -> Cursor:
    """The cursor of `encode_cursor`.

    Args:
        key: with it the text must be signed; without it a signature is not looked at.

    Raises:
        ValueError: it is none, or breaks a rule that requests have to keep.
    """
    if len(text) > MAX_CURSOR:
        raise ValueError("too long")
    if key is not None and not is_signed(text, key):
        raise ValueError("not signed")
    raw = unsigned(text).encode("ascii")
    both = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    packed = both[_CHECKSUM:]
    # base64 overlooks strange characters and spare bits: only the one right spelling counts
    if urlsafe_b64encode(both).rstrip(b"=") != raw or crc32(packed).to_bytes(_CHECKSUM) != both[:_CHECKSUM]:
        raise ValueError("damaged")
    try:
        found = _decode(packed)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    sort = tuple([_SORTS[code] for code in found.sort])
    if (len(sort) == MAX_SORTS and sort[0].field is sort[1].field) or len(found.values) != len(sort):
        raise ValueError("the sort does not fit the position")
    values = tuple([_value(each.field, value) for each, value in zip(sort, found.values, strict=True)])
    return Cursor(_filter(found), sort, Position(values, guid(found.id)), found.backwards)


def _pack(text: str) -> bytes:
    return _SHORT + guid_bytes(text) if len(text) == 36 and _GUID(text) else text.encode()


def _pack_names(names: Names) -> tuple[bool, list[bytes]] | None:
    if names.allowed is not None:
        return True, [_pack(text) for text in sorted(names.allowed)]
    return (False, [_pack(text) for text in sorted(names.denied)]) if names.denied else None


def _name(field: QueryField, packed: bytes) -> str:
    text = guid(packed[1:]) if len(packed) == 17 and packed.startswith(_SHORT) else packed.decode()
    if usable(field, text) != text:
        raise ValueError(f"no attendance has such a {field.value}")
    return text


def _names(field: QueryField, packed: tuple[bool, list[bytes]] | None) -> Names:
    if packed is None:
        return _ANY
    values = frozenset([_name(field, each) for each in packed[1]])
    return Names(values) if packed[0] else Names(None, values)


def _value(field: QueryField, packed: bytes | int) -> str | int:
    if isinstance(packed, int) is (field is NUMBER):
        if isinstance(packed, int):
            return packed
        if field is not STATUS:
            return _name(field, packed)
        if (status := packed.decode()) in STATUS_OF:
            return status
    raise ValueError(f"no attendance has such a {field.value}")


def _filter(found: _Packed) -> Filter:
    bounds = found.bounds
    numbers = tuple(zip(bounds[::2], bounds[1::2], strict=True))
    if sorted(bounds) != bounds or any(low <= high + 1 for high, low in zip(bounds[1::2], bounds[2::2], strict=False)):
        raise ValueError("ranges touch")
    wanted = Filter(
        _names(ID, found.ids),
        _names(BOOKING, found.bookings),
        _names(SESSION, found.sessions),
        _STATUS_SETS[found.statuses],
        numbers,
    )
    many = any(len(names.allowed or ()) > MAX_VALUES_OF_OPERATOR for names in wanted[:3])
    if many or values_of(wanted) > MAX_VALUES or lookups_of(wanted) > MAX_LOOKUPS or packed_size(wanted) > MAX_FILTER_BYTES:
        raise ValueError("too large")
    return wanted
