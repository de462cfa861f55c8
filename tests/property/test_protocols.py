"""What a reader answers is the same in both protocols that Redis speaks, and by any client of redis-py."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis as Client

from schemas.attendance import attendance_id, guid
from schemas.events import Event
from schemas.query.request import parse_query
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.settings import load_settings

_NOW = 1_795_341_600_000_000


def _said(kind: str, booking: str) -> Event:
    return Event(f"attendance.{kind}", booking, "yoga", _NOW, "/k", booking, "", 1, "", _NOW)


async def _asked(client: Any, base: str) -> list[Any]:
    async with client:
        reader = AttendanceReader(client, base)
        summary = await reader.booking("BK-1")
        answers = [
            await reader.session("yoga"),
            await reader.sessions(),
            summary,
            await reader.no_shows(),
            await reader.alerts(),
            await reader.bookings(),
            await reader.count_bookings(),
            await reader.get(guid(attendance_id("BK-1", "yoga"))),
            (await reader.query(parse_query({"sort": [{"fieldName": "sessionId", "order": "DESC"}]}))).attendances,
            await reader.status(),
            await reader.place("BK-1"),
        ]
    assert all(answers), answers
    return answers


def test_both_protocols_of_redis_give_the_same_answers(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        events = [_said("check_in" if number % 3 else "no_show", f"BK-{number}") for number in range(12)]
        # one says otherwise later, which is an alert
        await filled.apply([*events, _said("no_show", "BK-1")._replace(time=_NOW + 1_000_000, id="other", source="/scanner")])
        urls = [f"{redis_server.url}?protocol={number}" for number in (2, 3)]
        answers = [await _asked(create_redis(load_settings(_env_file=None, redis=url)), filled.base) for url in urls]
        # and by a client that the dashboard made itself
        answers += [await _asked(Client.from_url(url, decode_responses=True), filled.base) for url in urls]
        assert answers == [answers[0]] * 4

    on(redis_server, 3, scenario)
