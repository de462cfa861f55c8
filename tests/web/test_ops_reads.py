"""Sessions, bookings, alerts and status over HTTP, each with its freshness."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.support.services.processes import wait_until
from tests.support.serving import Api, booking_name, event, upserted
from tests.web.test_attendances import problem, violations


def published(api: Api, *documents: dict[str, object]) -> None:
    records = [(api.system.booking if str(d["type"]) == "booking.upserted" else api.system.event)(d) for d in documents]
    api.system.publish(records)
    api.system.until_applied()


@pytest.mark.parametrize(
    "session", ["plain", "with/slash", "/", "..", "a//b", "ä ö%2F", "100%", "?x=1#y", "s" * 250, "a\u2028b"]
)
def test_a_session_whatever_its_name(api: Api, session: str) -> None:
    booking = booking_name()
    published(api, upserted(booking, 4, [{"sessionId": session}]), event("check_in", booking, session, numberOfAttendees=3))
    # a client's library would take dots out of a path
    said = api.raw(
        f"GET /v1/sessions/{quote(session, safe='')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Bearer {api.tokens['read']}\r\n\r\n".encode()
    )
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), said
    tally = api.client.get(f"/v1/sessions/{quote(session, safe='')}").json() if "." not in session else None
    assert (b'"attendees":3' in body) if tally is None else tally["attendees"] >= 3
    assert b'"lag":0' in body
    summary = api.client.get(f"/v1/bookings/{booking}").json()
    assert (summary["attended"], summary["freshness"]["lag"]) == (1, 0)


def test_unknown_sessions_and_bookings_are_404s(api: Api) -> None:
    assert problem(api.client.get("/v1/sessions/nobody-was-here"), 404) == "SESSION_NOT_FOUND"
    assert problem(api.client.get("/v1/bookings/nobody"), 404) == "BOOKING_NOT_FOUND"
    assert problem(api.client.get("/v1/sessions/"), 404) == "SESSION_NOT_FOUND"


def test_bookings_that_miss_their_sessions(api: Api) -> None:
    worst, better = booking_name(), booking_name()
    published(
        api,
        *(event("no_show", worst, f"s{n}") for n in range(4)),
        *(event("no_show" if n < 2 else "check_in", better, f"s{n}") for n in range(4)),
    )
    said = api.client.get("/v1/bookings", params={"sort": "noShowRate", "limit": 1000}).json()
    assert said["freshness"]["lag"] == 0
    rates = {each["bookingId"]: each["noShowRate"] for each in said["bookings"]}
    assert (rates[worst], rates[better]) == (1.0, 0.5)
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    assert len(api.client.get("/v1/bookings?sort=noShowRate&limit=1").json()["bookings"]) == 1
    assert violations(api.client.get("/v1/bookings")) == {"sort": "REQUIRED"}
    assert list(violations(api.client.get("/v1/bookings?sort=name"))) == ["sort"]


def test_alerts_are_filtered_and_paged(api: Api) -> None:
    booking = booking_name()
    published(api, *(event("set", booking, f"s{n}", status="NOT_ATTENDED", numberOfAttendees=n) for n in (0, 3, 5)))
    all_of_it = api.client.get("/v1/alerts", params={"bookingId": f" {booking}", "state": "open"}).json()
    assert all_of_it["freshness"]["lag"] == 0
    kinds = sorted(each["kind"] for each in all_of_it["alerts"])
    assert kinds == ["FREQUENT_NO_SHOWS", "STATUS_COUNT_MISMATCH", "STATUS_COUNT_MISMATCH"]
    narrow = {"bookingId": booking, "kind": "STATUS_COUNT_MISMATCH", "sessionId": "s5"}
    assert [each["sessionId"] for each in api.client.get("/v1/alerts", params=narrow).json()["alerts"]] == ["s5"]
    assert len(api.client.get("/v1/alerts", params={"bookingId": booking, "limit": 2}).json()["alerts"]) == 2
    for wrong in (
        "state=closed",
        "kind=NONE",
        "limit=0",
        "limit=1001",
        "limit=x",
        "session=s5",
        "kind=CLOCK_AHEAD&kind=CLOCK_AHEAD",
    ):
        assert list(violations(api.client.get(f"/v1/alerts?{wrong}"))) == [wrong.partition("=")[0]]


def test_alerts_and_bookings_by_page(api: Api) -> None:
    session = booking_name()
    events = (event("set", booking_name(), session, status="NOT_ATTENDED", numberOfAttendees=1) for _ in range(7))
    published(api, *events)
    asked: dict[str, Any] = {"sessionId": session, "limit": 3}
    seen: list[str] = []
    while True:
        page = api.client.get("/v1/alerts", params=asked).json()
        meta = page["pagingMetadata"]
        seen += [each["alertId"] for each in page["alerts"]]
        assert meta["count"] == len(page["alerts"]) <= 3
        assert meta["hasNext"] is ("next" in meta["cursors"])
        if not meta["hasNext"]:
            break
        asked = {"cursor": meta["cursors"]["next"], "limit": 3}
    assert len(seen) == len(set(seen)) == 7
    cursor = api.client.get("/v1/alerts", params={"sessionId": session, "limit": 1}).json()["pagingMetadata"]["cursors"]["next"]
    other = {"sessionId": "other", "cursor": cursor}
    assert violations(api.client.get("/v1/alerts", params=other)) == {"cursor": "OTHER_QUERY"}
    for path in ("/v1/bookings?sort=noShowRate&", "/v1/alerts?"):
        assert violations(api.client.get(f"{path}cursor=AAAA")) == {"cursor": "MALFORMED"}
    assert violations(api.client.get(f"/v1/bookings?sort=noShowRate&cursor={cursor}")) == {"cursor": "MALFORMED"}
    assert "next" in api.client.get("/v1/bookings?sort=noShowRate&limit=1").json()["pagingMetadata"]["cursors"]


def test_the_status_shows_every_partition(api: Api) -> None:
    published(api, event("check_in", booking_name(), "s1"))
    said = api.client.get("/v1/status").json()
    assert [each["partition"] for each in said["partitions"]] == list(range(api.system.settings.partitions))
    assert {each["state"] for each in said["partitions"]} == {"live"}
    # the ends are those of the last heartbeat
    assert [each["events"]["offset"] for each in said["partitions"]] == api.system.ends()[api.system.topics.events]
    assert all(each["events"]["end"] <= each["events"]["offset"] for each in said["partitions"])
    assert (said["rebuild"], said["freshness"]["lag"]) == ("SERVING", 0)


def test_health_and_figures_need_no_token(api: Api) -> None:
    api.set(booking_name(), "s1", "ATTENDED")
    api.client.headers = {}
    try:
        assert api.client.get("/healthz").json() == {"status": "alive"}
        assert api.client.get("/readyz").json() == {"status": "ready"}
        figures = api.client.get("/metrics")
    finally:
        api.client = api.client_of("all")
    assert figures.headers["content-type"].startswith("text/plain")
    assert (
        'attendance_api_request_seconds_count{method="POST",route="/bookings/v2/attendance/set",status="200"}' in figures.text
    )
    assert 'attendance_partition_lag{partition="0"} 0.0' in figures.text
    assert api.client.get("/openapi.json").json()["openapi"].startswith("3.")


def test_open_alerts_and_freshness_are_exported(api: Api) -> None:
    def gauge(name: str, label: str) -> float:
        return api.gauges()[name, label]

    before = gauge("attendance_open_alerts", "STATUS_COUNT_MISMATCH")
    booking = booking_name()
    api.set(booking, "s1", "ATTENDED", 0)
    assert wait_until(lambda: gauge("attendance_open_alerts", "STATUS_COUNT_MISMATCH") == before + 1, 10)
    api.set(booking, "s1", "ATTENDED", 1)
    assert wait_until(lambda: gauge("attendance_open_alerts", "STATUS_COUNT_MISMATCH") == before, 10)
    for partition in range(api.system.settings.partitions):
        assert wait_until(lambda: gauge("attendance_partition_freshness_seconds", str(partition)) < 4, 10)  # noqa: B023
