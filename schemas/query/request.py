"""The query language of the Attendance API: requests in, pages out.

Other packages import from here; `filter`, `parser`, `cursor` and `violations` beside it are its parts.
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
from schemas.query.violations import QueryError, Refusals, Rule, Violation, shown, spelled

__all__ = [
    "ALL_STATUSES",
    "DEFAULT_LIMIT",
    "MAX",
    "MAX_LIMIT",
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
_DEFAULT_SORT = (Sort(QueryField.ID),)
_ORDERS = {"ASC": False, "DESC": True}
_SHOWN = {name: name for name in Attendance.__annotations__} | {"eventId": QueryField.SESSION.value}
_SHOWN_NAMES = "id, bookingId, sessionId (or eventId), status, numberOfAttendees, updatedDate, source"
_MAX_NAMES = 100
_KEYS = ("filter", "sort", "cursorPaging", "fields")
_SORT_KEYS = ("fieldName", "order")
_PAGING_KEYS = ("limit", "cursor")


class Query(NamedTuple):
    """What to show: ``limit`` attendances behind the position (before it when ``backwards``), or from the start.

    ``fields`` None shows all; otherwise ``id`` is among them.
    """

    filter: Filter = Filter()
    sort: tuple[Sort, ...] = _DEFAULT_SORT
    limit: int = DEFAULT_LIMIT
    position: Position | None = None
    backwards: bool = False
    fields: frozenset[str] | None = None


class Page(NamedTuple):
    """Attendances as they are shown, and the cursors to the pages around them."""

    attendances: list[dict[str, Any]]
    next: str | None
    prev: str | None
    has_next: bool


def parse_query(document: object, *, first_filter_only: bool = False, key: bytes | None = None) -> Query:
    """The query of a request.

    Args:
        document: decoded JSON, the value of ``query``; None asks for the first page of everything.
        first_filter_only: see `parse_filter`.
        key: of the readers' signatures; without it a cursor's is not looked at. See `AttendanceReader.parse`.

    Raises:
        QueryError: with everything that is wrong, up to a bound; paths begin with ``query``.
    """
    if document is None:
        return Query()
    refusals = Refusals()
    said = _object(document, "query", _KEYS, refusals)
    asked, wanted = said.get("filter"), None
    # an empty filter or sort says as much as none: clients that page on send them beside the cursor
    if asked is not None and asked != {}:
        try:
            wanted = parse_filter(asked, first_filter_only=first_filter_only, path="query.filter")
        except QueryError as error:
            refusals.found += error.violations
    sort = _sort(said.get("sort"), refusals)
    limit, cursor = _paging(said.get("cursorPaging"), refusals, key)
    fields = _fields(said.get("fields"), refusals)
    refusals.settle()
    if cursor is None:
        return Query(wanted or Filter(), sort or _DEFAULT_SORT, limit, fields=fields)
    for name, given, carried in (("filter", wanted, cursor.filter), ("sort", sort, cursor.sort)):
        if given is not None and given != carried:
            other = f"differs from the cursor's, which carries its own; leave the {name} out or start without the cursor"
            refusals.add(f"query.{name}", other, Rule.OTHER_QUERY)
    refusals.settle()
    return Query(cursor.filter, cursor.sort, limit, cursor.position, cursor.backwards, fields)


def project(attendance: Attendance, fields: frozenset[str] | None) -> dict[str, Any]:
    """The attendance with these fields alone; None shows all."""
    return {name: value for name, value in attendance.items() if fields is None or name in fields}


def document(page: Page) -> dict[str, Any]:
    """The contract's answer to a query."""
    cursors = {name: text for name, text in (("next", page.next), ("prev", page.prev)) if text is not None}
    return {
        "attendances": page.attendances,
        "pagingMetadata": {"count": len(page.attendances), "cursors": cursors, "hasNext": page.has_next},
    }


def _object(said: object, path: str, keys: tuple[str, ...], refusals: Refusals) -> dict[str, Any]:
    if not isinstance(said, dict):
        refusals.add(path, f"must be an object of {', '.join(keys)}; this is {shown(said)}", Rule.WRONG_TYPE)
        return {}
    for key in said:
        if key not in keys:
            unknown = f'unknown "{spelled(key)}"; {path} has {", ".join(keys)}'
            refusals.add(f"{path}.{spelled(key)}", unknown, Rule.UNKNOWN_FIELD)
    return said


def _sort(said: object, refusals: Refusals) -> tuple[Sort, ...] | None:
    if said is None:
        return None
    path = "query.sort"
    if not isinstance(said, list):
        refusals.add(path, f'must be a list of {{"fieldName", "order"}}; this is {shown(said)}', Rule.WRONG_TYPE)
        return None
    if len(said) > MAX_SORTS:
        refusals.add(path, f"has {len(said)} fields; sort by at most {MAX_SORTS}", Rule.TOO_MANY)
        return None
    found: list[Sort] = []
    for index, each in enumerate(said):
        sort = _sort_field(each, f"{path}.{index}", refusals)
        if sort is None:
            continue
        if any(sort.field is other.field for other in found):
            again = f"sorts by {sort.field.value} again; give each field once"
            refusals.add(f"{path}.{index}.fieldName", again, Rule.REPEATED)
        found.append(sort)
    return tuple(found) or None


def _sort_field(said: object, path: str, refusals: Refusals) -> Sort | None:
    entry = _object(said, path, _SORT_KEYS, refusals)
    if not isinstance(said, dict):
        return None
    name, order = entry.get("fieldName"), entry.get("order")
    field = FIELDS.get(name) if isinstance(name, str) else None
    if field is None:
        rule = Rule.REQUIRED if name is None else Rule.UNKNOWN_FIELD if isinstance(name, str) else Rule.WRONG_TYPE
        refusals.add(f"{path}.fieldName", f"sort by {FIELD_NAMES}; this is {shown(name)}", rule)
    descending = False if order is None else _ORDERS.get(order) if isinstance(order, str) else None
    if descending is None:
        rule = Rule.UNKNOWN_VALUE if isinstance(order, str) else Rule.WRONG_TYPE
        refusals.add(f"{path}.order", f"takes ASC or DESC; this is {shown(order)}", rule)
    return None if field is None else Sort(field, bool(descending))


def cursor_in(document: object) -> str | None:
    """The cursor that a request's ``query`` carries, unchecked."""
    paging = document.get("cursorPaging") if isinstance(document, dict) else None
    text = paging.get("cursor") if isinstance(paging, dict) else None
    return text if isinstance(text, str) else None


def _paging(said: object, refusals: Refusals, key: bytes | None) -> tuple[int, Cursor | None]:
    if said is None:
        return DEFAULT_LIMIT, None
    path = "query.cursorPaging"
    entry = _object(said, path, _PAGING_KEYS, refusals)
    limit, text = entry.get("limit"), entry.get("cursor")
    if limit is None:
        limit = DEFAULT_LIMIT
    elif type(limit) is not int:
        refusals.add(f"{path}.limit", f"takes an integer from 1 to {MAX_LIMIT}; this is {shown(limit)}", Rule.WRONG_TYPE)
    elif not 1 <= limit <= MAX_LIMIT:
        refusals.add(f"{path}.limit", f"takes an integer from 1 to {MAX_LIMIT}", Rule.OUT_OF_RANGE)
    cursor = None
    if isinstance(text, str):
        try:
            cursor = decode_cursor(text, key)
        except ValueError:
            malformed = "is no cursor of this API; send next or prev of a page as it came, or start without one"
            refusals.add(f"{path}.cursor", malformed, Rule.MALFORMED)
    elif text is not None:
        refusals.add(f"{path}.cursor", f"takes the text of next or prev of a page; this is {shown(text)}", Rule.WRONG_TYPE)
    return limit, cursor


def _fields(said: object, refusals: Refusals) -> frozenset[str] | None:
    if said is None:
        return None
    path = "query.fields"
    if not isinstance(said, list):
        refusals.add(path, f"must be a list of {_SHOWN_NAMES}; this is {shown(said)}", Rule.WRONG_TYPE)
        return None
    if len(said) > _MAX_NAMES:
        refusals.add(path, f"has {len(said)} names; give at most {_MAX_NAMES}", Rule.TOO_MANY)
        return None
    found = {QueryField.ID.value}
    for index, name in enumerate(said):
        if isinstance(name, str) and name in _SHOWN:
            found.add(_SHOWN[name])
        else:
            rule = Rule.UNKNOWN_FIELD if isinstance(name, str) else Rule.WRONG_TYPE
            refusals.add(f"{path}.{index}", f"unknown field {shown(name)}; show {_SHOWN_NAMES}", rule)
    return frozenset(found) if said else None
