"""Orders of attendances: how a sort is simplified, and which index keys implement an order."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from schemas.attendance import STATUSES, guid, guid_bytes
from schemas.query.request import Filter, Names, Position, QueryField, Sort
from worker.read_model.keys import member_of_record
from worker.topics import partition_of_key

Order = tuple[Sort, ...]
"""Sort fields without redundant ones; the last is the id."""

Key = Any
"""An index entry that compares in the order: an id; name, NUL and id; or (number, [status,] id)."""

ID, BOOKING, SESSION, STATUS, NUMBER = QueryField
#: Less than, and greater than, every id.
BEFORE_ALL, AFTER_ALL = b"", b"\xff" * 17
_NUMBERS = 1 << 32
_ID_BYTES = 16
_PLACE = Struct(">dB")
#: All partitions of a page begin at one booking.
_owner = lru_cache(maxsize=64)(partition_of_key)
#: Maximum of sessions times statuses times number ranges that one script call looks up in a partition.
LOOKUPS_OF_CALL = 300
_SCORE = {status: code * _NUMBERS for code, status in enumerate(STATUSES)}
_STATUS_CODE = {str(status): code for code, status in enumerate(STATUSES)}


class Scan(NamedTuple):
    """An order of the scan scripts, and the conversions of its keys."""

    name: str
    keys: Callable[[list[Any]], list[Key]]
    """Decodes the entries of a segment."""
    place: Callable[[Key, Filter], bytes]
    """Encodes a key as the place to start after, for the script (see ``lua/scan.lua``)."""
    key: Callable[[Position], Key]
    position: Callable[[Key], Position]
    identity: Callable[[Key], bytes]


def order_by(sort: Iterable[Sort], filter_: Filter) -> Order:
    """Drops the fields that the filter pins to one value, and all fields after the id; appends the id if it is missing."""
    order: list[Sort] = []
    last = Sort(ID)
    for last in sort:
        if last.field is ID:
            break
        if pinned(filter_, last.field) is None:
            order.append(last)
    return (*order, Sort(ID, last.descending))


def pinned(filter_: Filter, field: QueryField) -> str | int | None:
    """The only value of a field that the filter allows; None if there may be others."""
    if field is STATUS:
        return str(next(iter(filter_.statuses))) if len(filter_.statuses) == 1 else None
    if field is NUMBER:
        return filter_.numbers[0][0] if len(filter_.numbers) == 1 and filter_.numbers[0][0] == filter_.numbers[0][1] else None
    allowed = {BOOKING: filter_.bookings, SESSION: filter_.sessions}[field].allowed
    return next(iter(allowed)) if allowed is not None and len(allowed) == 1 else None


def pin(filter_: Filter, field: QueryField, values: Sequence[Any]) -> Filter:
    """The filter with one field restricted to some of its allowed values; numbers to the range that spans the values."""
    if field is STATUS:
        return filter_._replace(statuses=frozenset(values))
    if field is SESSION:
        return filter_._replace(sessions=Names(frozenset(values)))
    if field is BOOKING:
        return filter_._replace(bookings=Names(frozenset(values)))
    low, high = min(values), max(values)
    return filter_._replace(numbers=tuple((max(low, a), min(high, b)) for a, b in filter_.numbers if a <= high and b >= low))


def split_filter(filter_: Filter) -> list[Filter]:
    """Splits a filter into disjoint filters that a script call can look up; see `LOOKUPS_OF_CALL`."""
    range_count = max(1, LOOKUPS_OF_CALL // len(filter_.statuses))
    parts = []
    for start in range(0, len(filter_.numbers), range_count):
        numbers = filter_.numbers[start : start + range_count]
        if filter_.sessions.allowed is None:
            parts.append(filter_._replace(numbers=numbers))
            continue
        sessions = sorted(filter_.sessions.allowed)
        size = max(1, LOOKUPS_OF_CALL // (len(filter_.statuses) * len(numbers)))
        parts += [
            filter_._replace(numbers=numbers, sessions=Names(frozenset(sessions[at : at + size])))
            for at in range(0, len(sessions), size)
        ]
    return parts


def weight(filter_: Filter) -> int:
    """The cost of a filter's lookups in a partition, in sessions. A session costs as much as a dozen ranges of an index."""
    sessions = filter_.sessions.allowed
    return max(0 if sessions is None else len(sessions), len(filter_.statuses) * len(filter_.numbers) // 12)


def score_ranges(filter_: Filter) -> list[list[tuple[int, int]]]:
    """For each status of the filter, ascending, the score ranges of its numbers."""
    return [[(score + low, score + high) for low, high in filter_.numbers] for score in scores(filter_)]


def scores(filter_: Filter) -> list[int]:
    return sorted(_SCORE[status] for status in filter_.statuses)


def is_before(value: Any, other: Any, sort: Sort) -> bool:
    """Whether a value precedes another in the order of a sort field."""
    return bool(value > other if sort.descending else value < other)


def encode_place(scan: Scan, key: Key | None, filter_: Filter, number: int, partitions: int) -> bytes:
    """The place to start after in a partition, for the script; None: the begin."""
    if key is None:
        return b""
    name, _, identity = key.partition(b"\0") if scan.name == "booking" else (b"", b"", b"")
    if len(identity) == _ID_BYTES and _owner(name, partitions) == number:
        return bytes(key + member_of_record(name)[-2:])
    return scan.place(key, filter_)


def complete_keys(scan: Scan, segments: list[Any], after: Key | None, descending: bool) -> tuple[list[Key], Key | None]:
    """The keys between ``after`` and the first end of a segment, and that end; None if every segment is complete."""
    keys: list[Key] = []
    bounds = []
    for end, *entries in segments:
        keys += scan.keys(entries)
        if end:
            bounds.append(scan.keys(end.split(b" ", 1) if scan.name == "number" else [end])[0])
    if descending:
        bound = max(bounds, default=None)
        return [key for key in keys if (after is None or key < after) and (bound is None or key >= bound)], bound
    bound = min(bounds, default=None)
    return [key for key in keys if (after is None or key > after) and (bound is None or key <= bound)], bound


def _id_bytes(position: Position) -> bytes:
    return guid_bytes(position.id)


def _position_of_id(identity: bytes) -> Position:
    guid_text = guid(identity)
    return Position((guid_text,), guid_text)


def _member_of(position: Position) -> bytes:
    return str(position.values[0]).encode() + b"\0" + guid_bytes(position.id)


def _position_of_member(member: bytes) -> Position:
    guid_text = guid(member[-16:])
    return Position((member[:-17].decode(), guid_text), guid_text)


def _number_keys(entries: list[Any]) -> list[Key]:
    return [(int(score) % _NUMBERS, identity) for score, identity in zip(entries[::2], entries[1::2], strict=True)]


def _number_and_status_keys(entries: list[Any]) -> list[Key]:
    return [
        (int(score) % _NUMBERS, int(score) // _NUMBERS, identity)
        for score, identity in zip(entries[::2], entries[1::2], strict=True)
    ]


def _position_of_number(key: Key) -> Position:
    guid_text = guid(key[1])
    return Position((key[0], guid_text), guid_text)


def _position_of_number_and_status(key: Key) -> Position:
    guid_text = guid(key[2])
    return Position((key[0], str(STATUSES[key[1]]), guid_text), guid_text)


def _number_place(key: Key, filter_: Filter) -> bytes:
    number, identity = key
    return b"".join(_score_place(score + number, identity) for score in scores(filter_))


def _number_and_status_place(key: Key, filter_: Filter) -> bytes:
    number, status, identity = key
    places = []
    for score in scores(filter_):
        code = score // _NUMBERS
        places.append(_score_place(score + number, identity if code == status else AFTER_ALL if code < status else BEFORE_ALL))
    return b"".join(places)


def _score_place(score: int, identity: bytes) -> bytes:
    return _PLACE.pack(score, len(identity)) + identity


def _key_place(key: Key, _: Filter) -> bytes:
    return bytes(key)


def _name_scan(name: str) -> Scan:
    return Scan(name, list, _key_place, _member_of, _position_of_member, lambda key: bytes(key[-16:]))


SCANS = {
    (ID,): Scan("id", list, _key_place, _id_bytes, _position_of_id, bytes),
    (BOOKING, ID): _name_scan("booking"),
    (SESSION, ID): _name_scan("session"),
    (NUMBER, ID): Scan(
        "number",
        _number_keys,
        _number_place,
        lambda position: (position.values[0], _id_bytes(position)),
        _position_of_number,
        lambda key: bytes(key[1]),
    ),
    (NUMBER, STATUS, ID): Scan(
        "number",
        _number_and_status_keys,
        _number_and_status_place,
        lambda position: (position.values[0], _STATUS_CODE[str(position.values[1])], _id_bytes(position)),
        _position_of_number_and_status,
        lambda key: bytes(key[2]),
    ),
}
