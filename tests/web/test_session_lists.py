"""Sessions by start and the bookings of a session over HTTP."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.support.serving import Api, booking_name, event, upserted
from tests.web.test_attendances import problem, violations
from tests.web.test_ops_reads import published


def walk(api: Api, path: str, name: str, parameters: dict[str, Any]) -> list[Any]:
    """The items of all pages; the conditions are sent with the first."""
    items, limit = [], parameters["limit"]
    while True:
        page = api.client.get(path, params=parameters).json()
        meta = page["pagingMetadata"]
        items += page[name]
        assert meta["count"] == len(page[name]) <= limit
        assert meta["hasNext"] is ("next" in meta["cursors"])
        assert page["freshness"]["lag"] == 0
        if not meta["hasNext"]:
            return items
        parameters = {"limit": limit, "cursor": meta["cursors"]["next"]}


def at(minute: int) -> str:
    return f"2031-05-06T10:{minute:02}:00Z"


@pytest.fixture(scope="module")
def day(api: Api) -> list[str]:
    """Sessions of a day that no other test has, in the order of their starts, two at a time."""
    names = [f"{booking_name()}-{letter}" for letter in "abcdefg"]
    windows = [
        {"sessionId": name, "startsAt": at(n // 2), "endsAt": at(30 + n)} for n, name in enumerate(sorted(names)) if n < 6
    ]
    later = [{"sessionId": each["sessionId"], "startsAt": at(20), "endsAt": at(25)} for each in windows]
    bookings = [upserted(booking_name(), 2, listed) for listed in (windows, *[later] * 4)]
    published(api, *bookings, event("check_in", booking_name(), min(names), numberOfAttendees=3))
    return [each["sessionId"] for each in windows]


def test_sessions_by_their_start(api: Api, day: list[str]) -> None:
    bounds = {"startsFrom": at(0), "startsBefore": at(59)}
    for order, limit in (("ASC", 1), ("ASC", 4), ("DESC", 2), ("DESC", 1000)):
        shown = walk(api, "/v1/sessions", "sessions", {**bounds, "order": order, "limit": limit})
        assert [each["sessionId"] for each in shown] == (day if order == "ASC" else day[::-1])
    first = api.client.get("/v1/sessions", params={**bounds, "limit": 1}).json()["sessions"][0]
    tally = api.client.get(f"/v1/sessions/{day[0]}").json()
    del tally["freshness"]
    assert first == tally
    assert (first["bookings"], first["attendees"], first["startsAt"]) == (6, 3, "2031-05-06T10:00:00.000Z")


def test_running_sessions(api: Api, day: list[str]) -> None:
    bounds = {"startsFrom": at(0), "startsBefore": at(2), "endsAfter": at(31), "limit": 100}
    assert [each["sessionId"] for each in walk(api, "/v1/sessions", "sessions", bounds)] == day[2:4]
    bounds = {"startsFrom": "2031-05-06T12:00:00+02:00", "endsBefore": at(32), "limit": 100}
    assert [each["sessionId"] for each in walk(api, "/v1/sessions", "sessions", bounds)] == day[:2]


def test_sessions_by_name(api: Api, day: list[str]) -> None:
    odd = f"{booking_name()}/bookings"
    published(api, event("check_in", booking_name(), odd))
    asked = {"sessionId": [day[3], f" {day[0]} ", odd, "nobody", "\x07"]}
    page = api.client.get("/v1/sessions", params=asked).json()
    assert [each["sessionId"] for each in page["sessions"]] == [day[0], day[3], odd]
    assert page["pagingMetadata"] == {"count": 3, "cursors": {}, "hasNext": False}
    down = api.client.get("/v1/sessions", params={**asked, "order": "DESC", "startsFrom": at(1)}).json()
    assert [each["sessionId"] for each in down["sessions"]] == [day[3]]
    assert violations(api.client.get("/v1/sessions", params={**asked, "limit": 5})) == {"limit": "UNKNOWN_FIELD"}
    assert list(violations(api.client.get("/v1/sessions", params={"sessionId": ["x"] * 101}))) == ["sessionId"]


def test_wrong_parameters_are_named(api: Api, day: list[str]) -> None:
    for wrong in (
        "startsFrom=today",
        "startsFrom=2031-05-06T12:00:00+02:00",
        "endsAfter=2031-05-06",
        "order=asc",
        "limit=1001",
        "start=x",
        "order=ASC&order=ASC",
        "cursor=AAAA",
    ):
        assert list(violations(api.client.get(f"/v1/sessions?{wrong}"))) == [wrong.partition("=")[0]]
    assert "%2B" in api.client.get("/v1/sessions?startsFrom=2031-05-06T12:00:00+02:00").json()["message"]
    for wrong in ("order=name", "limit=0", "prefix=x&prefix=y", "alert=x", "cursor=AAAA"):
        assert list(violations(api.client.get(f"/v1/sessions/{day[0]}/bookings?{wrong}"))) == [wrong.partition("=")[0]]
    assert list(violations(api.client.get(f"/v1/sessions/{day[0]}/bookings?state=NOT_SET&state=HERE"))) == ["state.1"]
    cursor = api.client.get("/v1/sessions?limit=1").json()["pagingMetadata"]["cursors"]["next"]
    assert violations(api.client.get("/v1/sessions", params={"cursor": cursor, "order": "DESC"})) == {"cursor": "OTHER_QUERY"}


@pytest.mark.parametrize("tail", ["", "/with/slashes", " ä%2F"])
def test_the_bookings_of_a_session(api: Api, tail: str) -> None:
    session, start = booking_name() + tail, booking_name()
    names = [f"{start}-{letter}" for letter in "abcdefgh"]
    listed = [{"sessionId": session}]
    published(
        api,
        *(upserted(name, 2, listed) for name in names[:5]),
        *(event("check_in", name, session, numberOfAttendees=2) for name in names[3:6]),
        event("no_show", names[6], session),
        event("set", names[7], session, status="NOT_SET", numberOfAttendees=1),
    )
    path = f"/v1/sessions/{quote(session, safe='')}/bookings"
    roster = walk(api, path, "bookings", {"limit": 3})
    assert [each["bookingId"] for each in roster] == names
    states = [each["state"] for each in roster]
    assert states == ["NO_ATTENDANCE"] * 3 + ["ATTENDED"] * 3 + ["NOT_ATTENDED", "NOT_SET"]
    assert [each["expectedParticipants"] for each in roster] == [2] * 5 + [0] * 3
    assert roster[0]["attendance"] is None
    assert (
        roster[3]["attendance"]
        == api.client.get(f"/bookings/v2/attendance/{roster[3]['attendance']['id']}").json()["attendance"]
    )
    by_status = walk(api, path, "bookings", {"limit": 3, "order": "status"})
    assert [each["bookingId"] for each in by_status] == names[3:] + names[:3]
    some = walk(api, path, "bookings", {"limit": 1, "state": ["NO_ATTENDANCE", "NOT_ATTENDED"], "prefix": f" {start}-"})
    assert [each["bookingId"] for each in some] == [*names[:3], names[6]]
    assert walk(api, path, "bookings", {"limit": 100, "prefix": f"{start}-x"}) == []
    assert walk(api, path, "bookings", {"limit": 100, "alerts": "open"}) == roster[7:]
    assert walk(api, path, "bookings", {"limit": 100, "prefix": "\x07"}) == []


def test_no_such_session(api: Api) -> None:
    assert problem(api.client.get("/v1/sessions/nobody-was-here/bookings"), 404) == "SESSION_NOT_FOUND"
    assert problem(api.client.get("/v1/sessions//bookings"), 404) == "SESSION_NOT_FOUND"
