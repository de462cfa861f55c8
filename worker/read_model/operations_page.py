"""Pages of the operations, for the API; also while nothing is served, as before the first worker."""

from typing import Any, NamedTuple

from schemas.query.list_cursor import ListCursor, decode_list_cursor, encode_list_cursor
from schemas.query.request import QueryError, Violation
from schemas.query.violations import Rule
from worker.read_model.keys import live_key
from worker.read_model.operations import Operation, Operations
from worker.read_model.query.pages import INVALID_CURSOR, paging
from worker.redis.client import Client
from worker.redis.scripts import raise_first_error

_LIST = "operations"


class OperationsPage(NamedTuple):
    """A page of the operations, the newest first, and the cursor of the next page, if there is one."""

    items: list[Operation]
    next: str | None

    @property
    def paging(self) -> dict[str, Any]:
        """The paging information, in the format of a query's page."""
        return paging(len(self.items), self.next)


async def operations_page(client: Client, base: str, limit: int, cursor: str | None = None) -> OperationsPage:
    """A page of the operations under an ``ATTENDANCE_NAMESPACE``.

    Raises:
        QueryError: the cursor is not from this list.
    """
    key = await _cursor_key(client, base)
    after = None if cursor is None else _place_in(cursor, key)
    found = [each for each in await Operations(client, base).all() if after is None or each.place < after]
    shown = found[:limit]
    if len(found) <= limit:
        return OperationsPage(shown, None)
    started, name = shown[-1].place
    return OperationsPage(shown, encode_list_cursor(ListCursor(_LIST, (), started, name.encode()), key))


def _place_in(text: str, key: bytes) -> tuple[float, str]:
    try:
        cursor = decode_list_cursor(text, key)
        if cursor.list != _LIST:
            raise ValueError("of another list")
        return cursor.score, cursor.member.decode()
    except ValueError:
        raise QueryError([Violation("cursor", INVALID_CURSOR, Rule.MALFORMED.value)]) from None


async def _cursor_key(client: Client, base: str) -> bytes:
    """The key that signs cursors; empty before the first worker has created it."""
    (key,) = raise_first_error(await client.ask([("HGET", live_key(base), "cursorKey")]))
    return key or b""
