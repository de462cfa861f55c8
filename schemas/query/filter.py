"""The normal form of filters of attendances, and how conditions fold into it.

Whatever mix of fields, operators and `$and` a request uses, all its conditions must hold, so that they fold into one set of
allowed or denied values for each field. A value that no attendance can have (an empty bookingId, an id that is no GUID) is
no error: it equals nothing.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from schemas import ids
from schemas.attendance import STATUSES, Attendance, AttendanceStatus

#: The largest number of attendees that an attendance can have.
MAX = 2**32 - 1
#: Of one filter, all conditions together.
MAX_VALUES = 1000
MAX_VALUES_OF_OPERATOR = 100
#: Of one filter, what each partition's indexes are asked for it: see `lookups_of`.
MAX_LOOKUPS = 4000
#: Of the packed values, so that a cursor, which carries its filter, has an end too.
MAX_FILTER_BYTES = 65_536


class QueryField(StrEnum):
    """What attendances are filtered and sorted by; requests may also spell ``sessionId`` ``eventId``."""

    ID = "id"
    BOOKING = "bookingId"
    SESSION = "sessionId"
    STATUS = "status"
    NUMBER = "numberOfAttendees"


# bound once: a member looked up on an enum costs more than what is done with it
ID, BOOKING, SESSION, STATUS, NUMBER = QueryField
#: By their spelling in requests.
FIELDS = {**{field.value: field for field in QueryField}, "eventId": SESSION}
ALL_STATUSES = frozenset(STATUSES)
STATUS_OF = {str(status): status for status in STATUSES}
LONGEST = {BOOKING: ids.MAX_BOOKING_ID, SESSION: ids.MAX_SESSION_ID}

_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_ALLOWING, _DENYING = frozenset({"$eq", "$in", "$hasSome"}), frozenset({"$ne", "$nin"})
_WHOLE = ((0, MAX),)
_NONE: frozenset[Any] = frozenset()
_T = TypeVar("_T")


class Names(NamedTuple):
    """What a filter says of id, bookingId or sessionId, in normal spelling.

    ``allowed`` None lets any value through that is not ``denied``; otherwise only those, and ``denied`` is empty.
    """

    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    def admit(self, name: str) -> bool:
        return name not in self.denied if self.allowed is None else name in self.allowed


_ANY = Names()


class Filter(NamedTuple):
    """All of it must hold; ``Filter()`` matches everything.

    ``numbers`` are closed ranges, ascending, with a gap between one and the next.
    """

    ids: Names = _ANY
    bookings: Names = _ANY
    sessions: Names = _ANY
    statuses: frozenset[AttendanceStatus] = ALL_STATUSES
    numbers: tuple[tuple[int, int], ...] = _WHOLE

    def matches(self, attendance: Attendance) -> bool:
        """Whether the attendance is one that the filter asks for."""
        number = attendance["numberOfAttendees"]
        at = bisect_right(self.numbers, (number, MAX)) - 1
        return (
            at >= 0
            and number <= self.numbers[at][1]
            and attendance["status"] in self.statuses
            and self.sessions.admit(attendance["sessionId"])
            and self.bookings.admit(attendance["bookingId"])
            and self.ids.admit(attendance["id"])
        )

    @property
    def is_empty(self) -> bool:
        """Whether it cannot match anything."""
        ids, bookings, sessions, statuses, numbers = self
        return not statuses or not numbers or _NONE in (ids.allowed, bookings.allowed, sessions.allowed)


#: The one form of all filters that match nothing.
NOTHING = Filter(statuses=frozenset())


class Condition(NamedTuple):
    """What a request asks of a field, its values in normal spelling without those that no attendance can have."""

    field: QueryField
    operator: str
    values: list[Any]


def usable(field: QueryField, text: str) -> str | None:
    """The normal spelling of an id, bookingId or sessionId; None where no attendance can have it."""
    if field is ID:
        return text.lower() if _GUID(text) else None
    return ids.booking_id(text) if field is BOOKING else ids.session_id(text)


def fold(conditions: Iterable[Condition]) -> Filter:
    """The filter that holds where all conditions do; their values are normal."""
    said: dict[QueryField, _Said] = {}
    for field, operator, values in conditions:
        if (one := said.get(field)) is None:
            one = said[field] = _Said()
        one.add(operator, values)
    known = said.get
    found = Filter(
        one.names() if (one := known(ID)) else _ANY,
        one.names() if (one := known(BOOKING)) else _ANY,
        one.names() if (one := known(SESSION)) else _ANY,
        one.among(ALL_STATUSES) if (one := known(STATUS)) else ALL_STATUSES,
        one.ranges() if (one := known(NUMBER)) else _WHOLE,
    )
    return NOTHING if found.is_empty else found


class _Said:
    """What the conditions so far leave of one field's values."""

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

    def among(self, every: frozenset[_T]) -> frozenset[_T]:
        return (every if self.allowed is None else every & self.allowed) - self.denied

    def ranges(self) -> tuple[tuple[int, int], ...]:
        if self.allowed is not None:
            return _joined((n, n) for n in sorted(self.allowed - self.denied) if self.low <= n <= self.high)
        found, low = [], self.low
        for number in sorted(n for n in self.denied if self.low <= n <= self.high):
            found.append((low, number - 1))
            low = number + 1
        return tuple(each for each in (*found, (low, self.high)) if each[0] <= each[1])


def _joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ascending ranges, those that touch made one."""
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        if found and found[-1][1] + 1 == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return tuple(found)


def values_of(wanted: Filter) -> int:
    """How many values a request spells for it at least."""
    names = (wanted.ids, wanted.bookings, wanted.sessions)
    return sum(len(each.allowed or each.denied) for each in names) + max(0, len(wanted.numbers) - 1)


def lookups_of(wanted: Filter) -> int:
    """Sessions that are named, times statuses, times ranges of numbers: each is looked up by itself.

    Where ids or bookings are named, their attendances are read and nothing is looked up.
    """
    if wanted.ids.allowed is not None or wanted.bookings.allowed is not None:
        return 0
    sessions = len(wanted.sessions.denied) + (1 if wanted.sessions.allowed is None else len(wanted.sessions.allowed))
    return sessions * len(wanted.statuses) * len(wanted.numbers)


def packed_size(wanted: Filter) -> int:
    """At most so many bytes a cursor takes for the values; 0 where that is far from any limit."""
    parts = [names.allowed or names.denied for names in (wanted.ids, wanted.bookings, wanted.sessions)]
    ranges = len(wanted.numbers)
    if ranges + sum(map(len, parts)) < 50:
        return 0  # a text has at most 1,000 bytes: nothing to measure
    return sum(len(text.encode()) + 3 for part in parts for text in part) + 10 * ranges
