"""Gets that go in one round trip: each is answered, or told, for itself."""

from __future__ import annotations

import asyncio

import pytest

from schemas.attendance import attendance_id, guid
from schemas.events import Event
from schemas.query.request import parse_filter
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model.reader import AttendanceReader, NotServing
from worker.topics import partition_of

_NOW = 1_795_341_600_000_000


def _came(booking: str) -> Event:
    return Event("attendance.check_in", booking, "yoga", _NOW, "/k", booking, "", 1, "", _NOW)


def test_a_partition_in_repair_fails_only_ids_that_it_may_hold(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        names = [f"BK-{number}" for number in range(40)]
        await filled.apply(map(_came, names))
        await filled.begin_repair(1)
        reader = filled.reader()
        answers = await asyncio.gather(
            *(reader.get(guid(attendance_id(name, "yoga"))) for name in names), return_exceptions=True
        )
        away = {name for name, found in zip(names, answers, strict=True) if isinstance(found, NotServing)}
        assert away == {name for name in names if partition_of(name, filled.partitions) == 1}
        assert {found["bookingId"] for found in answers if isinstance(found, dict)} == set(names) - away

    on(redis_server, 4, scenario)


def test_what_concerns_all_is_told_to_all(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        reader = AttendanceReader(filled._client, "nobody")
        some = [guid(attendance_id(f"BK-{number}", "yoga")) for number in range(100)]
        answers = await asyncio.gather(*map(reader.get, some), return_exceptions=True)
        assert all(isinstance(answer, NotServing) for answer in answers)
        with pytest.raises(NotServing, match="no namespace is live"):
            await reader.get(some[0])

    on(redis_server, 4, scenario)


def test_a_namespace_that_was_left_is_not_read_any_more(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        reader = filled.reader()
        await filled.apply([_came("BK-1")])
        assert await reader.count(parse_filter(None)) == 1  # it knows the namespace now
        await filled.rebuild(3)
        await filled.apply([_came("BK-2")])
        assert await reader.get(guid(attendance_id("BK-2", "yoga"))) is not None
        await filled.rebuild(2)
        await filled.apply([_came("BK-3")])
        assert await reader.count(parse_filter(None)) == 3
        await filled.rebuild(4)
        await filled.apply([_came("BK-4")])
        session = await reader.session("yoga")
        assert session is not None
        assert session["attended"] == 4

    on(redis_server, 4, scenario)
