"""Changes are seen in the order in which they were asked for, whatever clocks devices have."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.times import parse_time
from tests.support.serving import MINUTE, Api, booking_name, event, identity
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis


def now() -> int:
    return time.time_ns() // 1000


def publish(api: Api, *events: dict[str, Any]) -> None:
    """As devices do; returns when a worker has applied it."""
    api.system.publish([api.system.event(each) for each in events])
    api.system.until_applied()


def times_of(api: Api, booking: str) -> list[int]:
    """Times of the events that the API published of a booking, in their order in the topic."""
    events = (json.loads(record.value) for record in api.system.consume(api.system.topics.events))
    return [parse_time(e["time"]) for e in events if e["data"]["bookingId"] == booking and e["source"] == "/api"]


def status(api: Api, booking: str, session: str = "s1") -> str:
    return str(api.get(booking, session).json()["attendance"]["status"])


def test_the_later_of_two_sets_is_shown(api: Api) -> None:
    booking = booking_name()
    for n in range(20):
        wanted = "ATTENDED" if n % 2 else "NOT_ATTENDED"
        assert api.set(booking, "s1", wanted, n).json()["attendance"]["numberOfAttendees"] == n
        assert status(api, booking) == wanted


@pytest.mark.parametrize("minutes", [4, 5, 60])
def test_sets_after_a_kiosk_whose_clock_ran_ahead(api: Api, minutes: int) -> None:
    booking = booking_name()
    publish(api, event("check_in", booking, "s1", now() + minutes * MINUTE, numberOfAttendees=9))
    shown = api.get(booking, "s1").json()["attendance"]
    first = api.set(booking, "s1", "NOT_ATTENDED").json()["attendance"]
    assert (first["status"], first["source"]) == ("NOT_ATTENDED", "/api")
    assert parse_time(first["updatedDate"]) >= parse_time(shown["updatedDate"])
    second = api.set(booking, "s1", "ATTENDED", 2).json()["attendance"]
    assert (second["status"], second["numberOfAttendees"]) == ("ATTENDED", 2)
    assert len(times_of(api, booking)) == 2


@pytest.mark.parametrize("minutes", [0, 4, 60])
def test_a_set_after_a_delete_that_lay_later_than_now(api: Api, minutes: int) -> None:
    booking = booking_name()
    publish(api, event("check_in", booking, "s1", now() + minutes * MINUTE))
    for n in range(3):
        assert api.delete(booking, "s1").status_code == 200
        assert api.get(booking, "s1").status_code == 404
        done = api.set(booking, "s1", "ATTENDED", n)
        assert (done.status_code, done.json()["attendance"]["numberOfAttendees"]) == (200, n)
    times = times_of(api, booking)
    # what this process deleted it remembers: each change took one event
    assert (len(times), times) == (6, sorted(set(times)))


@pytest.mark.parametrize("seconds", [20, 100, 290])
def test_a_set_after_another_process_deleted_later_than_now(api: Api, tmp_path: Path, seconds: int) -> None:
    booking = booking_name()
    with Api(api.system, tmp_path) as other:
        publish(api, event("check_in", booking, "s1", now() + seconds * 1_000_000))
        assert other.delete(booking, "s1").status_code == 200
        # what this process knows nothing of still leaves nothing in its way
        done = api.set(booking, "s1", "NOT_ATTENDED")
        assert done.status_code == 200, done.text
        assert done.json()["attendance"]["status"] == "NOT_ATTENDED"
        assert status(other, booking) == "NOT_ATTENDED"
        # and the other way round
        assert other.set(booking, "s1", "ATTENDED").json()["attendance"]["status"] == "ATTENDED"
        assert api.set(booking, "s1", "NOT_SET").json()["attendance"]["status"] == "NOT_SET"


def test_a_set_after_an_erasure_later_than_now(api: Api) -> None:
    booking = booking_name()
    publish(api, event("check_in", booking, "s1"), {**event("x", booking, "", now() + 3 * MINUTE), "type": "booking.erased"})
    assert api.get(booking, "s1").status_code == 404
    assert api.set(booking, "s1", "ATTENDED").json()["attendance"]["status"] == "ATTENDED"


def test_sets_of_one_attendance_that_race(api: Api) -> None:
    booking = booking_name()

    async def racing() -> list[httpx.Response]:
        headers = {"authorization": f"Bearer {api.tokens['manage']}"}
        async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30) as client:
            return await asyncio.gather(
                *(
                    client.post(
                        "/bookings/v2/attendance/set",
                        json={
                            "attendance": {
                                "bookingId": booking,
                                "sessionId": "s1",
                                "status": "ATTENDED",
                                "numberOfAttendees": n,
                            }
                        },
                    )
                    for n in range(40)
                )
            )

    answers = asyncio.run(racing())
    assert {each.status_code for each in answers} == {200}
    times = times_of(api, booking)
    # each got a time of its own, so whichever order they have is the order that everybody sees
    assert len(set(times)) == len(times) == 40
    shown = api.get(booking, "s1").json()["attendance"]["numberOfAttendees"]
    # nobody was shown an attendance that had its own set still before it
    assert any(each.json()["attendance"]["numberOfAttendees"] == shown for each in answers)


def test_an_event_of_the_api_is_later_than_what_it_follows(api: Api) -> None:
    booking = booking_name()
    ahead = now() + 2 * MINUTE + 123
    publish(api, event("check_in", booking, "s1", ahead))
    api.set(booking, "s1", "NOT_ATTENDED")

    async def latest() -> int:
        client = create_redis(api.system.settings)
        try:
            found = await AttendanceReader(client, api.system.settings.redis_namespace).latest(booking, "s1")
        finally:
            await client.aclose()
        assert found is not None
        assert found[0]["id"] == identity(booking, "s1")
        return found[1]

    assert asyncio.run(latest()) == ahead + 1
