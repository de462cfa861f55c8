"""Pages while the read models change: what stands still is shown once and in order, and nobody sees a part for the whole."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.query.request import Page, parse_query
from tests.support.asked import Asking
from tests.support.attending import World
from tests.support.filled import Filled, on
from tests.support.oracle import queries
from tests.support.services import Redis
from worker.read_model.reader import AttendanceReader, NotServing

WALKS = 12
PLACES = [("redis_server", 1), ("redis_server", 16), ("redis_cluster", 16)]
_MOVING = {"status", "numberOfAttendees"}
_DEADLINE_S = 20.0


class Meddler:
    """Changes the read models at the same time, one change after another.

    Args:
        change: makes one.
        pause: whether each waits until a page was seen since the last one, so that pages are always there in the end.
    """

    def __init__(self, change: Callable[[], Awaitable[None]], *, pause: bool) -> None:
        self.changes = 0
        self._change, self._pause = change, pause
        self._seen = asyncio.Event()
        self._over = False

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        working = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._over = True
            self.page_seen()
            await working

    def page_seen(self) -> None:
        self._seen.set()

    async def _work(self) -> None:
        while not self._over:
            await self._change()
            self.changes += 1
            if self._pause:
                await self._seen.wait()
                self._seen.clear()


@pytest.mark.parametrize(
    ("place", "partitions", "seed"),
    [
        # walks on a cluster take several times as long: there, all but one are slow
        pytest.param(*place, seed, marks=[pytest.mark.slow] if place[0] == "redis_cluster" and seed != 1 else [])
        for place in PLACES
        for seed in range(3)
    ],
)
def test_what_stands_still_is_shown_once_and_in_order(
    request: pytest.FixtureRequest, place: str, partitions: int, seed: int
) -> None:
    async def scenario(filled: Filled) -> None:
        world = World(100 + seed, sessions=9, most=200)
        pairs = world.pairs()
        world.rng.shuffle(pairs)
        still, moving = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
        await filled.apply(world.happen(still + moving[::2]))
        documents = [world.documents[pair] for pair in still]
        asking, reader = Asking(world, seed), filled.reader()

        async def change() -> None:
            some = world.rng.sample(moving, min(len(moving), world.rng.choice((1, 5, 40))))
            await filled.apply(world.happen(some, deleted=0.4))

        meddler = Meddler(change, pause=False)
        async with meddler.at_work():
            for _ in range(WALKS):
                await _both_ways(reader, asking, documents, meddler)
        assert meddler.changes > WALKS

    on(request.getfixturevalue(place), partitions, scenario)


async def _both_ways(reader: AttendanceReader, asking: Asking, documents: list[dict[str, Any]], meddler: Meddler) -> None:
    query = asking.query()
    expected = queries.answer(documents, query)
    limit = asking.rng.randint(max(1, len(expected) // 10), 100)
    names = {document["id"] for document in documents}
    try:
        forth = await _walk(reader, meddler, query, limit, None, lambda page: page.next)
        assert _still(forth, names) == expected
        end = next((page for page in reversed(forth) if page.prev), None)
        if end is not None and end.prev is not None:
            back = await _walk(reader, meddler, query, limit, end.prev, lambda page: page.prev)
            shown = [*reversed(back), end]
            assert _still(shown, names) == [each for each in expected if each in _still(shown, names)]
            after = _still(forth[forth.index(end) + 1 :], names)
            assert [*_still(shown, names), *after] == expected
    except AssertionError as error:
        error.add_note(f"{query} limit {limit}, {len(expected)} attendances that stand still match")
        raise


async def _walk(
    reader: AttendanceReader,
    meddler: Meddler,
    query: dict[str, Any],
    limit: int,
    cursor: str | None,
    way: Callable[[Page], str | None],
) -> list[Page]:
    """Every page that way; each in order, and all of what it shows matches."""
    pages: list[Page] = []
    while True:
        page = await reader.query(parse_query({**query, "cursorPaging": {"limit": limit, "cursor": cursor}}))
        meddler.page_seen()
        assert queries.answer(page.attendances, query) == page.attendances
        assert len(page.attendances) <= limit
        pages.append(page)
        cursor = way(page)
        if cursor is None:
            break
    shown = Counter(each["id"] for page in pages for each in page.attendances)
    if not _MOVING & {each["fieldName"] for each in query.get("sort", ())}:
        assert max(shown.values(), default=1) == 1
    return pages


def _still(pages: list[Page], names: set[str]) -> list[dict[str, Any]]:
    return [each for page in pages for each in page.attendances if each["id"] in names]


@pytest.mark.parametrize(("place", "partitions"), PLACES)
def test_a_repair_in_the_middle_of_a_walk(request: pytest.FixtureRequest, place: str, partitions: int) -> None:
    """Key generations change under the reader: pages are right, or there are none for the moment."""

    async def repairs(filled: Filled, rng: random.Random) -> None:
        await filled.repair(rng.randrange(filled.partitions))

    on(request.getfixturevalue(place), partitions, lambda filled: _walk_while(filled, repairs))


def test_another_namespace_in_the_middle_of_a_walk(redis_server: Redis) -> None:
    """A rebuild ends and is made the live one, with another number of partitions; cursors stay right."""

    async def rebuilds(filled: Filled, rng: random.Random) -> None:
        await filled.rebuild(rng.choice((1, 4, 16)))

    on(redis_server, 4, lambda filled: _walk_while(filled, rebuilds))


async def _walk_while(filled: Filled, change: Callable[[Filled, random.Random], Awaitable[None]]) -> None:
    """Whole walks, and at nearly every one of their pages a change that shows no other attendance."""
    world = World(31, sessions=5, most=120)
    await filled.apply(world.happen(world.pairs()))
    documents, asking, reader = list(world.documents.values()), Asking(world, 31), filled.reader()
    meddler = Meddler(lambda: change(filled, world.rng), pause=True)
    async with meddler.at_work():
        walks = 0
        while walks < WALKS or meddler.changes <= WALKS:
            query = asking.query()
            expected = queries.answer(documents, query)
            limit = asking.rng.randint(max(1, len(expected) // 10), 100)
            await _walk_right(reader, meddler, query, expected, limit)
            walks += 1


async def _walk_right(
    reader: AttendanceReader, meddler: Meddler, query: dict[str, Any], expected: list[dict[str, Any]], limit: int
) -> None:
    at, cursor = 0, None
    while True:
        page = await _served(reader, {**query, "cursorPaging": {"limit": limit, "cursor": cursor}})
        meddler.page_seen()
        assert page.attendances == expected[at : at + limit], f"{query} limit {limit} at {at} of {len(expected)}"
        at, cursor = at + limit, page.next
        assert (cursor is not None) == (at < len(expected))
        if cursor is None:
            return


async def _served(reader: AttendanceReader, query: dict[str, Any]) -> Page:
    """The page, once it is served."""
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            try:
                return await reader.query(parse_query(query))
            except NotServing:
                await asyncio.sleep(0.002)
