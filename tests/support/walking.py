"""Walks through the pages of a query, each compared with what all documents come to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.query.request import Page, parse_query
from worker.read_model.reader import AttendanceReader

_ZIGZAG = 4
_MOST_PAGES = 24


class Walk:
    """One query of one reader, and all that it must find."""

    def __init__(
        self, reader: AttendanceReader, query: dict[str, Any], expected: Sequence[dict[str, Any]], rng: random.Random
    ) -> None:
        self.pages = 0
        self._reader, self._query, self._expected, self._rng = reader, query, expected, rng
        self._limits = max(1, -(-len(expected) // _MOST_PAGES)), rng.choice((1, 2, 3, 7, 20, 100, 100))

    async def everywhere(self, fields: list[str] | None) -> None:
        """From the first page to the end, back to the first, and to and fro."""
        place = await self.page(_Place(0, None, False), fields)
        while place.next is not None:
            place = await self.page(_Place(place.end, place.next, False), fields)
        while place.prev is not None:
            place = await self.page(_Place(place.start, place.prev, True), fields)
        for _ in range(_ZIGZAG if place.next else 0):
            onwards = place.prev is None or (place.next is not None and self._rng.random() < 0.6)
            turn = _Place(place.end, place.next, False) if onwards else _Place(place.start, place.prev, True)
            place = await self.page(turn, fields)

    async def page(self, place: _Place, fields: list[str] | None) -> _Shown:
        """The page behind (or before) a place; raises AssertionError where it is another than it must be."""
        least, most = self._limits
        limit = min(100, max(least, self._rng.randint(1, most)))
        page = await self._reader.query(parse_query(self._request(limit, place.cursor, fields)))
        start, end = (max(0, place.at - limit), place.at) if place.backwards else (place.at, place.at + limit)
        wanted = [_shown(each, fields) for each in self._expected[start:end]]
        said = f"page {self.pages} {place} limit {limit} fields {fields}"
        assert page.attendances == wanted, f"{said}: {_ids(page.attendances)} instead of {_ids(wanted)}"
        before, after = start > 0, end < len(self._expected)
        assert (page.prev is not None, page.next is not None, page.has_next) == (before, after, after), f"{said}: {_ways(page)}"
        self.pages += 1
        return _Shown(start, start + len(wanted), page.next, page.prev)

    def _request(self, limit: int, cursor: str | None, fields: list[str] | None) -> dict[str, Any]:
        # who goes on may say filter and sort again, or not
        query = {**self._query} if cursor is None or self._rng.random() < 0.3 else {}
        query["cursorPaging"] = {"limit": limit, "cursor": cursor}
        return {**query, "fields": fields}


class _Place(NamedTuple):
    """Where a page begins, or ends when backwards: so many attendances are before it."""

    at: int
    cursor: str | None
    backwards: bool


class _Shown(NamedTuple):
    start: int
    end: int
    next: str | None
    prev: str | None


def _shown(document: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    names = fields and {"id", *("sessionId" if name == "eventId" else name for name in fields)}
    return {name: value for name, value in document.items() if names is None or name in names}


def _ids(attendances: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(attendances)[:5]


def _ways(page: Page) -> str:
    return f"prev {page.prev is not None}, next {page.next is not None}, hasNext {page.has_next}"
