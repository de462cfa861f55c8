"""From a request's filter to conditions: every rejected thing names its place, the operator and what is allowed."""

from typing import Any, NoReturn

from schemas.attendance import STATUSES
from schemas.query.filter import (
    FIELDS,
    MAX_FILTER_BYTES,
    MAX_LOOKUPS,
    MAX_VALUES,
    MAX_VALUES_OF_OPERATOR,
    NUMBER,
    STATUS,
    STATUS_OF,
    Condition,
    Filter,
    QueryField,
    fold,
    lookups_of,
    packed_size,
    usable,
)
from schemas.query.violations import QueryError, Refusals, Rule, Violation, shown, spelled

MAX_CONDITIONS = 100
MAX_DEPTH = 5
FIELD_NAMES = "id, bookingId, sessionId (or eventId), status, numberOfAttendees"
_LISTS = frozenset({"$in", "$nin", "$hasSome"})
_EQUALITY = ("$eq", "$ne", *sorted(_LISTS))
_OPERATORS = dict.fromkeys(QueryField, _EQUALITY) | {NUMBER: (*_EQUALITY, "$lt", "$lte", "$gt", "$gte")}
_KINDS = dict.fromkeys(QueryField, "text") | {
    STATUS: "one of " + ", ".join(STATUSES),
    NUMBER: "an integer",
}


def parse_filter(document: object, *, first_filter_only: bool = False, path: str = "filter") -> Filter:
    """A filter in normal form; filters that mean the same are equal, but for statuses and numbers that ids imply.

    Args:
        document: decoded JSON; None matches everything.
        first_filter_only: honour the first condition alone; the others are checked all the same.
        path: how findings name the document.

    Raises:
        QueryError: with everything that is wrong, up to a bound.
    """
    if document is None:
        return Filter()
    reading = _Reading()
    reading.read(document, path, 0)
    reading.refusals.settle()
    found = fold(reading.conditions[:1] if first_filter_only else reading.conditions)
    if packed_size(found) > MAX_FILTER_BYTES:
        raise QueryError(
            [Violation(path, f"holds more than {MAX_FILTER_BYTES} bytes of values; ask for fewer", Rule.TOO_LARGE)]
        )
    if lookups_of(found) > MAX_LOOKUPS:
        said = f"sessions times statuses times numbers (or ranges of numbers) are more than {MAX_LOOKUPS}; name fewer of these"
        raise QueryError([Violation(path, said, Rule.TOO_LARGE)])
    return found


class _Reading:
    """Gathers the conditions of a filter in the order of the document."""

    def __init__(self) -> None:
        self.refusals = Refusals()
        self.conditions: list[Condition] = []
        self._objects = self._values = self._count = 0

    def read(self, document: object, path: str, depth: int) -> None:
        """A filter object."""
        if not isinstance(document, dict):
            self.refusals.add(path, f"must be an object of filters; this is {shown(document)}", Rule.WRONG_TYPE)
            return
        for key, said in document.items():
            where = f"{path}.{key}"
            if (field := FIELDS.get(key)) is not None:
                self._read_field(field, said, where)
            elif key == "$and":
                self._read_all_of(said, where, depth)
            elif key.startswith("$"):
                allowed = f'unknown operator "{spelled(key)}"; filters are combined with $and only'
                self.refusals.add(f"{path}.{spelled(key)}", allowed, Rule.UNKNOWN_OPERATOR)
            else:
                allowed = f'unknown field "{spelled(key)}"; filter by {FIELD_NAMES}, or combine filters with $and'
                self.refusals.add(f"{path}.{spelled(key)}", allowed, Rule.UNKNOWN_FIELD)

    def _read_all_of(self, said: object, where: str, depth: int) -> None:
        if not isinstance(said, list):
            self.refusals.add(where, f"$and takes a list of filter objects; this is {shown(said)}", Rule.WRONG_TYPE)
        elif depth == MAX_DEPTH:
            self.refusals.add(where, f"$and may be nested {MAX_DEPTH} deep; write the filters side by side", Rule.TOO_DEEP)
        else:
            self._objects += len(said)
            if self._objects > MAX_CONDITIONS:
                self._end(where, MAX_CONDITIONS, "filter objects under $and")
            for index, each in enumerate(said):
                self.read(each, f"{where}.{index}", depth + 1)

    def _read_field(self, field: QueryField, said: object, where: str) -> None:
        if not isinstance(said, dict):
            self._read_condition(field, "$eq", said, where)
            return
        if not said:
            self.refusals.add(where, f"lacks an operator; use {_operators(field)}", Rule.REQUIRED)
        for operator, value in said.items():
            if operator in _OPERATORS[field]:
                self._read_condition(field, operator, value, f"{where}.{operator}")
            else:
                allowed = f'{field.value} has no operator "{spelled(operator)}"; use {_operators(field)}'
                self.refusals.add(f"{where}.{spelled(operator)}", allowed, Rule.UNKNOWN_OPERATOR)

    def _read_condition(self, field: QueryField, operator: str, said: Any, where: str) -> None:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            self._end(where, MAX_CONDITIONS, "conditions")
        single = operator not in _LISTS
        if single:
            said = [said]
        elif not isinstance(said, list):
            takes = f"{field.value} {operator} takes a list, each {_KINDS[field]}; this is {shown(said)}"
            self.refusals.add(where, takes, Rule.WRONG_TYPE)
            return
        elif len(said) > MAX_VALUES_OF_OPERATOR:
            many = f"{field.value} {operator} takes at most {MAX_VALUES_OF_OPERATOR} values; these are {len(said)}"
            self.refusals.add(where, many, Rule.TOO_MANY)
            return
        self._values += len(said)
        if self._values > MAX_VALUES:
            self._end(where, MAX_VALUES, "values")
        self.conditions.append(Condition(field, operator, self._accepted(field, operator, said, where, single=single)))

    def _accepted(self, field: QueryField, operator: str, said: list[Any], where: str, *, single: bool) -> list[Any]:
        """The values in normal spelling, without those that no attendance can have."""
        values: list[Any] = []
        for index, value in enumerate(said):
            if not _fits(field, value):
                self._refuse_value(field, operator, value, where if single else f"{where}.{index}")
            elif field is NUMBER:
                values.append(value)
            elif (known := STATUS_OF[value] if field is STATUS else usable(field, value)) is not None:
                values.append(known)
        return values

    def _refuse_value(self, field: QueryField, operator: str, value: object, where: str) -> None:
        unknown = field is STATUS and isinstance(value, str)
        takes = f"{field.value} {operator} takes {_KINDS[field]}{'; $in takes several' if isinstance(value, list) else ''}"
        self.refusals.add(where, f"{takes}; this is {shown(value)}", Rule.UNKNOWN_VALUE if unknown else Rule.WRONG_TYPE)

    def _end(self, where: str, most: int, what: str) -> NoReturn:
        """Reads no further."""
        self.refusals.found.append(Violation(where, f"a filter has at most {most} {what}", Rule.TOO_MANY.value))
        raise QueryError(self.refusals.found)


def _fits(field: QueryField, value: object) -> bool:
    if field is NUMBER:
        return type(value) is int  # to isinstance true is an integer too
    return isinstance(value, str) and (field is not STATUS or value in STATUS_OF)


def _operators(field: QueryField) -> str:
    return ", ".join(_OPERATORS[field])
