"""The arrivals of a session: its ATTENDED attendees by minute, counted in as many steps as it takes."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from schemas.events import Event
from schemas.times import format_time
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model.errors import TooMuchWork
from worker.read_model.query import devices
from worker.web.screen.chart import arrivals_chart

_NOW = 1_795_341_600_000_000
_MINUTE = 60_000_000
_NAMES = [f"booking-{number}" for number in range(120)]


def _event(chance: random.Random, name: str, at: int) -> Event:
    kind, status, number = chance.choice(
        [
            ("attendance.set", "ATTENDED", chance.randrange(4)),
            ("attendance.set", "ATTENDED", 1),
            ("attendance.set", "NOT_ATTENDED", 2),
            ("attendance.set", "NOT_SET", None),
            ("attendance.check_in", "", chance.randrange(1, 4)),
            ("attendance.deleted", "", None),
        ]
    )
    return Event(kind, name, "yoga", at, "/k", "1", status, number, "", at)


@pytest.mark.parametrize("place", ["redis_server", "redis_cluster"])
@pytest.mark.parametrize("at_once", [1, 7, 400])
def test_arrivals_are_counted_from_the_attendances(
    request: pytest.FixtureRequest, place: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_ARRIVALS_AT_ONCE", at_once)

    async def scenario(filled: Filled) -> None:
        chance, reader, first = random.Random(at_once), filled.reader(), _NOW // _MINUTE
        newest: dict[str, Event] = {}
        assert await reader.arrivals("yoga", first, first + 60) is None
        for batch in range(4):
            names = chance.sample(_NAMES, 90)
            events = [_event(chance, name, _NOW + (batch * 15 + chance.randrange(14)) * _MINUTE) for name in names]
            await filled.apply(events)
            newest.update(zip(names, events, strict=True))
            wanted = Counter[int]()
            for each in newest.values():
                number = each.number if each.number is not None else 1
                if each.type == "attendance.check_in" or each.status == "ATTENDED":
                    wanted[each.time // _MINUTE] += number
            # all of them, and a part that begins and ends at minutes with arrivals
            for since, until in ((first, first + 60), (first + 5, first + 15 * batch + 7)):
                found = await reader.arrivals("yoga", since, until)
                assert found is not None
                shown = [(each["minute"], each["attendees"]) for each in found["arrivals"]]
                inside = [(minute, people) for minute, people in sorted(wanted.items()) if people and since <= minute < until]
                assert shown == [(format_time(minute * _MINUTE), people) for minute, people in inside]
        assert await reader.arrivals("nobody", first, first + 60) is None

    on(request.getfixturevalue(place), 2, scenario)


def test_too_many_arrivals_are_refused(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MOST_ARRIVED", 20)
    monkeypatch.setattr(devices, "_ARRIVALS_AT_ONCE", 3)

    async def scenario(filled: Filled) -> None:
        reader, first = filled.reader(), _NOW // _MINUTE

        async def report(names: list[str], status: str, at: int = _NOW) -> None:
            await filled.apply([Event("attendance.set", name, "yoga", at, "/k", "1", status, 1, "", at) for name in names])

        await report(_NAMES[:20], "ATTENDED")
        await report(_NAMES[20:], "NOT_ATTENDED")
        found = await reader.arrivals("yoga", first, first + 60)
        assert found is not None
        assert [each["attendees"] for each in found["arrivals"]] == [20]
        await report(_NAMES[20:21], "ATTENDED", _NOW + 1)
        with pytest.raises(TooMuchWork, match=r"sessionId.*has more than 20 ATTENDED attendances"):
            await reader.arrivals("yoga", first, first + 60)
        assert await arrivals_chart(reader, "yoga", first + 60, 60) is None

    on(redis_server, 2, scenario)
