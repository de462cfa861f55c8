"""Parses the filter of a request to conditions; every violation names the path, the operator and what is allowed."""

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
    combine,
    lookups_of,
    packed_size,
    usable,
)
from schemas.query.violations import QueryError, Rule, Violation, Violations, shown, spelled

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
    """A filter in normal form. Filters of the same meaning are equal, except for statuses and numbers that ids imply.

    Args:
        document: decoded JSON; None matches everything.
        first_filter_only: apply the first condition only; the others are validated too.
        path: the path of the document in violations.

    Raises:
        QueryError: with all violations, up to `MOST_VIOLATIONS`.
    """
    if document is None:
        return Filter()
    reader = _FilterReader()
    reader.read(document, path, 0)
    reader.violations.raise_if_any()
    filter_ = combine(reader.conditions[:1] if first_filter_only else reader.conditions)
    if packed_size(filter_) > MAX_FILTER_BYTES:
        raise QueryError(
            [Violation(path, f"has more than {MAX_FILTER_BYTES} bytes of values; use fewer values", Rule.TOO_LARGE)]
        )
    if lookups_of(filter_) > MAX_LOOKUPS:
        description = f"sessions times statuses times numbers (or ranges of numbers) exceed {MAX_LOOKUPS}; use fewer of them"
        raise QueryError([Violation(path, description, Rule.TOO_LARGE)])
    return filter_


class _FilterReader:
    """Collects the conditions of a filter in the order of the document."""

    def __init__(self) -> None:
        self.violations = Violations()
        self.conditions: list[Condition] = []
        self._objects = self._values = self._count = 0

    def read(self, document: object, path: str, depth: int) -> None:
        """Reads a filter object."""
        if not isinstance(document, dict):
            self.violations.add(path, f"must be an object of filters; this is {shown(document)}", Rule.WRONG_TYPE)
            return
        for key, value in document.items():
            field_path = f"{path}.{key}"
            if (field := FIELDS.get(key)) is not None:
                self._read_field(field, value, field_path)
            elif key == "$and":
                self._read_and(value, field_path, depth)
            elif key.startswith("$"):
                unknown = f'unknown operator "{spelled(key)}"; filters are combined with $and only'
                self.violations.add(f"{path}.{spelled(key)}", unknown, Rule.UNKNOWN_OPERATOR)
            else:
                unknown = f'unknown field "{spelled(key)}"; filter by {FIELD_NAMES}, or combine filters with $and'
                self.violations.add(f"{path}.{spelled(key)}", unknown, Rule.UNKNOWN_FIELD)

    def _read_and(self, value: object, path: str, depth: int) -> None:
        if not isinstance(value, list):
            self.violations.add(path, f"$and takes a list of filter objects; this is {shown(value)}", Rule.WRONG_TYPE)
        elif depth == MAX_DEPTH:
            self.violations.add(
                path, f"$and may be nested at most {MAX_DEPTH} levels deep; combine the filters in one list", Rule.TOO_DEEP
            )
        else:
            self._objects += len(value)
            if self._objects > MAX_CONDITIONS:
                self._stop(path, MAX_CONDITIONS, "filter objects under $and")
            for index, each in enumerate(value):
                self.read(each, f"{path}.{index}", depth + 1)

    def _read_field(self, field: QueryField, value: object, path: str) -> None:
        if not isinstance(value, dict):
            self._read_condition(field, "$eq", value, path)
            return
        if not value:
            self.violations.add(path, f"lacks an operator; use {_operators(field)}", Rule.REQUIRED)
        for operator, operand in value.items():
            if operator in _OPERATORS[field]:
                self._read_condition(field, operator, operand, f"{path}.{operator}")
            else:
                unknown = f'{field.value} has no operator "{spelled(operator)}"; use {_operators(field)}'
                self.violations.add(f"{path}.{spelled(operator)}", unknown, Rule.UNKNOWN_OPERATOR)

    def _read_condition(self, field: QueryField, operator: str, value: Any, path: str) -> None:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            self._stop(path, MAX_CONDITIONS, "conditions")
        is_single = operator not in _LISTS
        if is_single:
            value = [value]
        elif not isinstance(value, list):
            takes = f"{field.value} {operator} takes a list, each {_KINDS[field]}; this is {shown(value)}"
            self.violations.add(path, takes, Rule.WRONG_TYPE)
            return
        elif len(value) > MAX_VALUES_OF_OPERATOR:
            takes = f"{field.value} {operator} takes at most {MAX_VALUES_OF_OPERATOR} values; these are {len(value)}"
            self.violations.add(path, takes, Rule.TOO_MANY)
            return
        self._values += len(value)
        if self._values > MAX_VALUES:
            self._stop(path, MAX_VALUES, "values")
        self.conditions.append(Condition(field, operator, self._normalised(field, operator, value, path, is_single=is_single)))

    def _normalised(self, field: QueryField, operator: str, values: list[Any], path: str, *, is_single: bool) -> list[Any]:
        """The values in normal form, without those that no attendance can have."""
        normalised: list[Any] = []
        for index, value in enumerate(values):
            if not _fits(field, value):
                self._reject_value(field, operator, value, path if is_single else f"{path}.{index}")
            elif field is NUMBER:
                normalised.append(value)
            elif (normal := STATUS_OF[value] if field is STATUS else usable(field, value)) is not None:
                normalised.append(normal)
        return normalised

    def _reject_value(self, field: QueryField, operator: str, value: object, path: str) -> None:
        unknown = field is STATUS and isinstance(value, str)
        takes = f"{field.value} {operator} takes {_KINDS[field]}{'; $in takes several' if isinstance(value, list) else ''}"
        self.violations.add(path, f"{takes}; this is {shown(value)}", Rule.UNKNOWN_VALUE if unknown else Rule.WRONG_TYPE)

    def _stop(self, path: str, limit: int, what: str) -> NoReturn:
        """Raises at once: a larger filter is not read to its end."""
        self.violations.items.append(Violation(path, f"a filter has at most {limit} {what}", Rule.TOO_MANY.value))
        raise QueryError(self.violations.items)


def _fits(field: QueryField, value: object) -> bool:
    if field is NUMBER:
        return type(value) is int  # isinstance accepts True
    return isinstance(value, str) and (field is not STATUS or value in STATUS_OF)


def _operators(field: QueryField) -> str:
    return ", ".join(_OPERATORS[field])
