"""Every query finds what all documents come to: any filter, order, limit, forth and back through its cursors.

What a failure prints (seed, sizes, query, page) is enough to see it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import combinations
from typing import Any

import pytest

from schemas.attendance import attendance_id
from schemas.query.request import Position, Query, QueryField, Sort, parse_filter, parse_query
from tests.support.asked import FIELDS, Asking
from tests.support.attending import STATUSES, World
from tests.support.filled import Filled, on
from tests.support.oracle import queries
from tests.support.services import Redis
from tests.support.walking import Walk
from worker.read_model import partition_reader
from worker.read_model.keys import DOC_SHIFT
from worker.read_model.query import index_scan, planner
from worker.read_model.query import pages as pages_module
from worker.read_model.reader import AttendanceReader, NotServing

#: The later ones run in `make test-full`; unit/read_model/query has the same property on a fake, by hundreds.
SEEDS = [seed if seed < 4 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(8)]
SESSIONS = (6, 1, 24)
#: Of each seed, with 1 and with 16 partitions: more than a thousand in all, and two thousand with the slow ones.
PAGES = 130
LARGE_PAGES = 120
STEPS = (1, 7, 300, 2000)


async def _fill(filled: Filled, world: World, deleted: float = 0.1) -> None:
    """Random events of every pair, some of them again, some deleted; sessions that are only listed."""
    pairs, step = world.pairs(), world.rng.choice(STEPS)
    world.rng.shuffle(pairs)
    records = world.list_sessions(pairs[: len(pairs) // 10])
    happened = pairs[len(pairs) // 20 :]
    records += world.happen(happened)
    records += world.happen(world.rng.sample(happened, len(happened) // 4), deleted)
    for start in range(0, len(records), max(step, len(records) // 20)):
        await filled.apply(records[start : start + max(step, len(records) // 20)])


async def _ask(reader: AttendanceReader, world: World, asking: Asking, pages: int) -> int:
    """Walks through random queries until so many pages were seen; how many they were."""
    documents, seen = list(world.documents.values()), 0
    while seen < pages:
        query, fields = asking.query(), asking.fields()
        try:
            expected = queries.answer(documents, query)
            walk = Walk(reader, query, expected, asking.rng)
            await walk.everywhere(fields)
            assert await reader.count(parse_filter(query.get("filter"))) == len(expected)
        except Exception as error:
            error.add_note(f"of {len(documents)} attendances, {len(expected)} of them match {query}")
            raise
        seen += walk.pages
    return seen


def _noted(seed: int, partitions: int, scenario: Callable[[Filled], Awaitable[None]]) -> Callable[[Filled], Awaitable[None]]:
    async def noting(filled: Filled) -> None:
        try:
            await scenario(filled)
        except Exception as error:
            error.add_note(f"seed {seed}, {partitions} partitions")
            raise

    return noting


@pytest.mark.parametrize(("place", "partitions"), [("redis_server", 1), ("redis_server", 16)])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_page_is_what_all_documents_come_to(
    request: pytest.FixtureRequest, place: str, seed: int, partitions: int
) -> None:
    async def scenario(filled: Filled) -> None:
        world = World(seed, sessions=SESSIONS[seed % len(SESSIONS)])
        await _fill(filled, world)
        assert await _ask(filled.reader(), world, Asking(world, seed), PAGES) >= PAGES
        for document in world.rng.choices(list(world.documents.values()), k=20):
            assert await filled.reader().get(document["id"]) == document

    on(request.getfixturevalue(place), partitions, _noted(seed, partitions, scenario))


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_every_page_on_a_cluster_is_what_all_documents_come_to(request: pytest.FixtureRequest, seed: int) -> None:
    test_every_page_is_what_all_documents_come_to(request, "redis_cluster", seed, 16)


@pytest.mark.parametrize(("entries", "whole"), [(8, 1), (60, 9)])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_every_page_by_small_steps(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, seed: int, entries: int, whole: int
) -> None:
    """Few index entries in a call, few attendances sorted by the reader: steps that else take many attendances."""
    monkeypatch.setattr(planner, "BUDGET", entries)
    monkeypatch.setattr(partition_reader, "MOST_UNITS", entries)
    monkeypatch.setattr(index_scan, "LOOKUPS_OF_CALL", entries)
    monkeypatch.setattr(planner, "_AT_ONCE", whole)
    monkeypatch.setattr(pages_module, "_MOST_AT_ONCE", whole)
    test_every_page_is_what_all_documents_come_to(request, "redis_server", seed, 4)


@pytest.mark.parametrize("partitions", [1, 16])
def test_a_store_without_attendances(redis_server: Redis, partitions: int) -> None:
    """Never filled, and with nothing but what is listed or deleted."""

    async def scenario(filled: Filled) -> None:
        world, reader = World(1, sessions=3, most=20), filled.reader()
        asking = Asking(world, 1)
        await _ask(reader, world, asking, 20)
        pairs = world.pairs()
        await filled.apply(world.list_sessions(pairs[:40]))
        await filled.apply(world.happen(pairs))
        await filled.apply(world.happen(pairs, deleted=1.0))
        assert not world.documents
        await _ask(reader, world, asking, 50)

    on(redis_server, partitions, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 16])
def test_pages_anywhere_in_a_larger_store(redis_server: Redis, partitions: int) -> None:
    """Twenty thousand attendances: what few match and what most match is found in other ways there."""

    async def scenario(filled: Filled) -> None:
        world = World(21, sessions=45, most=600)
        world._statuses, world._numbers = (70, 1, 29), (1,) * 600 + (2,) * 200 + (3, 4, 5) * 40 + tuple(range(11, 60))
        await _fill(filled, world)
        documents, asking, reader = list(world.documents.values()), Asking(world, 21), filled.reader()
        assert len(documents) > 10_000
        seen = 0
        while seen < LARGE_PAGES:
            query = asking.query()
            expected = queries.answer(documents, query)
            for _ in range(3):
                await _page_anywhere(reader, query, expected, asking.rng)
                seen += 1

    on(redis_server, partitions, _noted(21, partitions, scenario))


async def _page_anywhere(
    reader: AttendanceReader, query: dict[str, Any], expected: list[dict[str, Any]], rng: random.Random
) -> None:
    """A page behind or before any attendance that matches."""
    asked, limit, backwards = parse_query(query), rng.randint(1, 100), rng.random() < 0.5
    at = rng.randrange(len(expected)) if expected else 0
    position = None
    if expected:
        values = tuple(expected[at][str(field)] for field, _ in asked.sort)
        position = Position(values, expected[at]["id"])
    page = await reader.query(asked._replace(limit=limit, position=position, backwards=backwards and bool(expected)))
    wanted = expected[max(0, at - limit) : at] if backwards else expected[at + 1 : at + 1 + limit]
    assert page.attendances == wanted, f"{query} limit {limit} backwards {backwards} at {at} of {len(expected)}"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("descending", [False, True])
def test_a_position_without_an_attendance_still_marks_a_place(redis_server: Redis, field: str, descending: bool) -> None:
    """An attendance that was deleted, or moved, since its page was shown."""

    async def scenario(filled: Filled) -> None:
        world = World(5, sessions=4, most=40)
        await _fill(filled, world)
        sort, reader = (Sort(QueryField(field), descending),), filled.reader()
        query = {"sort": [{"fieldName": field, "order": "DESC" if descending else "ASC"}]}
        for pair in world.rng.sample(list(world.documents), 15):
            gone = world.documents[pair]
            place = Position((gone[field],), gone["id"])
            before = queries.answer(list(world.documents.values()), query)
            at = before.index(gone)
            await filled.apply(world.happen([pair], deleted=1.0))
            left = queries.answer(list(world.documents.values()), query)
            page = await reader.query(Query(sort=sort, limit=10, position=place))
            assert page.attendances == left[at : at + 10]
            page = await reader.query(Query(sort=sort, limit=10, position=place, backwards=True))
            assert page.attendances == left[max(0, at - 10) : at]

    on(redis_server, 3, scenario)


@pytest.mark.parametrize("is_last", [False, True])
def test_pages_beside_a_full_bucket_at_an_end(redis_server: Redis, is_last: bool) -> None:
    """The first or the last bucket of documents holds more than a page, as in a store of a million attendances."""

    async def scenario(filled: Filled) -> None:
        world = World(5, sessions=1)
        world._statuses, world._numbers = (60, 20, 20), (1,) * 9 + (0, 2)
        pairs = [(f"BK-{number}", "s") for number in range(200_000)]
        edge = 65_536 - (1 << DOC_SHIFT) if is_last else 0
        in_bucket = [pair for pair in pairs if edge <= int.from_bytes(attendance_id(*pair)[:2]) < edge + (1 << DOC_SHIFT)]
        assert len(in_bucket) > 60
        await filled.apply(world.happen([*in_bucket, *pairs[:60]]))
        documents, reader = list(world.documents.values()), filled.reader()
        for first, second in (("ASC", "ASC"), ("DESC", "DESC"), ("ASC", "DESC"), ("DESC", "ASC")):
            sort = [{"fieldName": "numberOfAttendees", "order": first}, {"fieldName": "status", "order": second}]
            for query in ({"sort": sort}, {"sort": sort[:1]}, {"sort": sort, "filter": {"numberOfAttendees": 1}}):
                await Walk(reader, query, queries.answer(documents, query), world.rng).everywhere(None)

    on(redis_server, 1, scenario)


@pytest.mark.parametrize("seed", [1, 2])
def test_pages_of_few_sessions_by_booking(redis_server: Redis, seed: int) -> None:
    """Sessions that few of many attendances are of: the order comes from their rosters."""

    async def scenario(filled: Filled) -> None:
        world = World(seed, sessions=8, most=1200)
        world._statuses, world._numbers = (5, 2, 3), (1,) * 6 + (0, 2, 63, 64, 70)
        one, two, small, *others = world.sessions
        rng, pairs = world.rng, [(booking, session) for session in others for booking in world.bookings]
        named = [(booking, session) for session in (one, two) for booking in rng.sample(world.bookings, 230)]
        await filled.apply(world.list_sessions([(booking, one) for booking in rng.sample(world.bookings, 10)]))
        await filled.apply(world.happen([*pairs, *named, *((booking, small) for booking in world.bookings[:4])]))
        await filled.apply(world.happen(rng.sample(named, 10), deleted=0.5))
        documents, reader = list(world.documents.values()), filled.reader()
        numbers: list[dict[str, Any]] = [{"numberOfAttendees": {"$gte": 63}}, {"numberOfAttendees": 1}]
        for sessions in ([one], [one, small, two]):
            for filter_ in ({}, {"status": "ATTENDED"}, *numbers):
                for sort in ("bookingId ASC", "bookingId DESC", "bookingId DESC, id ASC"):
                    order = [dict(zip(("fieldName", "order"), each.split(), strict=True)) for each in sort.split(", ")]
                    query = {"sort": order, "filter": {"sessionId": {"$in": sessions}} | filter_}
                    await Walk(reader, query, queries.answer(documents, query), rng).everywhere(None)

    on(redis_server, 1, scenario)


@pytest.mark.parametrize("mix", [(6, 1, 3), (3, 1, 6), (2, 7, 1), (0, 1, 2)])
def test_pages_by_booking_of_any_statuses(redis_server: Redis, mix: tuple[int, int, int]) -> None:
    """The indexes by booking are read one status after the other, the one with most first, and up to where that one ended."""

    async def scenario(filled: Filled) -> None:
        world = World(2, sessions=9)
        world._statuses, world._numbers = mix, (1, 1, 1, 2, 64)
        await filled.apply(world.happen([(booking, session) for booking in world.bookings[:60] for session in world.sessions]))
        documents, reader = list(world.documents.values()), filled.reader()
        for size in (1, 2, 3):
            for statuses in combinations(STATUSES, size):
                for direction in ("ASC", "DESC"):
                    filter_ = {"status": {"$in": list(statuses)}} | world.rng.choice([{}, {"numberOfAttendees": {"$lte": 1}}])
                    query = {"sort": [{"fieldName": "bookingId", "order": direction}], "filter": filter_}
                    await Walk(reader, query, queries.answer(documents, query), world.rng).everywhere(None)

    on(redis_server, 1, scenario)


def test_one_reader_answers_many_at_once(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        world, reader = World(11, sessions=6), filled.reader()
        await _fill(filled, world)
        await asyncio.gather(*(_ask(reader, world, Asking(world, seed), 20) for seed in range(8)))

    on(redis_server, 16, scenario)


def test_a_query_that_needs_an_incomplete_partition_is_refused(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        world, reader = World(3, sessions=4, most=30), filled.reader()
        await _fill(filled, world)
        await filled.begin_repair(1)
        for asked in (Query(), Query(parse_filter({"status": "ATTENDED"}), limit=1), Query(parse_filter({"sessionId": "x"}))):
            with pytest.raises(NotServing):
                await reader.query(asked)
            with pytest.raises(NotServing):
                await reader.count(asked.filter)
        await filled.repair(1)
        assert await reader.count(Query().filter) == len(world.documents)

    on(redis_server, 3, scenario)
