"""Orders of attendances: what is left to order by, and what the indexes' keys are that are in an order."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from schemas.attendance import STATUSES, guid, guid_bytes
from schemas.query.request import Filter, Names, Position, QueryField, Sort

Order = tuple[Sort, ...]
"""Sort fields without those that order nothing; the last is the id."""

Key = Any
"""An index entry, so that keys compare as the order does: an id, a by-booking member, or (number, [status,] id)."""

ID, BOOKING, SESSION, STATUS, NUMBER = QueryField
#: Before every id, and behind.
FIRST, BEHIND = b"", b"\xff" * 17
_NUMBERS = 1 << 32
#: Sessions times statuses times ranges of numbers that one script call looks up in a partition.
LOOKUPS_OF_CALL = 300
_SCORE = {status: code * _NUMBERS for code, status in enumerate(STATUSES)}
_CODE = {str(status): code for code, status in enumerate(STATUSES)}


class Scan(NamedTuple):
    """A scan's order as `scan.lua` knows it, and how its keys are read and written."""

    name: str
    keys: Callable[[list[Any]], list[Key]]
    """Of what the script answers."""
    place: Callable[[Key, Filter], Any]
    """Where to begin behind a key, for the script."""
    key: Callable[[Position], Key]
    position: Callable[[Key], Position]
    identity: Callable[[Key], bytes]


def order_by(sort: Iterable[Sort], wanted: Filter) -> Order:
    """What is left to order by: no field that the filter pins, nothing behind the id, which ends every order."""
    found: list[Sort] = []
    last = Sort(ID)
    for last in sort:
        if last.field is ID:
            break
        if pinned(wanted, last.field) is None:
            found.append(last)
    return (*found, Sort(ID, last.descending))


def pinned(wanted: Filter, field: QueryField) -> str | int | None:
    """The one value that the filter leaves a field, None where there may be others."""
    if field is STATUS:
        return str(next(iter(wanted.statuses))) if len(wanted.statuses) == 1 else None
    if field is NUMBER:
        return wanted.numbers[0][0] if len(wanted.numbers) == 1 and wanted.numbers[0][0] == wanted.numbers[0][1] else None
    allowed = {BOOKING: wanted.bookings, SESSION: wanted.sessions}[field].allowed
    return next(iter(allowed)) if allowed is not None and len(allowed) == 1 else None


def pin(wanted: Filter, field: QueryField, values: Sequence[Any]) -> Filter:
    """The filter with one field pinned to values that it allows; numbers are a closed range of those."""
    if field is STATUS:
        return wanted._replace(statuses=frozenset(values))
    if field is SESSION:
        return wanted._replace(sessions=Names(frozenset(values)))
    if field is BOOKING:
        return wanted._replace(bookings=Names(frozenset(values)))
    low, high = min(values), max(values)
    return wanted._replace(numbers=tuple((max(low, a), min(high, b)) for a, b in wanted.numbers if a <= high and b >= low))


def parts(wanted: Filter) -> list[Filter]:
    """Filters of which one each attendance that this one matches matches, each of few sessions, statuses and numbers."""
    most = max(1, LOOKUPS_OF_CALL // len(wanted.statuses))
    found = []
    for start in range(0, len(wanted.numbers), most):
        numbers = wanted.numbers[start : start + most]
        if wanted.sessions.allowed is None:
            found.append(wanted._replace(numbers=numbers))
            continue
        sessions = sorted(wanted.sessions.allowed)
        size = max(1, LOOKUPS_OF_CALL // (len(wanted.statuses) * len(numbers)))
        found += [
            wanted._replace(numbers=numbers, sessions=Names(frozenset(sessions[at : at + size])))
            for at in range(0, len(sessions), size)
        ]
    return found


def weight(wanted: Filter) -> int:
    """What a partition has to look up for it, in sessions: each costs as much as a dozen ranges of an index."""
    sessions = wanted.sessions.allowed
    return max(0 if sessions is None else len(sessions), len(wanted.statuses) * len(wanted.numbers) // 12)


def windows(wanted: Filter) -> list[list[tuple[int, int]]]:
    """For each status in question, ascending, the score ranges of its numbers."""
    return [[(score + low, score + high) for low, high in wanted.numbers] for score in scores(wanted)]


def scores(wanted: Filter) -> list[int]:
    return sorted(_SCORE[status] for status in wanted.statuses)


def passed(value: Any, begin: Any, first: Sort) -> bool:
    """Whether a value comes before another in the order."""
    return bool(value > begin if first.descending else value < begin)


def place_behind(scan: Scan, key: Key | None, wanted: Filter) -> bytes:
    return orjson.dumps(None if key is None else scan.place(key, wanted))


def complete(scan: Scan, segments: list[Any], after: Key | None, descending: bool) -> tuple[list[Key], Key | None]:
    """The keys behind a place up to which all of them are there, and that place; None where these are all."""
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


def _by_id(position: Position) -> bytes:
    return guid_bytes(position.id)


def _of_id(identity: bytes) -> Position:
    spelt = guid(identity)
    return Position((spelt,), spelt)


def _member(position: Position) -> bytes:
    return str(position.values[0]).encode() + b"\0" + guid_bytes(position.id)


def _of_member(member: bytes) -> Position:
    spelt = guid(member[-16:])
    return Position((member[:-17].decode(), spelt), spelt)


def _numbered(entries: list[Any]) -> list[Key]:
    return [(int(score) % _NUMBERS, identity) for score, identity in zip(entries[::2], entries[1::2], strict=True)]


def _numbered_by_status(entries: list[Any]) -> list[Key]:
    return [
        (int(score) % _NUMBERS, int(score) // _NUMBERS, identity)
        for score, identity in zip(entries[::2], entries[1::2], strict=True)
    ]


def _of_number(key: Key) -> Position:
    spelt = guid(key[1])
    return Position((key[0], spelt), spelt)


def _of_number_and_status(key: Key) -> Position:
    spelt = guid(key[2])
    return Position((key[0], str(STATUSES[key[1]]), spelt), spelt)


def _behind_number(key: Key, wanted: Filter) -> Any:
    number, identity = key
    return [[score + number, identity.hex()] for score in scores(wanted)]


def _behind_number_and_status(key: Key, wanted: Filter) -> Any:
    number, status, identity = key
    places = []
    for score in scores(wanted):
        code = score // _NUMBERS
        places.append([score + number, (identity if code == status else BEHIND if code < status else FIRST).hex()])
    return places


def _of_names(name: str) -> Scan:
    return Scan(name, list, lambda key, _: key.hex(), _member, _of_member, lambda key: bytes(key[-16:]))


SCANS = {
    (ID,): Scan("id", list, lambda key, _: key.hex(), _by_id, _of_id, bytes),
    (BOOKING, ID): _of_names("booking"),
    (SESSION, ID): _of_names("session"),
    (NUMBER, ID): Scan(
        "number",
        _numbered,
        _behind_number,
        lambda position: (position.values[0], _by_id(position)),
        _of_number,
        lambda key: bytes(key[1]),
    ),
    (NUMBER, STATUS, ID): Scan(
        "number",
        _numbered_by_status,
        _behind_number_and_status,
        lambda position: (position.values[0], _CODE[str(position.values[1])], _by_id(position)),
        _of_number_and_status,
        lambda key: bytes(key[2]),
    ),
}
