"""Queries (schemas/README.md) answered from all documents: filtered one by one, sorted as a whole, cut by place."""

from typing import Any

from tests.support.oracle.reading import normalised

Documents = list[dict[str, Any]]


def answer(documents: Documents, query: dict[str, Any]) -> Documents:
    """All attendances that a request's ``query`` asks for, in its order; neither cut into pages nor projected."""
    found = [document for document in documents if matches(document, query.get("filter") or {})]
    return ordered(found, query.get("sort") or [])


def matches(document: dict[str, Any], condition: dict[str, Any]) -> bool:
    """Whether an attendance has all that a filter asks for."""
    for name, asked in condition.items():
        if name == "$and":
            if not all(matches(document, each) for each in asked):
                return False
            continue
        field = _field(name)
        operators = asked if isinstance(asked, dict) else {"$eq": asked}
        if not all(_holds(document[field], operator, _usual(field, value)) for operator, value in operators.items()):
            return False
    return True


def ordered(documents: Documents, sort: list[dict[str, str]]) -> Documents:
    """By up to two fields, then by id in the direction of the last one; texts by their UTF-8 bytes."""
    keys = [(_field(each["fieldName"]), each.get("order") == "DESC") for each in sort] or [("id", False)]
    found = list(documents)
    for field, descending in reversed([*keys, ("id", keys[-1][1])]):
        found.sort(key=lambda document: _place(document[field]), reverse=descending)
    return found


def _holds(found: Any, operator: str, asked: Any) -> bool:
    match operator:
        case "$eq":
            return bool(found == asked)
        case "$ne":
            return bool(found != asked)
        case "$in" | "$hasSome":
            return found in asked
        case "$nin":
            return found not in asked
        case "$lt":
            return bool(found < asked)
        case "$lte":
            return bool(found <= asked)
        case "$gt":
            return bool(found > asked)
        case "$gte":
            return bool(found >= asked)
    raise ValueError(operator)


def _usual(field: str, value: Any) -> Any:
    """A request's value as documents have it."""
    if isinstance(value, list):
        return [_usual(field, each) for each in value]
    if field == "id":
        return value.lower()
    return normalised(value) if field in ("bookingId", "sessionId") else value


def _field(name: str) -> str:
    return "sessionId" if name == "eventId" else name


def _place(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
