"""The query of ``attendance query``: translates its options to the query language of the API and reads all pages."""

import json
from typing import Any, NamedTuple

import orjson

from schemas.query.request import MAX_LIMIT, QueryError, QueryField, Violation
from schemas.query.violations import Rule
from worker.read_model.reader import AttendanceReader


class Question(NamedTuple):
    """The options of the command; None if left out."""

    attendance_id: str | None = None
    booking: str | None = None
    session: str | None = None
    status: str | None = None
    filter: str | None = None
    """JSON, as in a request of the API."""
    sort: tuple[str, ...] = ()
    """``field`` or ``field:desc``."""
    limit: int | None = None
    cursor: str | None = None

    @property
    def is_restricted(self) -> bool:
        """Whether it has a condition, a limit or a cursor: without one it would read all attendances."""
        conditions = (self.attendance_id, self.booking, self.session, self.status, self.filter)
        return any(option is not None for option in (*conditions, self.limit, self.cursor))


class Answer(NamedTuple):
    """Attendances, and the cursor of the next page if there is one."""

    attendances: list[dict[str, Any]]
    cursor: str | None


async def ask(reader: AttendanceReader, question: Question) -> Answer:
    """All attendances that match, or the first ``question.limit`` of them.

    Raises:
        QueryError: an option is not valid.
    """
    attendances: list[dict[str, Any]] = []
    document = _document(question)
    while True:
        limit = MAX_LIMIT if question.limit is None else min(MAX_LIMIT, question.limit - len(attendances))
        paging = {"limit": limit, "cursor": document["cursorPaging"]["cursor"]}
        page = await reader.query(await reader.parse({**document, "cursorPaging": paging}))
        attendances += page.attendances
        if page.next is None or len(attendances) == question.limit:
            return Answer(attendances, page.next)
        document = {"cursorPaging": {"cursor": page.next}}


def _document(question: Question) -> dict[str, Any]:
    options = (
        (QueryField.ID, question.attendance_id),
        (QueryField.BOOKING, question.booking),
        (QueryField.SESSION, question.session),
        (QueryField.STATUS, question.status),
    )
    conditions: list[Any] = [{field.value: value} for field, value in options if value is not None]
    if question.filter is not None:
        try:
            orjson.loads(question.filter)  # strict, and bounded in depth and in digits
            conditions.append(json.loads(question.filter))
        except orjson.JSONDecodeError as error:
            description = f'is not JSON ({error}); write an object such as {{"numberOfAttendees": {{"$gte": 2}}}}'
            raise QueryError((Violation("--filter", description, Rule.WRONG_TYPE),)) from None
    sort = [(field, order) for field, _, order in (each.partition(":") for each in question.sort)]
    return {
        "filter": {"$and": conditions} if conditions else None,
        "sort": [{"fieldName": field, "order": order.upper() or "ASC"} for field, order in sort] or None,
        "cursorPaging": {"cursor": question.cursor},
    }
