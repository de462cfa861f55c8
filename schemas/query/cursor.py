"""Cursors: where a page begins or ends, with the filter and the sort of the query, as opaque URL-safe text.

The text is base64url of a checksum and msgpack; GUIDs, which nearly all values are, take 16 bytes. A reader signs it
(`schemas.query.signatures`). A decoded cursor is still checked by the rules and limits of requests, so that a forged one could
do no more than a request.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple
from zlib import crc32

from msgspec import DecodeError, Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from schemas.attendance import STATUSES, Attendance, AttendanceStatus, guid, guid_bytes
from schemas.ids import GUID_LENGTH, is_lower_guid
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
#: Characters: enough for the largest filter and a position.
MAX_CURSOR = 100_000
_CHECKSUM_BYTES = 4
#: Marks a GUID that is packed as 16 bytes: no text begins with a control character.
_GUID_PREFIX = b"\0"
_FIELDS = tuple(QueryField)
_CODES = {field: 2 * place for place, field in enumerate(_FIELDS)}
#: Sets of statuses by bit mask.
_STATUS_SETS = [frozenset(each for rank, each in enumerate(STATUSES) if bits >> rank & 1) for bits in range(2 ** len(STATUSES))]
_ANY = Names()
_RANK = {str(status): rank for rank, status in enumerate(STATUSES)}
#: Reverses the order of UTF-8, whose bytes are at most 0xF4; 0xFF is left to mark the end of a text.
_REVERSED = bytes(max(0xFE - byte, 0) for byte in range(256))


class Sort(NamedTuple):
    field: QueryField
    descending: bool = False


#: Sorts by their packed code.
_SORTS = [Sort(field, descending) for field in _FIELDS for descending in (False, True)]


class Position(NamedTuple):
    """A place in a sort order: an attendance's values of the sort fields (a status as text), then its id."""

    values: tuple[str | int, ...]
    id: str


class Cursor(NamedTuple):
    """Continues a query behind the position, or before it if ``backwards``; a page is in the order of ``sort`` either way."""

    filter: Filter
    sort: tuple[Sort, ...]
    position: Position
    backwards: bool


def position_of(attendance: Attendance, sort: tuple[Sort, ...]) -> Position:
    """The position of an attendance in a sort order."""
    fields: Any = attendance
    values = [fields[field] for field, _ in sort]
    return Position(tuple([str(each) if type(each) is AttendanceStatus else each for each in values]), attendance["id"])


def order_of(sort: tuple[Sort, ...]) -> Callable[[Position], Any]:
    """The key function of positions in this order, for `sorted`, `min` and `heapq.merge`.

    Texts are ordered by code points, statuses by their index in `STATUSES`, ties by id in the direction of the last sort field.
    """
    keys = [_key_of(*each) for each in sort]
    id_key = _key_of(ID, sort[-1].descending)
    if len(keys) == 1:
        key = keys[0]
        return lambda position: (key(position.values[0]), id_key(position.id))
    return lambda position: (*[key(value) for key, value in zip(keys, position.values, strict=True)], id_key(position.id))


def _key_of(field: QueryField, descending: bool) -> Callable[[Any], Any]:
    if field is NUMBER:
        return int.__neg__ if descending else int
    if field is STATUS:
        return (lambda status: -_RANK[status]) if descending else _RANK.__getitem__
    return (lambda text: text.encode().translate(_REVERSED) + b"\xff") if descending else str


#: UTF-8, or `_GUID_PREFIX` and the 16 bytes of a GUID.
_Text = Annotated[bytes, Meta(min_length=1, max_length=4 * max(LONGEST.values()))]
_Number = Annotated[int, Meta(ge=0, le=MAX)]
#: Whether the values are allowed (True) or denied, and the values.
_Names = tuple[bool, Annotated[list[_Text], Meta(max_length=MAX_VALUES)]] | None
_Code = Annotated[int, Meta(ge=0, lt=2 * len(_FIELDS))]


class _Packed(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The packed form of a cursor. A sort is twice the index of its field, plus one if descending."""

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
    """The cursor as text, signed if a key is given; at most `MAX_CURSOR` characters if the filter came from a request."""
    filter_, sort, position, backwards = cursor
    packed = _encode(
        _Packed(
            1,
            _pack_names(filter_.ids),
            _pack_names(filter_.bookings),
            _pack_names(filter_.sessions),
            sum([1 << _RANK[status] for status in filter_.statuses]),
            [bound for each in filter_.numbers for bound in each],
            [_CODES[field] + descending for field, descending in sort],
            [_pack(value) if isinstance(value, str) else value for value in position.values],
            guid_bytes(position.id),
            backwards,
        )
    )
    text = urlsafe_b64encode(crc32(packed).to_bytes(_CHECKSUM_BYTES) + packed).rstrip(b"=").decode()
    return text if key is None else sign(text, key)


def decode_cursor(text: str, key: bytes | None = None) -> Cursor:
    """Decodes the text of `encode_cursor`.

    Args:
        key: the key with which the text must be signed; None does not verify a signature.

    Raises:
        ValueError: the text is not a cursor, or the cursor breaks a rule of requests.
    """
    if len(text) > MAX_CURSOR:
        raise ValueError("too long")
    if key is not None and not is_signed(text, key):
        raise ValueError("not signed")
    raw = unsigned(text).encode("ascii")
    decoded = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    checksum, body = decoded[:_CHECKSUM_BYTES], decoded[_CHECKSUM_BYTES:]
    # base64 ignores foreign characters and spare bits: only the canonical encoding is accepted
    if urlsafe_b64encode(decoded).rstrip(b"=") != raw or crc32(body).to_bytes(_CHECKSUM_BYTES) != checksum:
        raise ValueError("damaged")
    try:
        packed = _decode(body)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    sort = tuple([_SORTS[code] for code in packed.sort])
    if (len(sort) == MAX_SORTS and sort[0].field is sort[1].field) or len(packed.values) != len(sort):
        raise ValueError("the sort does not fit the position")
    values = tuple([_value(each.field, value) for each, value in zip(sort, packed.values, strict=True)])
    return Cursor(_filter(packed), sort, Position(values, guid(packed.id)), packed.backwards)


def _pack(text: str) -> bytes:
    return _GUID_PREFIX + guid_bytes(text) if len(text) == GUID_LENGTH and is_lower_guid(text) else text.encode()


def _pack_names(names: Names) -> tuple[bool, list[bytes]] | None:
    if names.allowed is not None:
        return True, [_pack(text) for text in sorted(names.allowed)]
    return (False, [_pack(text) for text in sorted(names.denied)]) if names.denied else None


def _name(field: QueryField, packed: bytes) -> str:
    text = guid(packed[1:]) if len(packed) == 17 and packed.startswith(_GUID_PREFIX) else packed.decode()
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


def _filter(packed: _Packed) -> Filter:
    bounds = packed.bounds
    numbers = tuple(zip(bounds[::2], bounds[1::2], strict=True))
    if sorted(bounds) != bounds or any(low <= high + 1 for high, low in zip(bounds[1::2], bounds[2::2], strict=False)):
        raise ValueError("ranges touch")
    filter_ = Filter(
        _names(ID, packed.ids),
        _names(BOOKING, packed.bookings),
        _names(SESSION, packed.sessions),
        _STATUS_SETS[packed.statuses],
        numbers,
    )
    all_names = (filter_.ids, filter_.bookings, filter_.sessions)
    if (
        any(len(names.allowed or ()) > MAX_VALUES_OF_OPERATOR for names in all_names)
        or values_of(filter_) > MAX_VALUES
        or lookups_of(filter_) > MAX_LOOKUPS
        or packed_size(filter_) > MAX_FILTER_BYTES
    ):
        raise ValueError("too large")
    return filter_
