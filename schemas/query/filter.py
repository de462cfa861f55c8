"""The normal form of a filter of attendances, and how conditions combine into it.

All conditions of a request must hold, whatever fields, operators and `$and` it uses. So they combine into one set of allowed or
denied values for each field. A value that no attendance can have (an empty bookingId, an id that is not a GUID) is not an
error: it matches nothing.
"""

from bisect import bisect_right
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from schemas import ids
from schemas.attendance import STATUSES, Attendance, AttendanceStatus

#: The largest number of attendees that an attendance can have.
MAX = 2**32 - 1
#: Of one filter, in all conditions together.
MAX_VALUES = 1000
MAX_VALUES_OF_OPERATOR = 100
#: Lookups of one filter in the indexes of each partition, see `lookups_of`.
MAX_LOOKUPS = 4000
#: Of the packed values; it bounds a cursor, which carries the filter.
MAX_FILTER_BYTES = 65_536


class QueryField(StrEnum):
    """Fields to filter and sort attendances by; a request may write ``eventId`` for ``sessionId``."""

    ID = "id"
    BOOKING = "bookingId"
    SESSION = "sessionId"
    STATUS = "status"
    NUMBER = "numberOfAttendees"


# bound once: looking up an enum member costs more than its use
ID, BOOKING, SESSION, STATUS, NUMBER = QueryField
#: Fields by their name in requests.
FIELDS = {**{field.value: field for field in QueryField}, "eventId": SESSION}
ALL_STATUSES = frozenset(STATUSES)
STATUS_OF = {str(status): status for status in STATUSES}
LONGEST = {BOOKING: ids.MAX_BOOKING_ID, SESSION: ids.MAX_SESSION_ID}

_ALLOWING, _DENYING = frozenset({"$eq", "$in", "$hasSome"}), frozenset({"$ne", "$nin"})
_ALL_NUMBERS = ((0, MAX),)
_NO_VALUES: frozenset[Any] = frozenset()
_T = TypeVar("_T")


class Names(NamedTuple):
    """The values of id, bookingId or sessionId that a filter admits, normalised.

    ``allowed`` None admits any value that is not ``denied``; otherwise only ``allowed`` ones, and ``denied`` is empty.
    """

    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    def admit(self, name: str) -> bool:
        return name not in self.denied if self.allowed is None else name in self.allowed


_ANY = Names()


class Filter(NamedTuple):
    """All fields must match; ``Filter()`` matches everything.

    ``numbers`` are closed ranges, ascending, with a gap between neighbours.
    """

    ids: Names = _ANY
    bookings: Names = _ANY
    sessions: Names = _ANY
    statuses: frozenset[AttendanceStatus] = ALL_STATUSES
    numbers: tuple[tuple[int, int], ...] = _ALL_NUMBERS

    def matches(self, attendance: Attendance) -> bool:
        """Whether the filter matches the attendance."""
        number = attendance["numberOfAttendees"]
        index = bisect_right(self.numbers, (number, MAX)) - 1
        return (
            index >= 0
            and number <= self.numbers[index][1]
            and attendance["status"] in self.statuses
            and self.sessions.admit(attendance["sessionId"])
            and self.bookings.admit(attendance["bookingId"])
            and self.ids.admit(attendance["id"])
        )

    @property
    def is_empty(self) -> bool:
        """Whether it cannot match anything."""
        ids, bookings, sessions, statuses, numbers = self
        return not statuses or not numbers or _NO_VALUES in (ids.allowed, bookings.allowed, sessions.allowed)


#: The normal form of every filter that matches nothing.
NOTHING = Filter(statuses=frozenset())


class Condition(NamedTuple):
    """A condition of a request; its values are normalised, without those that no attendance can have."""

    field: QueryField
    operator: str
    values: list[Any]


def usable(field: QueryField, text: str) -> str | None:
    """The normal form of an id, bookingId or sessionId; None if no attendance can have it."""
    if field is ID:
        return text.lower() if ids.is_guid(text) else None
    return ids.booking_id(text) if field is BOOKING else ids.session_id(text)


def combine(conditions: Iterable[Condition]) -> Filter:
    """The filter that matches where all conditions hold."""
    by_field: dict[QueryField, _FieldValues] = {}
    for field, operator, values in conditions:
        if (admitted := by_field.get(field)) is None:
            admitted = by_field[field] = _FieldValues()
        admitted.add(operator, values)
    get = by_field.get
    combined = Filter(
        admitted.names() if (admitted := get(ID)) else _ANY,
        admitted.names() if (admitted := get(BOOKING)) else _ANY,
        admitted.names() if (admitted := get(SESSION)) else _ANY,
        admitted.among(ALL_STATUSES) if (admitted := get(STATUS)) else ALL_STATUSES,
        admitted.ranges() if (admitted := get(NUMBER)) else _ALL_NUMBERS,
    )
    return NOTHING if combined.is_empty else combined


class _FieldValues:
    """The values of one field that the conditions added so far admit."""

    __slots__ = ("allowed", "denied", "high", "low")

    def __init__(self) -> None:
        self.allowed: set[Any] | None = None
        self.denied: set[Any] = set()
        self.low, self.high = 0, MAX

    def add(self, operator: str, values: list[Any]) -> None:
        if operator in _ALLOWING:
            self.allowed = set(values) if self.allowed is None else self.allowed.intersection(values)
        elif operator in _DENYING:
            self.denied.update(values)
        elif operator in ("$lt", "$lte"):
            self.high = min(self.high, values[0] - (operator == "$lt"))
        else:
            self.low = max(self.low, values[0] + (operator == "$gt"))

    def names(self) -> Names:
        if self.allowed is None:
            return Names(None, frozenset(self.denied))
        return Names(frozenset(self.allowed - self.denied))

    def among(self, values: frozenset[_T]) -> frozenset[_T]:
        return (values if self.allowed is None else values & self.allowed) - self.denied

    def ranges(self) -> tuple[tuple[int, int], ...]:
        if self.allowed is not None:
            return _joined((n, n) for n in sorted(self.allowed - self.denied) if self.low <= n <= self.high)
        ranges, low = [], self.low
        for number in sorted(n for n in self.denied if self.low <= n <= self.high):
            ranges.append((low, number - 1))
            low = number + 1
        ranges.append((low, self.high))
        return tuple((low, high) for low, high in ranges if low <= high)


def _joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Merges adjacent ranges; they are ascending."""
    joined: list[tuple[int, int]] = []
    for low, high in ranges:
        if joined and joined[-1][1] + 1 == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return tuple(joined)


def values_of(filter_: Filter) -> int:
    """The least number of values with which a request can write the filter."""
    names = (filter_.ids, filter_.bookings, filter_.sessions)
    return sum(len(each.allowed or each.denied) for each in names) + max(0, len(filter_.numbers) - 1)


def lookups_of(filter_: Filter) -> int:
    """The number of index lookups: named sessions times statuses times ranges of numbers.

    If ids or bookings are named, there are none: their attendances are read directly.
    """
    if filter_.ids.allowed is not None or filter_.bookings.allowed is not None:
        return 0
    sessions = len(filter_.sessions.denied) + (1 if filter_.sessions.allowed is None else len(filter_.sessions.allowed))
    return sessions * len(filter_.statuses) * len(filter_.numbers)


def packed_size(filter_: Filter) -> int:
    """An upper bound of the bytes that the values take in a cursor; 0 if that is far below any limit."""
    parts = [names.allowed or names.denied for names in (filter_.ids, filter_.bookings, filter_.sessions)]
    ranges = len(filter_.numbers)
    if ranges + sum(map(len, parts)) < 50:
        return 0  # a text has at most 1,000 bytes
    return sum(len(text.encode()) + 3 for part in parts for text in part) + 10 * ranges
