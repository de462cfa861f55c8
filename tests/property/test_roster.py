"""The roster of a session: every walk shows each booking once, in order and as it is, also while others come, change and go."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from itertools import product
from typing import Any

import pytest

from schemas.events import Booking, Event, Window
from schemas.query.request import QueryError
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model import ranked
from worker.read_model.errors import NotServing
from worker.read_model.query import roster_alerts
from worker.read_model.query.roster import RosterState
from worker.read_model.reader import ListPage

_NOW = 1_795_341_600_000_000
_STATES = list(RosterState)
#: Names whose order by bytes differs from that of most locales, and some that others begin with.
_NAMES = [f"{head}{number}" for number in range(40) for head in ("BK-", "bk-", "Ä", "ß", "ab", "\U0001f600", "BK")]

Page = Callable[[str | None], Awaitable[ListPage | None]]


class Kept:
    """The roster of the session ``yoga``, kept by hand: by booking, its state and its participants."""

    def __init__(self, filled: Filled, seed: int) -> None:
        self.chance = random.Random(seed)
        self._filled = filled
        self._status: dict[str, str] = {}
        self.participants: dict[str, int] = {}
        self._listed: set[str] = set()
        self._at = _NOW

    async def change(self, names: Iterable[str]) -> None:
        """One batch: records that list the session or not, reports, deletions."""
        records: list[Event | Booking] = []
        for name in names:
            self._at, chance = self._at + 1, self.chance.random()
            if chance < 0.4:
                canceled, listed = self.chance.random() < 0.1, self.chance.random() < 0.8
                self.participants[name] = 0 if canceled else 3
                (self._listed.discard if canceled or not listed else self._listed.add)(name)
                sessions = {"yoga": Window(_NOW, None)} if listed else {"other": Window(None, None)}
                records.append(Booking(name, 3, False, canceled, sessions, self._at))
            elif chance < 0.5:
                self._status.pop(name, None)
                records.append(self._event(name, "attendance.deleted", ""))
            else:
                self._status[name] = status = self.chance.choice(["ATTENDED", "NOT_ATTENDED", "NOT_SET"])
                records.append(self._event(name, "attendance.set", status))
        await self._filled.apply(records)

    def _event(self, name: str, kind: str, status: str) -> Event:
        # some contradict themselves
        number = 1 if status == "ATTENDED" or (status and self.chance.random() < 0.3) else None
        return Event(kind, name, "yoga", self._at, "/k", "1", status, number, "", self._at)

    def shown(self, order: str | None, states: Iterable[str] = (), prefix: str = "") -> list[tuple[str, str]]:
        """bookingId and state in the order of the list."""
        names = self._status.keys() | self._listed
        found = [(name, self._status.get(name, "NO_ATTENDANCE")) for name in names if name.startswith(prefix)]
        found = [each for each in found if not states or each[1] in states]
        found.sort(key=lambda each: each[0].encode())
        return sorted(found, key=lambda each: _STATES.index(RosterState(each[1]))) if order == "status" else found


async def _walk(page: Page, between: Callable[[], Awaitable[None]] | None = None) -> list[Any]:
    items, cursor = list[Any](), None
    while True:
        answer = await page(cursor)
        assert answer is not None
        items += answer.items
        cursor = answer.next
        if cursor is None:
            return items
        if between is not None:
            await between()


def _pairs(items: list[Any]) -> list[tuple[str, str]]:
    return [(each["bookingId"], each["state"]) for each in items]


@pytest.mark.parametrize("place", ["redis_server", "redis_cluster"])
@pytest.mark.parametrize("small_steps", [False, True])
def test_walks_show_each_booking_once_in_order(
    request: pytest.FixtureRequest, place: str, small_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_steps:
        monkeypatch.setattr(ranked, "share", lambda *_: 2)

    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 1), filled.reader()
        for _ in range(3):
            await kept.change(kept.chance.sample(_NAMES, 120))
        assert {state for _, state in kept.shown(None)} == set(_STATES)
        chosen = [(), ("NO_ATTENDANCE",), ("NOT_ATTENDED", "ATTENDED")]
        for order, states, prefix in product((None, "bookingId", "status"), chosen, ("", "BK", "BK-1", "Ä", "zz")):
            want = kept.shown(order, states, prefix)
            for limit in (1, 9, 1000) if len(want) < 20 else (7, 60):
                given: dict[str, Any] = {"order": order, "states": states, "prefix": prefix}

                async def page(cursor: str | None, limit: int = limit, given: Any = given) -> ListPage | None:
                    # with a cursor the conditions may be left out
                    return await reader.roster_page(
                        "yoga", limit=limit, cursor=cursor, **(given if cursor is None or limit == 7 else {})
                    )

                assert _pairs(await _walk(page)) == want, (given, limit)
        for item in await _walk(lambda cursor: reader.roster_page("yoga", cursor=cursor)):
            latest = await reader.latest(item["bookingId"], "yoga")
            assert item["attendance"] == (latest and latest[0])
            assert item["expectedParticipants"] == kept.participants.get(item["bookingId"], 0)
        assert await reader.roster_page("nothing") is None

    on(request.getfixturevalue(place), 3, scenario)


@pytest.mark.parametrize("order", ["bookingId", "status"])
def test_a_walk_misses_nothing_while_other_bookings_change(redis_server: Redis, order: Any) -> None:
    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 2), filled.reader()
        await kept.change(_NAMES)
        resting, moving = set(_NAMES[::2]), _NAMES[1::2]
        want = [each for each in kept.shown(order) if each[0] in resting]

        async def change() -> None:
            await kept.change(kept.chance.sample(moving, 15))

        walked = await _walk(lambda cursor: reader.roster_page("yoga", order=order, limit=11, cursor=cursor), change)
        assert [each for each in _pairs(walked) if each[0] in resting] == want
        for number in range(filled.partitions):
            await filled.repair(number)
        repaired = await _walk(lambda cursor: reader.roster_page("yoga", order=order, cursor=cursor))
        assert _pairs(repaired) == kept.shown(order)

    on(redis_server, 3, scenario)


@pytest.mark.parametrize("most_alerts", [1000, 0], ids=["few", "many"])
def test_bookings_with_an_open_alert(redis_server: Redis, most_alerts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_alerts, "_MOST_ALERTS", most_alerts)
    monkeypatch.setattr(roster_alerts, "_LOOKED_AT_ONCE", 20)
    monkeypatch.setattr(roster_alerts, "_MOST_LOOKED_AT", 60)

    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 4), filled.reader()
        await kept.change(_NAMES)
        alerts = await reader.alerts(session_id="yoga")
        names = {each["bookingId"] for each in alerts}
        assert 5 < len(names) < len(kept.shown(None)) / 2
        for order, states, prefix in product((None, "status"), ((), ("ATTENDED", "NOT_SET")), ("", "BK")):
            want = [each for each in kept.shown(order, states, prefix) if each[0] in names]
            given: dict[str, Any] = {"order": order, "states": states, "prefix": prefix, "alerts": "open"}
            for limit in (2, 1000):
                walked = await _walk(lambda at, n=limit, given=given: reader.roster_page("yoga", limit=n, cursor=at, **given))
                assert _pairs(walked) == want
        assert await reader.roster_page("nothing", alerts="open") is None

    on(redis_server, 3, scenario)


def test_a_cursor_of_another_roster_is_refused(redis_server: Redis) -> None:
    async def refused(page: Awaitable[Any], rule: str) -> None:
        with pytest.raises(QueryError) as error:
            await page
        assert [(each.field, each.rule) for each in error.value.violations] == [("cursor", rule)]

    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 3), filled.reader()
        await kept.change(_NAMES)
        page = await reader.roster_page("yoga", limit=2, prefix="BK")
        assert page is not None
        await refused(reader.roster_page("other", cursor=page.next), "OTHER_QUERY")
        await refused(reader.roster_page("yoga", prefix="Ä", cursor=page.next), "OTHER_QUERY")
        await refused(reader.roster_page("yoga", order="status", cursor=page.next), "OTHER_QUERY")
        await refused(reader.sessions_page(cursor=page.next), "MALFORMED")
        await filled.begin_repair(1)
        with pytest.raises(NotServing):
            await reader.roster_page("yoga")

    on(redis_server, 3, scenario)
