"""Get, set and delete of one attendance, well and badly asked for."""

from typing import Any

import httpx
import pytest

from tests.support.serving import Api, booking_name, identity

SET = "/bookings/v2/attendance/set"


def test_a_set_is_shown_in_its_answer(api: Api) -> None:
    booking = booking_name()
    done = api.set(booking, "s1", "ATTENDED", 3)
    assert done.status_code == 200, done.text
    shown = done.json()["attendance"]
    wanted = {"bookingId": booking, "sessionId": "s1", "status": "ATTENDED", "numberOfAttendees": 3, "source": "/api"}
    assert shown == {"id": identity(booking, "s1"), "updatedDate": shown["updatedDate"], **wanted}
    assert api.get(booking, "s1").json() == done.json()


@pytest.mark.parametrize(
    ("status", "number", "shown"),
    [
        ("ATTENDED", None, 1),
        ("NOT_ATTENDED", None, 0),
        ("NOT_SET", None, 0),
        # contradictions are accepted, and alerted
        ("ATTENDED", 0, 0),
        ("NOT_ATTENDED", 5, 5),
        ("ATTENDED", 100_000, 100_000),
    ],
)
def test_status_and_number_are_kept_as_written(api: Api, status: str, number: int | None, shown: int) -> None:
    attendance = api.set(booking_name(), "s1", status, number).json()["attendance"]
    assert (attendance["status"], attendance["numberOfAttendees"]) == (status, shown)


def test_event_id_is_another_name_of_session_id(api: Api) -> None:
    booking = booking_name()
    asked = {"bookingId": booking, "eventId": "s1", "status": "ATTENDED"}
    assert api.client.post(SET, json={"attendance": asked}).json()["attendance"]["sessionId"] == "s1"
    both = api.client.post(SET, json={"attendance": {**asked, "sessionId": "s2"}})
    assert violations(both) == {"attendance.eventId": "REPEATED"}


def test_ids_are_known_as_events_have_them(api: Api) -> None:
    guid = "88214716-AB3D-4F0C-9D5E-0123456789AB"
    shown = api.set(f" {guid} ", f"{guid} ", "ATTENDED").json()["attendance"]
    assert (shown["bookingId"], shown["sessionId"]) == (guid.lower(), guid.lower())
    assert api.client.get(f"/bookings/v2/attendance/{shown['id'].upper()}").json()["attendance"] == shown


def test_a_set_ignores_other_fields_and_keeps_the_notification(api: Api) -> None:
    booking = booking_name()
    notification = {"notifyParticipants": True, "message": "Grüße"}
    asked = {"id": "x", "updatedDate": 1, "bookingId": booking, "sessionId": "s1", "status": "ATTENDED"}
    assert api.client.post(SET, json={"attendance": asked, "participantNotification": notification}).status_code == 200
    (published,) = [r for r in api.system.consume(api.system.topics.events) if r.key == booking.encode()]
    assert b'"participantNotification":{"notifyParticipants":true,"message":"Gr\xc3\xbc\xc3\x9fe"}' in published.value


def test_what_was_deleted_is_gone_until_it_is_set_again(api: Api) -> None:
    booking = booking_name()
    api.set(booking, "s1", "ATTENDED")
    deleted = api.delete(booking, "s1")
    assert (deleted.status_code, deleted.json()) == (200, {})
    assert problem(api.get(booking, "s1"), 404) == "ATTENDANCE_NOT_FOUND"
    assert problem(api.delete(booking, "s1"), 404) == "ATTENDANCE_NOT_FOUND"
    assert api.set(booking, "s1", "NOT_ATTENDED").json()["attendance"]["status"] == "NOT_ATTENDED"
    assert api.get(booking, "s1").status_code == 200


@pytest.mark.parametrize(
    "name", ["no-guid", "0" * 36, identity("nobody", "nowhere"), "query", "%00", "%FF", "..%2f..", "a" * 5000]
)
def test_an_unknown_id_is_a_404(api: Api, name: str) -> None:
    assert problem(api.client.get(f"/bookings/v2/attendance/{name}"), 404) in ("ATTENDANCE_NOT_FOUND", "NOT_FOUND")


@pytest.mark.parametrize(
    ("attendance", "wrong"),
    [
        ({"bookingId": None}, {"attendance.bookingId": "REQUIRED"}),
        ({"bookingId": "  "}, {"attendance.bookingId": "REQUIRED"}),
        ({"bookingId": "x" * 129}, {"attendance.bookingId": "TOO_LARGE"}),
        ({"bookingId": 7}, {"attendance.bookingId": "WRONG_TYPE"}),
        ({"bookingId": "a\u0000b"}, {"attendance.bookingId": "MALFORMED"}),
        ({"sessionId": "x" * 251}, {"attendance.sessionId": "TOO_LARGE"}),
        ({"sessionId": "tab\t"}, {"attendance.sessionId": "MALFORMED"}),
        ({"status": None}, {"attendance.status": "REQUIRED"}),
        ({"status": "attended"}, {"attendance.status": "UNKNOWN_VALUE"}),
        ({"numberOfAttendees": -1}, {"attendance.numberOfAttendees": "OUT_OF_RANGE"}),
        ({"numberOfAttendees": 100_001}, {"attendance.numberOfAttendees": "OUT_OF_RANGE"}),
        ({"numberOfAttendees": 2.0}, {"attendance.numberOfAttendees": "WRONG_TYPE"}),
        ({"numberOfAttendees": True}, {"attendance.numberOfAttendees": "WRONG_TYPE"}),
        ({"numberOfAttendees": 10**30}, {"attendance.numberOfAttendees": "OUT_OF_RANGE"}),
        ({"bookingId": 1, "status": 2}, {"attendance.bookingId": "WRONG_TYPE", "attendance.status": "UNKNOWN_VALUE"}),
    ],
)
def test_a_bad_set_names_the_field_and_rule(api: Api, attendance: dict[str, Any], wrong: dict[str, str]) -> None:
    asked = {"bookingId": "b", "sessionId": "s", "status": "ATTENDED"} | attendance
    assert violations(api.client.post(SET, json={"attendance": asked})) == wrong


@pytest.mark.parametrize("session", [{}, {"sessionId": None}, {"eventId": None}])
def test_a_session_must_be_given(api: Api, session: dict[str, None]) -> None:
    asked = {"attendance": {"bookingId": "b", "status": "ATTENDED", **session}}
    assert problem(api.client.post(SET, json=asked), 400) == "SESSION_ID_NOT_PROVIDED"


@pytest.mark.parametrize(
    ("document", "rule"), [({}, "REQUIRED"), ({"attendance": []}, "WRONG_TYPE"), ({"attendance": "x"}, "WRONG_TYPE")]
)
def test_the_attendance_must_be_an_object(api: Api, document: dict[str, Any], rule: str) -> None:
    assert violations(api.client.post(SET, json=document)) == {"attendance": rule}


def test_a_notification_that_cannot_travel(api: Api) -> None:
    asked = {"bookingId": "b", "sessionId": "s", "status": "ATTENDED"}
    nested: Any = {}
    for _ in range(400):
        nested = {"a": nested}
    for notification, rule in (("text", "WRONG_TYPE"), ({"x": "y" * 70_000}, "TOO_LARGE"), (nested, "TOO_DEEP")):
        said = api.client.post(SET, json={"attendance": asked, "participantNotification": notification})
        assert list(violations(said).values()) == [rule]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"attendance": "\xff"}',
        b'{"attendance": NaN}',
        b'{"attendance": 1e999}',
        b'{"attendance": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"attendance": {}, "attendance": {}}',
        b'{"a": {"b": 1, "b": 2}}',
        b'\xef\xbb\xbf{"attendance": {}}',
        b'{"attendance": ' + b"9" * 10_000 + b"}",
        b"{'attendance': 1}",
    ],
)
def test_a_body_that_is_no_clean_json(api: Api, body: bytes) -> None:
    for path in (SET, "/bookings/v2/attendance/query", "/bookings/v2/bulk/attendance/set"):
        said = api.client.post(path, content=body, headers={"content-type": "application/json"})
        assert problem(said, 400) == "MALFORMED_JSON", said.text


def test_a_body_of_another_content_type_is_refused(api: Api) -> None:
    said = api.client.post(SET, content=b"{}", headers={"content-type": "text/plain"})
    assert problem(said, 400) == "CONTENT_TYPE_NOT_SUPPORTED"


def problem(said: httpx.Response, status: int) -> str:
    """The code of an application error with this status."""
    assert said.status_code == status, said.text
    document = said.json()
    assert set(document) == {"message", "details"}
    error = document["details"]["applicationError"]
    assert set(error) == {"code", "description", "data"}
    if status == 503:
        assert int(said.headers["retry-after"]) > 0
    return str(error["code"])


def violations(said: httpx.Response) -> dict[str, str]:
    """Field and rule of each violation of a 400."""
    assert said.status_code == 400, said.text
    document = said.json()
    assert set(document) == {"message", "details"}
    found = document["details"]["validationError"]["fieldViolations"]
    assert all(set(each) == {"field", "description", "violatedRule"} and each["description"] for each in found)
    return {each["field"]: each["violatedRule"] for each in found}
