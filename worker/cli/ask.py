"""What ``attendance query`` asks: the API's query language from command-line options, page after page."""

import json
from typing import Any, NamedTuple

import orjson

from schemas.query.request import MAX_LIMIT, QueryError, QueryField, Violation
from schemas.query.violations import Rule
from worker.read_model.reader import AttendanceReader


class Question(NamedTuple):
    """Options as they were given; None where they were not."""

    attendance_id: str | None = None
    booking: str | None = None
    session: str | None = None
    status: str | None = None
    filter: str | None = None
    """JSON, as in a request."""
    sort: tuple[str, ...] = ()
    """``field`` or ``field:desc``."""
    limit: int | None = None
    cursor: str | None = None

    @property
    def names_something(self) -> bool:
        return any(given is not None for given in self[:5]) or self.limit is not None or self.cursor is not None


class Answer(NamedTuple):
    """Attendances, and the cursor to go on with where there are more."""

    attendances: list[dict[str, Any]]
    cursor: str | None


async def ask(reader: AttendanceReader, question: Question) -> Answer:
    """All that match, or the first so many.

    Raises:
        QueryError: something in the question is wrong.
    """
    found: list[dict[str, Any]] = []
    document = _document(question)
    while True:
        left = MAX_LIMIT if question.limit is None else min(MAX_LIMIT, question.limit - len(found))
        paging = {"limit": left, "cursor": document["cursorPaging"]["cursor"]}
        page = await reader.query(await reader.parse({**document, "cursorPaging": paging}))
        found += page.attendances
        if page.next is None or len(found) == question.limit:
            return Answer(found, page.next)
        document = {"cursorPaging": {"cursor": page.next}}


def _document(question: Question) -> dict[str, Any]:
    given = (
        (QueryField.ID, question.attendance_id),
        (QueryField.BOOKING, question.booking),
        (QueryField.SESSION, question.session),
        (QueryField.STATUS, question.status),
    )
    conditions: list[Any] = [{field.value: value} for field, value in given if value is not None]
    if question.filter is not None:
        try:
            orjson.loads(question.filter)  # strict, and bounded in depth and in digits
            conditions.append(json.loads(question.filter))
        except orjson.JSONDecodeError as error:
            told = f'is not JSON ({error}); write an object such as {{"numberOfAttendees": {{"$gte": 2}}}}'
            raise QueryError((Violation("--filter", told, Rule.WRONG_TYPE),)) from None
    sort = [(field, way) for field, _, way in (each.partition(":") for each in question.sort)]
    return {
        "filter": {"$and": conditions} if conditions else None,
        "sort": [{"fieldName": field, "order": way.upper() or "ASC"} for field, way in sort] or None,
        "cursorPaging": {"cursor": question.cursor},
    }
