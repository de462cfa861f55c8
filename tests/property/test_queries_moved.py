"""What moves between the look at an index and the look at its document stands nowhere on the page, never at a wrong place."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from schemas.events import Event
from schemas.query.request import parse_query
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query import planner

_NOW = 1_795_341_600_000_000


def _came(booking: str, number: int, later: int = 0) -> Event:
    return Event("attendance.check_in", booking, "yoga", _NOW + later, "/k", f"{booking}{number}", "", number, "", _NOW + later)


@pytest.mark.parametrize("order", ["ASC", "DESC"], ids=["by an index", "by groups"])
def test_what_moves_meanwhile_is_left_out(redis_server: Redis, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    async def scenario(filled: Filled) -> None:
        await filled.apply([_came("a", 1), _came("b", 2), _came("c", 3)])
        reads, read = 0, NamespaceView.documents

        async def documents(live: NamespaceView, ids: Mapping[bytes, int]) -> object:
            nonlocal reads
            reads += 1
            if reads == (1 if order == "ASC" else 3):
                await filled.apply([_came("c", 1, later=1_000_000)])
            return await read(live, ids)

        monkeypatch.setattr(NamespaceView, "documents", documents)
        # a number a group, so that the last is looked at when the first is done
        monkeypatch.setattr(planner, "_AT_ONCE", 1)
        sort = [{"fieldName": "numberOfAttendees"}, {"fieldName": "id", "order": order}]
        page = await filled.reader().query(parse_query({"sort": sort}))
        assert [(each["bookingId"], each["numberOfAttendees"]) for each in page.attendances] == [("a", 1), ("b", 2)]

    on(redis_server, 1, scenario)
