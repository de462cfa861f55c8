"""Query and count over HTTP; the language itself and the reader have tests of their own."""

from typing import Any

import httpx

from tests.support.serving import Api, booking_name
from tests.web.test_attendances import violations

COUNT = "/bookings/v2/attendance/count"


def course(api: Api, sessions: int) -> str:
    """A booking of so many sessions, of which every third was missed."""
    booking = booking_name()
    entries = [
        {"bookingId": booking, "sessionId": f"s{n:02}", "status": "NOT_ATTENDED" if n % 3 == 0 else "ATTENDED"}
        for n in range(sessions)
    ]
    done = api.client.post("/bookings/v2/bulk/attendance/set", json={"attendanceDetails": [{"attendance": e} for e in entries]})
    assert done.status_code == 200, done.text
    return booking


def count(api: Api, wanted: Any) -> httpx.Response:
    return api.client.post(COUNT, json={"filter": wanted})


def test_pages_follow_each_other_forward_and_back(api: Api) -> None:
    booking = course(api, 25)
    asked: dict[str, Any] = {"filter": {"bookingId": booking}, "sort": [{"fieldName": "sessionId", "order": "DESC"}]}
    seen, pages, cursor = [], [], None
    while True:
        page = api.query(cursorPaging={"limit": 10, "cursor": cursor}, **({} if cursor else asked)).json()
        pages.append([each["sessionId"] for each in page["attendances"]])
        seen += pages[-1]
        meta = page["pagingMetadata"]
        assert meta["count"] == len(page["attendances"])
        assert meta["hasNext"] is ("next" in meta["cursors"])
        if not meta["hasNext"]:
            break
        cursor = meta["cursors"]["next"]
    assert seen == [f"s{n:02}" for n in reversed(range(25))]
    back = api.query(cursorPaging={"limit": 10, "cursor": meta["cursors"]["prev"]}).json()
    assert [each["sessionId"] for each in back["attendances"]] == pages[1]


def test_filters_fields_and_counts(api: Api) -> None:
    booking = course(api, 9)
    wanted = {"bookingId": booking, "status": {"$ne": "ATTENDED"}}
    page = api.query(filter=wanted, fields=["sessionId"]).json()
    assert {each["sessionId"] for each in page["attendances"]} == {"s00", "s03", "s06"}
    assert all(set(each) == {"id", "sessionId"} for each in page["attendances"])
    assert count(api, wanted).json() == {"count": 3}
    assert count(api, {"$and": [{"bookingId": booking}, {"numberOfAttendees": {"$gte": 1}}]}).json() == {"count": 6}


def test_no_query_is_a_query_for_everything(api: Api) -> None:
    course(api, 2)
    for document in ({}, {"query": None}, {"query": {}}):
        page = api.client.post("/bookings/v2/attendance/query", json=document).json()
        assert page["pagingMetadata"]["count"] >= 2
        assert page["attendances"] == sorted(page["attendances"], key=lambda each: each["id"])
    assert api.client.post(COUNT, json={}).json()["count"] >= 2


def test_a_bad_query_names_the_field_and_rule(api: Api) -> None:
    assert violations(api.query(filter={"status": {"$like": "A"}})) == {"query.filter.status.$like": "UNKNOWN_OPERATOR"}
    assert list(violations(api.query(filter={"$or": []}))) == ["query.filter.$or"]
    assert list(violations(api.query(cursorPaging={"limit": 101}))) == ["query.cursorPaging.limit"]
    assert list(violations(api.query(cursorPaging={"cursor": "AAAA"}))) == ["query.cursorPaging.cursor"]
    assert list(violations(count(api, {"x": 1}))) == ["filter.x"]
    # a filter in the wrong place would ask for everything
    misplaced = api.client.post("/bookings/v2/attendance/query", json={"filter": {"bookingId": "b"}})
    assert violations(misplaced) == {"filter": "UNKNOWN_FIELD"}
    assert list(violations(api.client.post(COUNT, json={"query": {}}))) == ["query"]


def test_a_forged_cursor_is_a_400(api: Api) -> None:
    booking = course(api, 3)
    page = api.query(filter={"bookingId": booking}, cursorPaging={"limit": 1}).json()
    cursor = page["pagingMetadata"]["cursors"]["next"]
    text, _, signature = cursor.partition(".")
    assert api.query(cursorPaging={"cursor": cursor}).status_code == 200
    for forged in (text, f"{text}.{signature[::-1]}", cursor[:-1], f"{text}."):
        assert violations(api.query(cursorPaging={"cursor": forged})) == {"query.cursorPaging.cursor": "MALFORMED"}


def test_what_costs_too_much_names_what_to_narrow(api: Api) -> None:
    sessions, numbers = [f"no such {n}" for n in range(100)], [*range(0, 200, 2)]
    wanted = {"sessionId": {"$in": sessions}, "numberOfAttendees": {"$in": numbers}}
    assert violations(api.query(filter=wanted)) == {"query.filter": "TOO_LARGE"}
    assert violations(count(api, wanted)) == {"filter": "TOO_LARGE"}
    assert count(api, {"sessionId": {"$in": sessions}, "numberOfAttendees": {"$in": numbers[:13]}}).json() == {"count": 0}


def test_a_filter_takes_integers_of_any_length(api: Api) -> None:
    booking = course(api, 3)
    for number, many in ((-(10**17), 3), (-(10**30), 3), (10**17, 0), (10**30, 0)):
        said = count(api, {"bookingId": booking, "numberOfAttendees": {"$gt": number}})
        assert (said.status_code, said.json()) == (200, {"count": many})
