"""Which bookings are over since before a time, and the tallies of their sessions as CSV."""

import asyncio
import csv
import json
import time
from collections.abc import Mapping
from io import StringIO

import pytest

from schemas.events import Booking, Window
from schemas.times import format_time
from tests.integration.test_main_job import MINUTE, envelope
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running
from worker.ops.retention import COLUMNS, as_csv, find_expired, last_end, read_tallies

START = 1_795_000_000_000_000
HOUR = 60 * MINUTE
OVER, LATER = START + 10 * HOUR, START + 20 * HOUR

Windows = Mapping[str, tuple[int | None, int | None]]


def booking(system: System, name: str, windows: Windows | None, status: str = "CONFIRMED") -> Record:
    """The booking as the booking system publishes it; without windows it lists no sessions."""
    data = {"bookingId": name, "numberOfParticipants": 2, "status": status}
    if windows is not None:
        data["sessions"] = [listed(session, *window) for session, window in windows.items()]
    return system.booking(envelope(f"b-{name}", "bookings", "booking.upserted", START, data))


def listed(session: str, starts: int | None, ends: int | None) -> dict[str, str]:
    times = {"startsAt": starts, "endsAt": ends}
    return {"sessionId": session, **{name: format_time(at) for name, at in times.items() if at is not None}}


def check_in(system: System, name: str, session: str) -> Record:
    data = {"bookingId": name, "sessionId": session}
    return system.event(envelope(f"{name}-{session}", "kiosk", "attendance.check_in", START, data))


def test_bookings_whose_last_session_ended_are_expired(kafka: Broker, redis_server: Redis) -> None:
    early, middle, late = (START, START + HOUR), (START + 2 * HOUR, OVER - HOUR), (START, LATER)
    with running(System(kafka, redis_server, partitions=2)) as system:
        system.publish(
            [
                booking(system, "over", {"b, second": middle, "a": early}),
                booking(system, "over-canceled", {"a": early}, "CANCELED"),
                booking(system, "over-at", {"a": (START, OVER)}),
                booking(system, "starts-only", {"c": (OVER - 1000, None)}),
                booking(system, "runs", {"a": early, "d": late}),
                booking(system, "moved", {"a": early}),
                booking(system, "moved", {"a": late}),
                booking(system, "deleted", {"a": early}),
                Record(system.topics.bookings, b"deleted", None, [], booking(system, "deleted", {}).partition),
                booking(system, "lists-none", None),
                booking(system, "one-undated", {"a": early, "e": (None, None)}),
                check_in(system, "over", "a"),
                check_in(system, "over", "walked in"),
                check_in(system, "runs", "d"),
                check_in(system, "unknown", "a"),
            ]
        )
        system.until_settled()
        seen: list[int] = []
        found = asyncio.run(find_expired(system.settings, OVER, b"", seen.append))
        assert found.bookings == ["over", "over-canceled", "starts-only"]
        assert found.sessions == {"a", "b, second", "c", "walked in"}
        assert (found.undated, found.erased) == (2, 0)
        assert seen == sorted(seen)
        assert seen[-1] > 0

        text = as_csv(system.read(lambda reader: read_tallies(reader, found.sessions)))
        rows = list(csv.DictReader(StringIO(text)))
        assert tuple(rows[0]) == COLUMNS
        assert [row["sessionId"] for row in rows] == ["a", "b, second", "c", "walked in"]
        assert rows[3]["startsAt"] == ""
        for row in rows:
            tally = system.read(lambda reader, name=row["sessionId"]: reader.tally(name))
            assert tally is not None
            assert row == {name: "" if value is None else str(value) for name, value in tally.items()}


def test_expired_bookings_are_erased_and_tallied_before(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server, partitions=2)) as system:
        system.publish(
            [
                booking(system, "over", {"a": (START, START + HOUR)}),
                booking(system, "runs", {"a": (START, LATER)}),
                booking(system, "undated", {"a": (None, None)}),
                *(check_in(system, name, "a") for name in ("over", "runs", "undated")),
            ]
        )
        system.until_settled()
        age = f"{time.time() - OVER / 1e6:.0f}s"
        refused = system.run_cli("erase", "--before", age, "--booking", "runs", "--yes")
        assert (refused.returncode, "--before" in refused.stderr) == (2, True)
        assert system.run_cli("erase", "--before", "365", "--yes").returncode == 2

        asked = system.run_cli("erase", "--before", age)
        assert (asked.returncode, "nothing was done" in asked.stderr) == (1, True)
        done = system.run_cli("erase", "--before", age, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert "1 bookings stay" in done.stderr
        tallies, summary = map(json.loads, done.stdout.splitlines())
        assert list(csv.DictReader(StringIO(asked.stdout))) == [
            {name: str(value) for name, value in tally.items()} for tally in tallies["tallies"]
        ]
        assert [(tally["sessionId"], tally["attended"]) for tally in tallies["tallies"]] == [("a", 3)]
        assert (summary["state"], summary["bookings"], summary["attendances"]) == ("DONE", 1, 1)
        assert {name for name, _ in system.outcome().attendances} == {"runs", "undated"}

        again = system.run_cli("erase", "--before", age, "--yes")
        assert (again.returncode, again.stdout) == (0, ",".join(COLUMNS) + "\n")


@pytest.mark.parametrize(
    ("sessions", "end"),
    [
        (None, None),
        ({}, None),
        ({"a": Window(1, None)}, 1),
        ({"a": Window(None, 2), "b": Window(5, 9), "c": Window(7, None)}, 9),
        ({"a": Window(1, 2), "b": Window(None, None)}, None),
    ],
)
def test_a_booking_ends_with_its_last_session(sessions: dict[str, Window] | None, end: int | None) -> None:
    assert last_end(Booking("b", 1, False, False, sessions, 0)) == end
