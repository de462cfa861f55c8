"""Lists by page: open alerts and bookings by noShowRate, each walk in order and whole, whatever it is narrowed to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from typing import Any

import pytest

from schemas.alerts import AlertKind
from schemas.events import Event
from schemas.query.request import QueryError
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model import ranked
from worker.read_model.reader import AttendanceReader, ListPage

_NOW = 1_795_341_600_000_000
_SESSIONS, _BOOKINGS = 6, 48

Page = Callable[[str | None], Awaitable[ListPage]]


def _happened() -> list[Event]:
    """Contradictions of every second booking at every session, many at the same time; some bookings never come."""
    found = []
    for booking, session in product(range(_BOOKINGS), range(_SESSIONS)):
        status = "NOT_ATTENDED" if session < booking % 7 else "ATTENDED"
        number = booking % 2 if status == "NOT_ATTENDED" else session % 5
        at = _NOW + (booking // 7) * 1_000_000
        found.append(Event("attendance.set", f"BK-{booking}", f"s{session}", at, "/k", "1", status, number, "", at))
    return found


async def _walked(page: Page) -> list[Any]:
    found, cursor = list[Any](), None
    while True:
        shown = await page(cursor)
        found += shown.items
        assert shown.paging["hasNext"] is (shown.next is not None)
        if shown.next is None:
            return found
        assert shown.items
        cursor = shown.next


def _newest_first(alerts: Sequence[Any]) -> list[Any]:
    return sorted(alerts, key=lambda each: (each["openedAt"], each["alertId"]), reverse=True)


@pytest.mark.parametrize("place", ["redis_server", "redis_cluster"])
@pytest.mark.parametrize("small_steps", [False, True])
def test_every_walk_through_the_alerts_shows_all_in_order(
    request: pytest.FixtureRequest, place: str, small_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_steps:
        monkeypatch.setattr(ranked, "BUDGET", 1)
        monkeypatch.setattr(ranked, "share", lambda *_: 1)

    async def scenario(filled: Filled) -> None:
        await filled.apply(_happened())
        reader = filled.reader()
        everything = await reader.alerts(limit=100_000)
        assert len(everything) > 100
        assert everything == _newest_first(everything)
        kinds, sessions, bookings = (None, *AlertKind), (None, "s1", "s3"), (None, "BK-6", "BK-13")
        for number, (kind, session, booking) in enumerate(product(kinds, sessions, bookings)):
            narrowed: dict[str, Any] = {"kind": kind, "session_id": session, "booking_id": booking}
            wanted = [
                each
                for each in everything
                if kind in (None, each["kind"])
                and session in (None, each.get("sessionId"))
                and booking in (None, each["bookingId"])
            ]
            limit = (1, 3, 50)[number % 3] if len(wanted) < 20 else (7, 13, 100)[number % 3]

            async def page(cursor: str | None, limit: int = limit, narrowed: dict[str, Any] = narrowed) -> ListPage:
                # with a cursor the conditions may be left out
                more = narrowed if cursor is None or limit % 2 else {}
                return await reader.alerts_page(limit=limit, cursor=cursor, **more)

            assert await _walked(page) == wanted, narrowed
            assert await reader.alerts(limit=5, **narrowed) == wanted[:5]

    on(request.getfixturevalue(place), 3, scenario)


def test_bookings_by_rate_are_walked_through_in_order(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        await filled.apply(_happened())
        reader = filled.reader()
        everything = (await reader.no_shows(100_000))["bookings"]
        assert everything == sorted(everything, key=lambda each: (-each["noShowRate"], each["bookingId"]))
        rates = {each["noShowRate"] for each in everything}
        assert len(everything) > 30 > len(rates) > 4
        for limit in (1, 7, 1000):
            assert await _walked(lambda cursor, limit=limit: reader.no_shows_page(limit, cursor)) == everything

    on(redis_server, 3, scenario)


def test_a_walk_goes_on_where_its_last_alert_closed(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        await filled.apply(_happened())
        reader = filled.reader()
        everything = await reader.alerts(limit=100_000)
        page = await reader.alerts_page(limit=10)
        gone = [each for each in everything[5:15] if each["kind"] != AlertKind.FREQUENT_NO_SHOWS]
        later = _NOW + 900_000_000
        await filled.apply(
            Event("attendance.deleted", each["bookingId"], each["sessionId"], later, "/k", "2", "", None, "", later)
            for each in gone
        )
        rest = await _walked(lambda cursor: reader.alerts_page(limit=10, cursor=cursor or page.next))
        left = {each["alertId"] for each in await reader.alerts(limit=100_000)}
        shown = [each["alertId"] for each in rest if each["alertId"] in left]
        assert shown == [each["alertId"] for each in everything[10:] if each["alertId"] in left]

    on(redis_server, 3, scenario)


def test_a_cursor_of_another_list_or_nobody_is_refused(redis_server: Redis) -> None:
    async def refused(page: Awaitable[ListPage], rule: str) -> None:
        with pytest.raises(QueryError) as error:
            await page
        assert [(each.field, each.rule) for each in error.value.violations] == [("cursor", rule)]

    async def scenario(filled: Filled) -> None:
        await filled.apply(_happened())
        reader = filled.reader()
        cursor = (await reader.alerts_page(session_id="s1", limit=1)).next
        assert cursor is not None
        await refused(reader.no_shows_page(1, cursor), "MALFORMED")
        await refused(reader.alerts_page(cursor="AAAA"), "MALFORMED")
        await refused(reader.alerts_page(cursor=cursor[:-3] + "AAA"), "MALFORMED")
        await refused(reader.alerts_page(session_id="s2", cursor=cursor), "OTHER_QUERY")
        await refused(AttendanceReader(filled._client, filled.base).alerts_page(cursor=f"A{cursor}"), "MALFORMED")
        assert (await AttendanceReader(filled._client, filled.base).alerts_page(cursor=cursor)).items

    on(redis_server, 3, scenario)
