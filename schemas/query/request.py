"""The query language of the Attendance API: parses requests and builds pages, see `schemas/README.md`.

Other packages import it from here; it is implemented by the modules `filter`, `parser`, `cursor` and `violations`.
"""

from typing import Any, NamedTuple

from schemas.attendance import Attendance
from schemas.query.cursor import (
    MAX_SORTS,
    Cursor,
    Position,
    Sort,
    decode_cursor,
    encode_cursor,
    order_of,
    position_of,
)
from schemas.query.filter import (
    ALL_STATUSES,
    FIELDS,
    MAX,
    Filter,
    Names,
    QueryField,
)
from schemas.query.parser import FIELD_NAMES, parse_filter
from schemas.query.violations import QueryError, Rule, Violation, Violations, shown, spelled

__all__ = [
    "ALL_STATUSES",
    "DEFAULT_LIMIT",
    "MAX",
    "MAX_FIELDS",
    "MAX_LIMIT",
    "MAX_SORTS",
    "Cursor",
    "Filter",
    "Names",
    "Page",
    "Position",
    "Query",
    "QueryError",
    "QueryField",
    "Sort",
    "Violation",
    "cursor_in",
    "document",
    "encode_cursor",
    "order_of",
    "parse_filter",
    "parse_query",
    "position_of",
    "project",
]

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
#: Names in ``fields``.
MAX_FIELDS = 100
_DEFAULT_SORT = (Sort(QueryField.ID),)
_ORDERS = {"ASC": False, "DESC": True}
_SHOWN = {name: name for name in Attendance.__annotations__} | {"eventId": QueryField.SESSION.value}
_SHOWN_NAMES = "id, bookingId, sessionId (or eventId), status, numberOfAttendees, updatedDate, source"
_KEYS = ("filter", "sort", "cursorPaging", "fields")
_SORT_KEYS = ("fieldName", "order")
_PAGING_KEYS = ("limit", "cursor")


class Query(NamedTuple):
    """A parsed query: ``limit`` attendances behind the position (before it if ``backwards``), or from the start.

    ``fields`` None returns all fields; otherwise ``id`` is among them.
    """

    filter: Filter = Filter()
    sort: tuple[Sort, ...] = _DEFAULT_SORT
    limit: int = DEFAULT_LIMIT
    position: Position | None = None
    backwards: bool = False
    fields: frozenset[str] | None = None


class Page(NamedTuple):
    """Attendances with the requested fields, and the cursors of the next and the previous page."""

    attendances: list[dict[str, Any]]
    next: str | None
    prev: str | None
    has_next: bool


def parse_query(document: object, *, first_filter_only: bool = False, key: bytes | None = None) -> Query:
    """The query of a request.

    Args:
        document: decoded JSON, the value of ``query``; None is the first page of all attendances.
        first_filter_only: see `parse_filter`.
        key: the key with which a cursor must be signed; None does not verify signatures. See `AttendanceReader.parse`.

    Raises:
        QueryError: with all violations, up to `MOST_VIOLATIONS`; their paths begin with ``query``.
    """
    if document is None:
        return Query()
    violations = Violations()
    query = _object(document, "query", _KEYS, violations)
    filter_document, filter_ = query.get("filter"), None
    # an empty filter or sort is none: clients send them beside the cursor of the next page
    if filter_document is not None and filter_document != {}:
        try:
            filter_ = parse_filter(filter_document, first_filter_only=first_filter_only, path="query.filter")
        except QueryError as error:
            violations.items += error.violations
    sort = _sort(query.get("sort"), violations)
    limit, cursor = _paging(query.get("cursorPaging"), violations, key)
    fields = _fields(query.get("fields"), violations)
    violations.raise_if_any()
    if cursor is None:
        return Query(filter_ or Filter(), sort or _DEFAULT_SORT, limit, fields=fields)
    for name, requested, carried in (("filter", filter_, cursor.filter), ("sort", sort, cursor.sort)):
        if requested is not None and requested != carried:
            other = f"differs from the {name} in the cursor; leave the {name} out or start without the cursor"
            violations.add(f"query.{name}", other, Rule.OTHER_QUERY)
    violations.raise_if_any()
    return Query(cursor.filter, cursor.sort, limit, cursor.position, cursor.backwards, fields)


def project(attendance: Attendance, fields: frozenset[str] | None) -> dict[str, Any]:
    """The attendance with only these fields; None keeps all."""
    return {name: value for name, value in attendance.items() if fields is None or name in fields}


def document(page: Page) -> dict[str, Any]:
    """The body of the response to a query."""
    cursors = {name: text for name, text in (("next", page.next), ("prev", page.prev)) if text is not None}
    return {
        "attendances": page.attendances,
        "pagingMetadata": {"count": len(page.attendances), "cursors": cursors, "hasNext": page.has_next},
    }


def _object(value: object, path: str, keys: tuple[str, ...], violations: Violations) -> dict[str, Any]:
    if not isinstance(value, dict):
        violations.add(path, f"must be an object of {', '.join(keys)}; this is {shown(value)}", Rule.WRONG_TYPE)
        return {}
    for key in value:
        if key not in keys:
            unknown = f'unknown "{spelled(key)}"; {path} has {", ".join(keys)}'
            violations.add(f"{path}.{spelled(key)}", unknown, Rule.UNKNOWN_FIELD)
    return value


def _list(value: object, path: str, entries: str, max_entries: int, limit: str, violations: Violations) -> list[object] | None:
    """The value if it is a list within its limit; None if it is missing, or with a violation.

    Args:
        entries: what the list must hold, for the violation.
        limit: what it may hold at most, for the violation.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        violations.add(path, f"must be a list of {entries}; this is {shown(value)}", Rule.WRONG_TYPE)
        return None
    if len(value) > max_entries:
        violations.add(path, f"has {len(value)} {limit}", Rule.TOO_MANY)
        return None
    return value


def _sort(value: object, violations: Violations) -> tuple[Sort, ...] | None:
    path = "query.sort"
    entries = _list(value, path, '{"fieldName", "order"}', MAX_SORTS, f"fields; sort by at most {MAX_SORTS}", violations)
    if entries is None:
        return None
    sorts: list[Sort] = []
    for index, entry in enumerate(entries):
        sort = _sort_field(entry, f"{path}.{index}", violations)
        if sort is None:
            continue
        if any(sort.field is other.field for other in sorts):
            repeated = f"sorts by {sort.field.value} again; give each field once"
            violations.add(f"{path}.{index}.fieldName", repeated, Rule.REPEATED)
        sorts.append(sort)
    return tuple(sorts) or None


def _sort_field(value: object, path: str, violations: Violations) -> Sort | None:
    entry = _object(value, path, _SORT_KEYS, violations)
    if not isinstance(value, dict):
        return None
    name, order = entry.get("fieldName"), entry.get("order")
    field = FIELDS.get(name) if isinstance(name, str) else None
    if field is None:
        rule = Rule.REQUIRED if name is None else Rule.UNKNOWN_FIELD if isinstance(name, str) else Rule.WRONG_TYPE
        violations.add(f"{path}.fieldName", f"sort by {FIELD_NAMES}; this is {shown(name)}", rule)
    descending = False if order is None else _ORDERS.get(order) if isinstance(order, str) else None
    if descending is None:
        rule = Rule.UNKNOWN_VALUE if isinstance(order, str) else Rule.WRONG_TYPE
        violations.add(f"{path}.order", f"takes ASC or DESC; this is {shown(order)}", rule)
    return None if field is None else Sort(field, bool(descending))


def cursor_in(document: object) -> str | None:
    """The cursor in the ``query`` of a request, not validated."""
    paging = document.get("cursorPaging") if isinstance(document, dict) else None
    text = paging.get("cursor") if isinstance(paging, dict) else None
    return text if isinstance(text, str) else None


def _paging(value: object, violations: Violations, key: bytes | None) -> tuple[int, Cursor | None]:
    if value is None:
        return DEFAULT_LIMIT, None
    path = "query.cursorPaging"
    entry = _object(value, path, _PAGING_KEYS, violations)
    limit, text = entry.get("limit"), entry.get("cursor")
    if limit is None:
        limit = DEFAULT_LIMIT
    elif type(limit) is not int:
        violations.add(f"{path}.limit", f"takes an integer from 1 to {MAX_LIMIT}; this is {shown(limit)}", Rule.WRONG_TYPE)
    elif not 1 <= limit <= MAX_LIMIT:
        violations.add(f"{path}.limit", f"takes an integer from 1 to {MAX_LIMIT}", Rule.OUT_OF_RANGE)
    cursor = None
    if isinstance(text, str):
        try:
            cursor = decode_cursor(text, key)
        except ValueError:
            malformed = "is not a cursor of this API; send next or prev of a page unchanged, or start without a cursor"
            violations.add(f"{path}.cursor", malformed, Rule.MALFORMED)
    elif text is not None:
        violations.add(f"{path}.cursor", f"takes the text of next or prev of a page; this is {shown(text)}", Rule.WRONG_TYPE)
    return limit, cursor


def _fields(value: object, violations: Violations) -> frozenset[str] | None:
    path = "query.fields"
    names = _list(value, path, _SHOWN_NAMES, MAX_FIELDS, f"names; give at most {MAX_FIELDS}", violations)
    if names is None:
        return None
    fields = {QueryField.ID.value}
    for index, name in enumerate(names):
        if isinstance(name, str) and name in _SHOWN:
            fields.add(_SHOWN[name])
        else:
            rule = Rule.UNKNOWN_FIELD if isinstance(name, str) else Rule.WRONG_TYPE
            violations.add(f"{path}.{index}", f"unknown field {shown(name)}; show {_SHOWN_NAMES}", rule)
    return frozenset(fields) if names else None
