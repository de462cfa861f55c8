"""Devices with their estimates, and the arrivals at a session, over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from schemas.times import parse_time
from tests.support.services.processes import wait_until
from tests.support.serving import Api, booking_name
from tests.support.serving import event as event_now
from tests.web.test_attendances import problem, violations
from tests.web.test_ops_reads import published
from tests.web.test_session_lists import walk


def event(kind: str, booking: str, session: str, time: str = "", source: str = "/devices/gate", **data: Any) -> dict[str, Any]:
    """An event of this source; now, where no time is given."""
    document = event_now(kind, booking, session, **data)
    return {**document, "source": source, "time": time or document["time"]}


def devices(api: Api, limit: int = 1000) -> dict[str, dict[str, Any]]:
    """All devices by source; none is listed twice."""
    found = walk(api, "/v1/devices", "devices", {"limit": limit})
    known = [each["eventTime"] for each in found if each["eventTime"] is not None]
    assert known == sorted(known, reverse=True)
    assert [each["eventTime"] for each in found[: len(known)]] == known
    by_source = {each["source"]: each for each in found}
    assert len(by_source) == len(found)
    return by_source


def test_a_device_shows_its_newest_event_and_estimates(api: Api) -> None:
    source, session, now = f"/devices/{booking_name()}", booking_name(), datetime.now(UTC)
    times = [(now - timedelta(seconds=seconds)).isoformat() for seconds in (30, 20, 40)]
    published(api, *(event("check_in", booking_name(), session, time=time, source=source) for time in times))
    for limit in (1, 1000):
        shown = devices(api, limit)[source]
        assert parse_time(shown["time"]) // 1000 == parse_time(times[1]) // 1000
        assert shown["eventTime"] == shown["time"] < shown["received"]
        assert (shown["isSilent"], shown["silentSeconds"] < 60) == (False, True)

    def estimates() -> dict[str, Any]:
        return devices(api)[source]["estimates"]

    # the heartbeat writes them
    assert wait_until(lambda: estimates()["lastSessionId"] == session, timeout=10)
    assert estimates()["eventsPerMinute"] <= 3
    assert estimates()["sessions"] == [{"sessionId": session, "events": 3}]
    assert estimates()["deadLetters"] == 0
    assert 10 < estimates()["clockOffsetSeconds"] < 60


def test_a_device_that_sends_only_what_cannot_be_used(api: Api) -> None:
    source, other = f"/devices/{booking_name()}", f"/devices/{booking_name()}"
    bad = [event("check_in", booking_name(), "s", source=each, numberOfAttendees=-1) for each in (source, source, other)]
    published(api, *bad, event("check_in", booking_name(), "s", source=other))
    assert wait_until(lambda: source in devices(api), timeout=10)
    for limit in (1, 1000):
        shown = devices(api, limit)
        assert shown[source]["eventTime"] is shown[source]["silentSeconds"] is None
        assert shown[source]["estimates"]["deadLetters"] == 2
        assert shown[source]["estimates"]["lastDeadLetterReason"] == "invalid-field"
        assert shown[other]["eventTime"] is not None
    assert wait_until(lambda: devices(api)[other]["estimates"]["deadLetters"] == 1, timeout=10)


def test_arrivals_by_minute(api: Api) -> None:
    session, moved = f"{booking_name()}/gate", booking_name()
    at = [f"2026-11-20T10:0{minute}:30Z" for minute in range(5)]
    published(
        api,
        event("check_in", booking_name(), session, time=at[0], numberOfAttendees=3),
        event("check_in", booking_name(), session, time=at[0]),
        event("check_in", moved, session, time=at[0], numberOfAttendees=2),
        event("no_show", booking_name(), session, time=at[1]),
        event("set", booking_name(), session, time=at[3], status="ATTENDED", numberOfAttendees=4),
    )

    def people(**bounds: str) -> dict[str, int]:
        path = f"/v1/sessions/{quote(session, safe='')}/arrivals"
        answer = api.client.get(path, params=bounds).json()
        assert (answer["sessionId"], answer["freshness"]["lag"]) == (session, 0)
        return {each["minute"][11:16]: each["attendees"] for each in answer["arrivals"]}

    span = {"from": "2026-11-20T10:00:00Z", "to": "2026-11-20T10:05:00Z"}
    assert people(**span) == {"10:00": 6, "10:03": 4}
    assert people(to="2026-11-20T10:03:00Z") == {"10:00": 6}
    published(api, event("check_in", moved, session, time=at[4], numberOfAttendees=5))
    assert people(**span) == {"10:00": 4, "10:03": 4, "10:04": 5}
    published(api, event("cleared", moved, session, time="2026-11-20T10:06:00Z"))
    assert people(**span) == {"10:00": 4, "10:03": 4}
    assert people() == {}


def test_wrong_questions_about_devices_and_arrivals(api: Api) -> None:
    published(api, event("check_in", booking_name(), "asked"))
    path = "/v1/sessions/asked/arrivals"
    assert problem(api.client.get("/v1/sessions/nobody-was-here/arrivals"), 404) == "SESSION_NOT_FOUND"
    assert violations(api.client.get(path, params={"from": "noon", "to": "now"})) == {"to": "MALFORMED"}
    backwards = {"from": "2026-11-20T10:00:00Z", "to": "2026-11-20T09:00:00Z"}
    assert violations(api.client.get(path, params=backwards)) == {"from": "OUT_OF_RANGE"}
    long = {"from": "2026-11-20T10:00:00Z", "to": "2026-11-21T10:01:00Z"}
    assert violations(api.client.get(path, params=long)) == {"from": "OUT_OF_RANGE"}
    assert violations(api.client.get("/v1/devices?cursor=abc")) == {"cursor": "MALFORMED"}
    assert list(violations(api.client.get("/v1/devices?source=a"))) == ["source"]
