"""CloudEvents over HTTP: structured, binary and batched, all or none."""

import json
from typing import Any

import httpx
import pytest

from tests.support.serving import Api, booking_name, event, upserted
from tests.web.test_attendances import problem, violations

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


def post(api: Api, document: Any, kind: str = STRUCTURED) -> httpx.Response:
    return api.client.post("/v1/events", content=json.dumps(document), headers={"content-type": kind})


def binary(api: Api, document: dict[str, Any], **more: str) -> httpx.Response:
    attributes = {f"ce-{name}": value for name, value in document.items() if name != "data"}
    headers = {**attributes, "content-type": "application/json", **more}
    return api.client.post("/v1/events", content=json.dumps(document["data"]), headers=headers)


def shown(api: Api, booking: str, session: str = "s1") -> dict[str, Any]:
    api.system.until_applied()
    found: dict[str, Any] = api.get(booking, session).json()["attendance"]
    return found


def test_a_structured_event_is_accepted(api: Api) -> None:
    booking = booking_name()
    done = post(api, event("check_in", booking, "s1", numberOfAttendees=3), f"{STRUCTURED}; charset=utf-8")
    assert (done.status_code, done.json()) == (202, {"accepted": 1})
    assert (shown(api, booking)["numberOfAttendees"], shown(api, booking)["source"]) == (3, "/devices/kiosk-7")


def test_a_binary_event_is_accepted(api: Api) -> None:
    booking = booking_name()
    document = {**event("no_show", booking, "s1"), "source": "/devices/Grüße%20Ä"}
    done = binary(api, {**document, "source": "/devices/Gr%C3%BC%C3%9Fe%2520%C3%84"})
    assert done.status_code == 202, done.text
    assert (shown(api, booking)["status"], shown(api, booking)["source"]) == ("NOT_ATTENDED", document["source"])


def test_a_batch_may_hold_events_of_both_topics(api: Api) -> None:
    booking = f" {booking_name()} "
    sessions = [{"sessionId": f"s{n}"} for n in range(3)]
    done = post(api, [upserted(booking, 2, sessions), *(event("check_in", booking, f"s{n}") for n in range(2))], BATCH)
    assert (done.status_code, done.json()) == (202, {"accepted": 3})
    api.system.until_applied()
    summary = api.client.get(f"/v1/bookings/{booking.strip()}").json()
    assert (summary["attended"], summary["notSet"]) == (2, 1)
    assert post(api, [], BATCH).json() == {"accepted": 0}


def test_one_bad_event_refuses_the_whole_batch(api: Api) -> None:
    booking = booking_name()
    good = event("check_in", booking, "s1")
    bad: list[Any] = [
        {**good, "time": "2020-01-01T00:00:00Z"},
        {**good, "type": "attendance.unknown"},
        {**good, "data": {"bookingId": booking}},
        {**good, "specversion": "0.3"},
        "text",
        event("check_in", booking, "s1", note="x" * 70_000),
        upserted(booking, 0, []),
    ]
    said = post(api, [good, *bad], BATCH)
    assert violations(said) == {
        "1.time": "time-too-old",
        "2.type": "unknown-type",
        "3.data.sessionId": "invalid-field",
        "4.specversion": "invalid-envelope",
        "5.value": "invalid-json",
        "6.value": "too-large",
        "7.data.numberOfParticipants": "invalid-field",
    }
    assert "booking.upserted" in said.text, "both topics' types are named"
    api.system.until_applied()
    assert api.get(booking, "s1").status_code == 404


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (STRUCTURED, b"{", "MALFORMED_JSON"),
        (STRUCTURED, b'{"id": "\xff"}', "MALFORMED_JSON"),
        (BATCH, b"{}", "MALFORMED_BATCH"),
        (BATCH, b"[" + b"{}," * 1000 + b"{}]", "TOO_MANY_EVENTS"),
        ("application/json", b"{}", "CONTENT_TYPE_NOT_SUPPORTED"),
        ("text/plain", b"{}", "CONTENT_TYPE_NOT_SUPPORTED"),
        ("application/cloudevents+avro", b"{}", "CONTENT_TYPE_NOT_SUPPORTED"),
    ],
)
def test_what_is_none_of_the_three_modes(api: Api, kind: str, body: bytes, code: str) -> None:
    assert problem(api.client.post("/v1/events", content=body, headers={"content-type": kind}), 400) == code


@pytest.mark.parametrize("depth", [200, 300, 900, 990, 1010, 1030, 50_000])
def test_data_that_is_nested_too_deep_is_refused(api: Api, depth: int) -> None:
    document = json.dumps({**event("check_in", booking_name(), "s1"), "more": 0})
    body = document.replace('"more": 0', '"more": ' + "[" * depth + "]" * depth)
    said = api.client.post("/v1/events", content=body, headers={"content-type": STRUCTURED})
    assert said.status_code == (202 if depth == 200 else 400), said.text


def test_headers_that_mean_nothing(api: Api) -> None:
    document = event("check_in", booking_name(), "s1")
    assert problem(binary(api, document, **{"ce-source": "%ff"}), 400) == "MALFORMED_HEADER"
    assert problem(binary(api, document, **{"ce-data": "{}"}), 400) == "MALFORMED_HEADER"
    assert problem(binary(api, document, **{"content-type": "text/xml"}), 400) == "CONTENT_TYPE_NOT_SUPPORTED"
    assert violations(binary(api, {"data": {}, "id": "1"})) == {"specversion": "invalid-envelope"}


def test_numbers_are_taken_as_they_were_written(api: Api) -> None:
    for number in (2.0, "2", True, 10**30):
        said = post(api, event("check_in", booking_name(), "s1", numberOfAttendees=number))
        assert violations(said) == {"data.numberOfAttendees": "invalid-field"}
