"""The largest questions that the query language takes: what each script call does is few commands, counted by the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from schemas.events import Event
from schemas.query.request import QueryError, parse_filter, parse_query
from tests.support.attending import World
from tests.support.filled import Filled, on
from tests.support.oracle import queries
from tests.support.services import Redis, RedisServer
from worker.read_model import partition_reader as live_module
from worker.read_model.query import planner
from worker.read_model.reader import AttendanceReader
from worker.redis.client import Server

_NOW = 1_795_341_600_000_000
#: Of one script call: of one partition, which ends what it has begun, and of those before it.
COMMANDS = 4000
#: Of one question.
ALTOGETHER = 100_000
ORDERS: list[Sequence[tuple[str, str]]] = [
    [("id", "ASC")],
    [("bookingId", "ASC")],
    [("sessionId", "DESC")],
    [("status", "ASC")],
    [("numberOfAttendees", "ASC")],
    [("numberOfAttendees", "DESC"), ("bookingId", "ASC")],
    [("sessionId", "ASC"), ("numberOfAttendees", "ASC")],
]


class Counting:
    """Has each command of a client run alone, and counts what the server runs for it."""

    def __init__(self, client: Server) -> None:
        self._client, self._ask = client, client.ask
        self.counts: list[int] = []
        client.ask = self._counted  # type: ignore[method-assign]

    async def _counted(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        answers = []
        for command in commands:
            before = await self._commands()
            answers += await self._ask([command])
            self.counts.append(await self._commands() - before - 2)
        return answers

    async def _commands(self) -> int:
        (said,) = await self._ask([("INFO", "commandstats")])
        return sum(int(line.split(b"calls=")[1].split(b",")[0]) for line in said.splitlines() if b"calls=" in line)


def _numbers(values: Sequence[int], operator: str) -> list[dict[str, Any]]:
    return [{"numberOfAttendees": {operator: list(values[at : at + 100])}} for at in range(0, len(values), 100)]


def _sessions(world: World, many: int) -> dict[str, Any]:
    names = [*world.sessions, *(f"no such {number}" for number in range(many))]
    return {"sessionId": {"$in": names[:many]}}


def _attacks(world: World) -> list[dict[str, Any]]:
    return [
        {"$and": _numbers(range(1, 2000, 2), "$nin")},
        {"sessionId": {"$in": [f"no such {number}" for number in range(40)]}, "numberOfAttendees": {"$in": [*range(0, 66, 2)]}},
        {**_sessions(world, 60), "numberOfAttendees": {"$in": [*range(0, 44, 2)]}},
        {**_sessions(world, 100), "numberOfAttendees": {"$gt": 0}},
        {"sessionId": {"$nin": [f"no such {number}" for number in range(100)]}, "status": {"$ne": "ATTENDED"}},
    ]


@pytest.mark.parametrize("orders", [ORDERS[::3], pytest.param(ORDERS[1::3] + ORDERS[2::3], marks=pytest.mark.slow)])
def test_no_script_call_of_the_largest_questions_is_long(own_redis: RedisServer, orders: Sequence[Any]) -> None:
    async def scenario(filled: Filled) -> None:
        world = World(8, sessions=45, most=120)
        world._numbers = tuple(range(60))
        await filled.apply(world.happen(world.pairs()))
        documents = list(world.documents.values())
        reader = filled.reader()
        assert isinstance(filled._client, Server)
        counting = Counting(filled._client)
        for wanted in _attacks(world):
            for order in orders:
                counting.counts.clear()
                query = {"filter": wanted, "sort": [{"fieldName": field, "order": way} for field, way in order]}
                page = await reader.query(parse_query(query))
                assert page.attendances == queries.answer(documents, query)[:50]
                assert max(counting.counts) < COMMANDS, query
                assert sum(counting.counts) < ALTOGETHER, query
            counting.counts.clear()
            assert await reader.count(parse_filter(wanted)) == len(queries.answer(documents, {"filter": wanted}))
            assert max(counting.counts) < COMMANDS, wanted

    on(own_redis, 4, scenario)


def test_what_would_be_too_many_lookups_names_what_to_narrow() -> None:
    for wanted in (
        {"sessionId": {"$in": [f"s{n}" for n in range(100)]}, "$and": _numbers(range(0, 40, 2), "$nin")},
        {"sessionId": {"$in": [f"s{n}" for n in range(100)]}, "numberOfAttendees": {"$in": [*range(0, 200, 2)]}},
        {"sessionId": {"$nin": [f"s{n}" for n in range(100)]}, "numberOfAttendees": {"$in": [*range(0, 200, 2)]}},
    ):
        with pytest.raises(QueryError, match="sessions times statuses times numbers") as error:
            parse_filter(wanted)
        assert [each.rule for each in error.value.violations] == ["TOO_LARGE"]
        # where bookings are named nothing is looked up by session or number
        assert parse_filter({**wanted, "bookingId": "b"}).bookings.allowed == {"b"}


async def _of_one_booking(filled: Filled, sessions: int) -> AttendanceReader:
    for start in range(0, sessions, 1000):
        numbers = range(start, min(sessions, start + 1000))
        await filled.apply(
            Event("attendance.check_in", "BK-1", f"s{number:05}", _NOW, "/k", "1", "", number % 7, "", _NOW)
            for number in numbers
        )
    return filled.reader()


def test_a_booking_of_many_sessions_is_read_in_parts(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(filled: Filled) -> None:
        reader = await _of_one_booking(filled, 5000)
        assert isinstance(filled._client, Server)
        counting = Counting(filled._client)
        query = {"filter": {"bookingId": "BK-1"}, "sort": [{"fieldName": "sessionId", "order": "DESC"}]}
        page = await reader.query(parse_query(query))
        assert [each["sessionId"] for each in page.attendances] == [f"s{number:05}" for number in range(4999, 4949, -1)]
        assert await reader.count(parse_filter({"bookingId": {"$in": ["BK-1", "BK-2"]}})) == 5000
        assert max(counting.counts) < COMMANDS
        monkeypatch.setattr(live_module, "MOST_OF_BOOKINGS", 4000)
        with pytest.raises(QueryError, match="filter by fewer"):
            await reader.query(parse_query(query))

    on(own_redis, 2, scenario)


@pytest.mark.parametrize("units", [1, 40])
def test_bookings_are_read_whole_by_steps_of_any_size(redis_server: Redis, monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    monkeypatch.setattr(live_module, "MOST_UNITS", units)

    async def scenario(filled: Filled) -> None:
        world = World(9, sessions=12, most=30)
        await filled.apply(world.happen(world.pairs()))
        await _of_one_booking(filled, 400)
        reader, names = filled.reader(), world.bookings[:20]
        for document in list(world.documents.values())[:20]:
            assert await reader.get(document["id"]) == document
        expected = sum(1 for booking, _ in world.documents if booking in names)
        assert await reader.count(parse_filter({"bookingId": {"$in": [*names, "BK-1"]}})) == expected + 400

    on(redis_server, 3, scenario)


def test_a_question_without_an_end_is_given_up(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "MOST_WORK", 5 * planner.BUDGET)

    async def scenario(filled: Filled) -> None:
        world = World(9, sessions=12, most=30)
        await filled.apply(world.happen(world.pairs()))
        reader = filled.reader()
        assert len((await reader.query(parse_query({"sort": [{"fieldName": "bookingId"}]}))).attendances) == 50
        with pytest.raises(QueryError, match="filter by a booking or a session") as error:
            await reader.query(parse_query({"sort": [{"fieldName": "status"}, {"fieldName": "bookingId"}]}))
        assert [each.rule for each in error.value.violations] == ["TOO_LARGE"]

    on(redis_server, 3, scenario)
