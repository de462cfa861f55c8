"""`GET /v1/attendance/{id}/history` and `GET /v1/operations`: what the commands show, over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.services.processes import wait_until
from tests.support.serving import Api, booking_name, event, identity, upserted
from tests.web.test_attendances import problem, violations
from tests.web.test_ops_reads import published
from worker.read_model.operations import Operations
from worker.redis.client import create_redis


def history(api: Api, booking: str, session: str, **parameters: str) -> dict:
    found = api.client.get(f"/v1/attendance/{identity(booking, session)}/history", params=parameters)
    assert found.status_code == 200, found.text
    return found.json()


def test_the_history_is_what_the_command_prints(api: Api) -> None:
    booking = booking_name()
    no_show, check_in = event("no_show", booking, "s1"), event("check_in", booking, "s1", numberOfAttendees=3)
    other = event("check_in", booking, "s2")
    published(api, upserted(booking, 2, [{"sessionId": "s1"}]), no_show, check_in, other)
    shown = history(api, booking, "s1")
    assert [(each["id"], each["verdict"]) for each in shown["events"]] == [
        (no_show["id"], "superseded"),
        (check_in["id"], "base"),
    ]
    base = shown["events"][1]["offset"]
    assert [each["explanation"] for each in shown["events"]] == [f"superseded by offset {base}", "counts as the base"]
    assert shown["result"] == api.get(booking, "s1").json()["attendance"]
    assert {each["kind"] for each in shown["rules"] if each["isOpen"]} == {"PARTICIPANTS_EXCEEDED"}
    assert shown["bookingRecord"]["numberOfParticipants"] == 2
    assert (shown["redis"]["agrees"], shown["redis"]["freshness"]["lag"]) == (True, 0)
    done = api.system.run_cli("explain", booking, "s1", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    del shown["redis"]["freshness"], printed["redis"]["freshness"]
    assert printed == shown


def test_the_history_of_a_deleted_attendance(api: Api) -> None:
    booking = booking_name()
    api.set(booking, "s/1", "ATTENDED")
    assert api.delete(booking, "s/1").status_code == 200
    path = f"/v1/attendance/{identity(booking, 's/1')}/history"
    assert problem(api.client.get(path), 404) == "ATTENDANCE_NOT_FOUND"
    shown = history(api, booking, "s/1", bookingId=booking, sessionId="s/1")
    assert [each["verdict"] for each in shown["events"]] == ["covered by the horizon", "horizon"]
    assert (shown["result"], shown["redis"]["agrees"]) == (None, True)


def test_what_is_no_history(api: Api) -> None:
    nobody = identity("nobody", "s1")
    assert problem(api.client.get("/v1/attendance/nobody/history"), 404) == "ATTENDANCE_NOT_FOUND"
    assert problem(api.client.get(f"/v1/attendance/{nobody}/history"), 404) == "ATTENDANCE_NOT_FOUND"
    both = {"bookingId": "nobody", "sessionId": "s1"}
    assert problem(api.client.get(f"/v1/attendance/{nobody}/history", params=both), 404) == "ATTENDANCE_NOT_FOUND"
    for wrong, field, rule in (
        ({"bookingId": "nobody"}, "sessionId", "REQUIRED"),
        ({"sessionId": "s1"}, "bookingId", "REQUIRED"),
        ({**both, "bookingId": " "}, "bookingId", "MALFORMED"),
        ({**both, "sessionId": "s2"}, "id", "UNKNOWN_VALUE"),
        ({**both, "session": "s1"}, "session", "UNKNOWN_FIELD"),
    ):
        assert violations(api.client.get(f"/v1/attendance/{nobody}/history", params=wrong)) == {field: rule}


def test_one_history_at_a_time_others_are_told_to_retry(api: Api) -> None:
    booking = booking_name()
    published(api, event("check_in", booking, "s1"))
    path = f"/v1/attendance/{identity(booking, 's1')}/history"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: api.client.get(path), range(8)))
    assert {each.status_code for each in found} == {200, 429}
    for busy in (each for each in found if each.status_code == 429):
        assert busy.json()["details"]["applicationError"]["code"] == "HISTORY_BUSY"
        assert int(busy.headers["retry-after"]) > 0
    assert api.client.get(path).status_code == 200


def test_a_history_that_takes_too_long_names_the_command(api: Api, tmp_path: Path) -> None:
    path = f"/v1/attendance/{identity('b', 's1')}/history?bookingId=b&sessionId=s1"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        changed = {"ATTENDANCE_BROKER": f"kafka://127.0.0.1:{silent.getsockname()[1]}", "ATTENDANCE_API_REQUEST_TIMEOUT": "2s"}
        with Api(api.system, tmp_path, **changed) as one:
            shown = one.client.get(path)
    assert problem(shown, 503) == "HISTORY_TOO_LONG"
    assert "attendance explain" in shown.json()["message"]
    assert shown.headers["retry-after"] == "30"


def test_a_history_without_kafka(api: Api, tmp_path: Path) -> None:
    path = f"/v1/attendance/{identity('b', 's1')}/history?bookingId=b&sessionId=s1"
    with Api(api.system, tmp_path, ATTENDANCE_BROKER="kafka://127.0.0.1:1") as one:
        assert problem(one.client.get(path), 503) == "BROKER_AWAY"
        assert problem(one.client.get(path), 503) == "BROKER_AWAY", "it is not busy with the first one"


@pytest.fixture
def operation(api: Api) -> str:
    """An operation that has ended."""
    return ended_operation(api)


def ended_operation(api: Api) -> str:
    async def ending() -> str:
        client = create_redis(api.system.settings)
        try:
            known = Operations(client, api.system.settings.redis_namespace)
            running = await known.begin("replay", "host:/secret/folder", {"files": ["/secret/folder"]}, {"0": 9})
            await running.save({"0": 4, "/secret/folder": 4}, {"read": 4})
            await running.finish(error="/secret/folder: File too large")
            return running.operation.id
        finally:
            await client.aclose()

    return asyncio.run(ending())


def test_operations_by_page(api: Api) -> None:
    begun = [ended_operation(api) for _ in range(5)]
    everything = [each["id"] for each in api.client.get("/v1/operations?limit=1000").json()["operations"]]
    assert everything[:5] == begun[::-1]
    asked: dict[str, str] = {"limit": "2"}
    seen: list[str] = []
    while True:
        page = api.client.get("/v1/operations", params=asked).json()
        paging = page["pagingMetadata"]
        seen += [each["id"] for each in page["operations"]]
        assert paging["count"] == len(page["operations"]) <= 2
        assert paging["hasNext"] is ("next" in paging["cursors"])
        if not paging["hasNext"]:
            break
        asked["cursor"] = paging["cursors"]["next"]
        if len(seen) == 2:
            newer = ended_operation(api)
    assert seen == everything, "one that begins meanwhile moves nobody to another page"
    assert newer not in seen
    for wrong in ("AAAA", f"{asked['cursor']}x", "x" * 9000):
        assert violations(api.client.get("/v1/operations", params={"cursor": wrong})) == {"cursor": "MALFORMED"}


def test_parameters_that_a_list_does_not_know(api: Api) -> None:
    for path in ("/v1/operations", "/v1/status", "/v1/sessions/s1", "/v1/bookings/b"):
        assert violations(api.client.get(f"{path}?state=RUNNING")) == {"state": "UNKNOWN_FIELD"}
    for wrong in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2"):
        assert list(violations(api.client.get(f"/v1/operations?{wrong}"))) == ["limit"]


def test_operations_are_listed_here_and_by_the_command(api: Api, operation: str) -> None:
    # the events of other tests may still be on their way
    assert wait_until(lambda: api.client.get("/v1/operations").json()["freshness"]["lag"] == 0, 10)
    shown = api.client.get("/v1/operations").json()
    (one,) = [each for each in shown["operations"] if each["id"] == operation]
    assert (one["state"], one["counts"], one["position"], one["end"]) == ("DONE", {"read": 4}, {"0": 4}, {"0": 9})
    listed = api.system.run_cli("operations", "--json")
    assert shown["pagingMetadata"]["count"] == len(shown["operations"])
    (shown,) = [each for each in map(json.loads, listed.stdout.splitlines()) if each["id"] == operation]
    assert json.loads(api.system.run_cli("operations", operation, "--json").stdout) == shown
    assert one.items() <= {**shown, "position": {"0": 4}}.items()
    assert operation in api.system.run_cli("operations").stdout


def test_readers_of_operations_see_no_folder_or_host(api: Api, operation: str) -> None:
    assert operation in (answer := api.client.get("/v1/operations").text)
    assert "secret" not in answer


def test_an_unknown_operation_is_one_line(api: Api) -> None:
    unknown = api.system.run_cli("operations", "nobody")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert "attendance operations" in unknown.stderr
