"""Set and delete in bulk."""

from typing import Any

import httpx

from tests.support.serving import Api, booking_name, identity
from tests.web.test_attendances import problem, violations

SET, DELETE = "/bookings/v2/bulk/attendance/set", "/bookings/v2/bulk/attendance/delete"


def entry(booking: str, session: str, status: str = "ATTENDED", **more: Any) -> dict[str, Any]:
    return {"attendance": {"bookingId": booking, "sessionId": session, "status": status, **more}}


def bulk(api: Api, entries: Any, **more: Any) -> httpx.Response:
    return api.client.post(SET, json={"attendanceDetails": entries, **more})


def test_a_hundred_attendances_are_set_in_one_call(api: Api) -> None:
    booking = booking_name()
    done = bulk(api, [entry(f"{booking}-{n % 7}", f"s{n}", numberOfAttendees=n) for n in range(100)], returnFullEntity=True)
    assert done.status_code == 200, done.text
    assert done.json()["bulkActionMetadata"] == {"totalSuccesses": 100, "totalFailures": 0, "undetailedFailures": 0}
    for n, result in enumerate(done.json()["results"]):
        name = identity(f"{booking}-{n % 7}", f"s{n}")
        assert result["itemMetadata"] == {"id": name, "originalIndex": n, "success": True}
        assert (result["item"]["id"], result["item"]["numberOfAttendees"]) == (name, n)


def test_items_come_only_where_they_are_asked_for(api: Api) -> None:
    done = bulk(api, [entry(booking_name(), "s1")])
    assert [set(result) for result in done.json()["results"]] == [{"itemMetadata"}]


def test_of_several_entries_for_one_attendance_the_last_wins(api: Api) -> None:
    booking = booking_name()
    entries = [entry(booking, "s1", numberOfAttendees=n) for n in range(20)]
    done = bulk(api, [*entries, entry(booking, "s1", "NOT_ATTENDED")], returnFullEntity=True)
    assert done.json()["results"][-1]["item"]["status"] == "NOT_ATTENDED"
    assert api.get(booking, "s1").json()["attendance"]["status"] == "NOT_ATTENDED"


def test_one_entry_that_lacks_something_fails_them_all(api: Api) -> None:
    booking = booking_name()
    lacking = {"attendance": {"bookingId": booking, "status": "ATTENDED"}}
    said = bulk(api, [entry(booking, "s1"), lacking, {}, "x", entry(booking, "s2", numberOfAttendees=-1)])
    assert violations(said) == {
        "attendanceDetails.1.attendance.sessionId": "REQUIRED",
        "attendanceDetails.2.attendance": "REQUIRED",
        "attendanceDetails.3.attendance": "WRONG_TYPE",
        "attendanceDetails.4.attendance.numberOfAttendees": "OUT_OF_RANGE",
    }
    assert api.get(booking, "s1").status_code == 404


def test_lists_that_are_missing_or_too_long(api: Api) -> None:
    for document in ({}, {"attendanceDetails": None}, {"attendanceDetails": []}):
        assert problem(api.client.post(SET, json=document), 400) == "ATTENDANCES_MISSING_IN_REQUEST"
    for document in ({}, {"attendanceIds": []}):
        assert problem(api.client.post(DELETE, json=document), 400) == "ATTENDANCES_MISSING_IN_REQUEST"
    assert violations(bulk(api, [entry("b", "s")] * 101)) == {"attendanceDetails": "TOO_MANY"}
    assert violations(bulk(api, {"0": entry("b", "s")})) == {"attendanceDetails": "WRONG_TYPE"}
    assert violations(bulk(api, [entry("b", "s")], returnFullEntity="yes")) == {"returnFullEntity": "WRONG_TYPE"}
    # findings are bounded, whatever comes
    assert len(violations(bulk(api, [{}] * 100))) == 20


def test_deleting_tells_what_was_there(api: Api) -> None:
    booking = booking_name()
    bulk(api, [entry(booking, "s1"), entry(booking, "s2")])
    ids = [identity(booking, "s1"), "no-guid", identity(booking, "s2"), identity(booking, "s3")]
    done = api.client.post(DELETE, json={"attendanceIds": ids}).json()
    assert done["bulkActionMetadata"] == {"totalSuccesses": 2, "totalFailures": 2, "undetailedFailures": 0}
    assert [each["itemMetadata"]["id"] for each in done["results"]] == ids
    assert [each["itemMetadata"]["success"] for each in done["results"]] == [True, False, True, False]
    assert done["results"][3]["itemMetadata"]["error"]["code"] == "ATTENDANCE_NOT_FOUND"
    assert {api.get(booking, session).status_code for session in ("s1", "s2")} == {404}
    assert violations(api.client.post(DELETE, json={"attendanceIds": [7]})) == {"attendanceIds.0": "WRONG_TYPE"}
