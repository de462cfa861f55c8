"""Sessions by start: every walk shows each session once and in order, also while others come, move and go."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from itertools import product
from typing import Any

import pytest

from schemas.events import Booking, Event, Window, in_order
from schemas.query.request import QueryError
from schemas.times import format_time, parse_time
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model import merged
from worker.read_model.errors import NotServing
from worker.read_model.query import sessions as sessions_query
from worker.read_model.reader import AttendanceReader, ListPage

_NOW = 1_795_341_600_000_000
_MINUTE = 60_000_000
_SESSIONS = [f"s{number}" for number in range(40)]

Page = Callable[[str | None], Awaitable[ListPage]]


class Kept:
    """What the read models should show, kept by hand."""

    def __init__(self, filled: Filled, seed: int) -> None:
        self.chance = random.Random(seed)
        self._filled = filled
        self._bookings: dict[str, Booking] = {}
        self._attendances: set[tuple[str, str]] = set()
        self._at = _NOW

    async def change(self, bookings: Iterable[int], sessions: list[str] = _SESSIONS) -> None:
        """One batch: records of these bookings, which list some of the sessions, attendances and deletions."""
        records: list[Event | Booking] = []
        for number in bookings:
            name, session, self._at = f"BK-{number}", self.chance.choice(sessions), self._at + 1
            if self.chance.random() < 0.6:
                self._bookings[name] = record = self._record(name, sessions)
                records.append(record)
            elif (name, session) in self._attendances and self.chance.random() < 0.5:
                self._attendances.discard((name, session))
                records.append(Event("attendance.deleted", name, session, self._at, "/k", "1", "", None, "", self._at))
            else:
                self._attendances.add((name, session))
                records.append(Event("attendance.check_in", name, session, self._at, "/k", "1", "", 1, "", self._at))
        await self._filled.apply(records)

    def _record(self, name: str, sessions: list[str]) -> Booking:
        """At a time of its own, one that many have, or none; some are canceled."""
        chance, listed = self.chance, {}
        for session in chance.sample(sessions, min(len(sessions), chance.randrange(6))):
            own = (int(session[1:]) % 7 + chance.choice([0, 0, 0, -30, 30])) * _MINUTE
            start = chance.choice([None, _NOW + own, _NOW + own + chance.randrange(3)])
            listed[session] = Window(start, chance.choice([None, _NOW + own + 50 * _MINUTE]))
        return Booking(name, 1, False, chance.random() < 0.15, in_order(listed), self._at)

    def windows(self) -> dict[str, list[Window]]:
        """By session that has a tally: the windows that known, uncanceled bookings give."""
        found: dict[str, list[Window]] = {session: [] for _, session in self._attendances}
        for booking in self._bookings.values():
            for session, window in (booking.sessions or {}).items() if not booking.canceled else ():
                found.setdefault(session, []).append(window)
        return found

    def shown(self, *, descending: bool = False, **bounds: int | None) -> list[str]:
        """The sessions in the order of the list."""
        low, high = bounds.get("starts_from"), bounds.get("starts_before")
        after, before = bounds.get("ends_after"), bounds.get("ends_before")
        dated, unknown = [], []
        for session, windows in self.windows().items():
            start = min((_ms(each.starts) for each in windows if each.starts is not None), default=None)
            end = max((_ms(each.ends) for each in windows if each.ends is not None), default=None)
            if (low, high) != (None, None) and not (start is not None and _within(start, low, high)):
                continue
            if (after, before) != (None, None) and not (end is not None and _within(end, after and after + 1, before)):
                continue
            if start is None:
                unknown.append(session)
            else:
                dated.append((start, session))
        unknown.sort(reverse=descending)
        return [session for _, session in sorted(dated, reverse=descending)] + unknown


def _ms(moment: int) -> int:
    return moment // 1000 * 1000


def _within(moment: int, low: int | None, high: int | None) -> bool:
    return (low is None or moment >= low) and (high is None or moment < high)


async def _walk(page: Page, between: Callable[[], Awaitable[None]] | None = None) -> list[Any]:
    items, cursor = list[Any](), None
    while True:
        answer = await page(cursor)
        items += answer.items
        cursor = answer.next
        if cursor is None:
            return items
        if between is not None:
            await between()


def _names(items: list[Any]) -> list[str]:
    return [each["sessionId"] for each in items]


@pytest.fixture(params=[False, True], ids=["", "small steps"])
def _steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(merged, "_LEAST_TAKEN", 1)
        monkeypatch.setattr(merged, "_MOST_TAKEN", 2)
        monkeypatch.setattr(merged, "_MOST_CHECKED", 3)
        monkeypatch.setattr(sessions_query, "_MOST_LOOKED_AT", 4)
        monkeypatch.setattr(sessions_query, "_LOOKED_AT_ONCE", 3)
        monkeypatch.setattr(sessions_query, "_TALLIES_AT_ONCE", 5)


@pytest.mark.parametrize("place", ["redis_server", pytest.param("redis_cluster", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("_steps")
def test_walks_show_each_session_once_in_order(request: pytest.FixtureRequest, place: str) -> None:
    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 1), filled.reader()
        bounds: list[dict[str, Any]] = [
            {},
            {"starts_from": _NOW},
            {"starts_before": _NOW + 3 * _MINUTE},
            {"starts_from": _NOW - 30 * _MINUTE, "starts_before": _NOW + 1},
            {"ends_after": _NOW + 53 * _MINUTE},
            {"starts_before": _NOW + 5 * _MINUTE, "ends_after": _NOW + 22 * _MINUTE, "ends_before": _NOW + 55 * _MINUTE},
        ]
        for _ in range(4):
            await kept.change(kept.chance.sample(range(60), 25))
            assert len(kept.shown()) > 20
            for limit, more, descending in product((1, 7, 1000), bounds, (False, True)):

                async def page(cursor: str | None, limit: int = limit, more: Any = more, down: bool = descending) -> ListPage:
                    # with a cursor the conditions may be left out
                    given = {**more, "descending": down} if cursor is None or limit == 7 else {}
                    return await reader.sessions_page(limit=limit, cursor=cursor, **given)

                items = await _walk(page)
                assert _names(items) == kept.shown(**more, descending=descending), (limit, more, descending)
                named = await reader.named_sessions([*_SESSIONS, "nobody"], **more, descending=descending)
                assert named.items == items
            for item in items:
                session = await reader.session(item["sessionId"])
                assert session is not None
                assert {**item, "freshness": session["freshness"]} == session

    on(request.getfixturevalue(place), 3, scenario)


@pytest.mark.usefixtures("_steps")
def test_a_walk_misses_nothing_while_other_sessions_change(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 2), filled.reader()
        resting, moving = _SESSIONS[:25], _SESSIONS[25:]
        for descending in (False, True):
            await kept.change(range(40), resting)
            await kept.change(range(100, 140), moving)
            want = [each for each in kept.shown(descending=descending) if each in resting]

            async def change() -> None:
                # bookings of their own
                await kept.change(kept.chance.sample(range(100, 140), 8), moving)

            names = _names(
                await _walk(
                    lambda cursor, down=descending: reader.sessions_page(descending=down, limit=3, cursor=cursor), change
                )
            )
            assert [each for each in names if each in resting] == want

    on(redis_server, 3, scenario)


@pytest.mark.parametrize("seed", range(6))
def test_earliest_starts_follow_every_change_and_a_repair(redis_server: Redis, seed: int) -> None:
    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, seed), filled.reader()
        for _ in range(12):
            # few sessions, so that windows come and go within a batch
            await kept.change([kept.chance.randrange(12) for _ in range(3)], _SESSIONS[:5])
            assert _names((await reader.sessions_page()).items) == kept.shown()
        for number in range(filled.partitions):
            await filled.repair(number)
        assert _names((await reader.sessions_page()).items) == kept.shown()

    on(redis_server, 2, scenario)


def test_a_page_looks_at_a_bounded_number_of_sessions(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_query, "_MOST_LOOKED_AT", 50)
    monkeypatch.setattr(sessions_query, "_LOOKED_AT_ONCE", 25)

    async def scenario(filled: Filled) -> None:
        windows = {f"s{number:03}": Window(_NOW + number, _NOW + number * _MINUTE) for number in range(200)}
        await filled.apply([Booking("BK-1", 1, False, False, in_order(windows), _NOW)])
        reader = filled.reader()
        page = await reader.sessions_page(ends_after=_NOW + 197 * _MINUTE)
        assert page.items == []
        assert page.paging["hasNext"]
        walked = await _walk(lambda cursor: reader.sessions_page(ends_after=_NOW + 197 * _MINUTE, cursor=cursor))
        assert _names(walked) == ["s198", "s199"]
        assert parse_time(walked[0]["endsAt"]) == _NOW + 198 * _MINUTE
        assert walked[0]["startsAt"] == format_time(_NOW)

    on(redis_server, 3, scenario)


def test_a_cursor_of_other_conditions_is_refused(redis_server: Redis) -> None:
    async def refused(page: Awaitable[ListPage], rule: str) -> None:
        with pytest.raises(QueryError) as error:
            await page
        assert [(each.field, each.rule) for each in error.value.violations] == [("cursor", rule)]

    async def scenario(filled: Filled) -> None:
        kept, reader = Kept(filled, 3), filled.reader()
        await kept.change(range(30))
        cursor = (await reader.sessions_page(starts_from=_NOW - 60 * _MINUTE, limit=2)).next
        await refused(reader.sessions_page(starts_from=_NOW, cursor=cursor), "OTHER_QUERY")
        await refused(reader.sessions_page(descending=True, cursor=cursor), "OTHER_QUERY")
        await refused(reader.alerts_page(cursor=cursor), "MALFORMED")
        assert (await AttendanceReader(filled._client, filled.base).sessions_page(cursor=cursor)).items
        await filled.begin_repair(1)
        with pytest.raises(NotServing):
            await reader.sessions_page()

    on(redis_server, 3, scenario)
