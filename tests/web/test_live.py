"""`GET /v1/live`: a snapshot, then what changes, as server-sent events."""

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from redis import Redis as Client

from tests.support.services.processes import local_ports, wait_until
from tests.support.serving import Api, booking_name, event, upserted
from tests.support.streaming import LiveStream
from tests.web.test_attendances import problem, violations
from worker.web.auth import Scope, create_token, revoke_token
from worker.web.live.feed import MAX_VALUES
from worker.web.routes.live import MAX_KEYS

OF_ANOTHER_PROCESS = "0123456789abcdef-7"


def session_name() -> str:
    """A session that no other test has."""
    return f"live-{uuid4().hex[:12]}"


def publish(api: Api, *documents: dict[str, object]) -> None:
    system = api.system
    system.publish([(system.booking if str(each["type"]) == "booking.upserted" else system.event)(each) for each in documents])


def attended(api: Api, session: str, count: int) -> None:
    """Publishes check-ins of so many new bookings."""
    publish(api, *(event("check_in", booking_name(), session, numberOfAttendees=1) for _ in range(count)))


def figure(api: Api, name: str) -> float:
    """A sample of the API's metrics, by its name and labels; 0 where it is not there yet."""
    lines = httpx.get(f"{api.url}/metrics").text.splitlines()
    return float(next((line.split()[-1] for line in lines if line.startswith(f"{name} ")), 0))


def most_that_wait(api: Api, seconds: float = 1.5) -> int:
    """How many connections of this API were blocked in Redis at once, at most, in so many seconds.

    A waiting one blocks for a second at a time. Other clients of the same Redis may wait too, for other tests.
    """
    most, end = 0, time.monotonic() + seconds
    with Client.from_url(api.system.settings.redis.get_secret_value()) as redis:
        while time.monotonic() < end:
            ports = local_ports(api.process.pid)
            blocked = [each for each in redis.client_list() if "b" in each["flags"]]
            most = max(most, sum(int(each["addr"].rpartition(":")[2]) in ports for each in blocked))
            time.sleep(0.02)
    return most


@pytest.fixture(scope="module")
def own_api(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with few streams, whose token file may be changed."""
    with Api(api.system, tmp_path_factory.mktemp("live"), ATTENDANCE_API_MAX_STREAMS="6") as one:
        yield one


def test_an_event_that_is_published_appears(api: Api) -> None:
    session, booking = session_name(), booking_name()
    with LiveStream(api, [("sessions", session), ("booking", booking)]) as stream:
        stream.until(lambda: stream.named("snapshot"))
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert all(1000 <= each <= 2000 for each in stream.retry_ms)
        (snapshot,) = stream.named("snapshot")
        assert snapshot.data["sessions"] == {session: None}
        assert snapshot.data["bookings"] == {booking: None}
        assert snapshot.data["status"]["rebuild"] == "SERVING"
        assert "alerts" not in snapshot.data
        publish(api, upserted(booking, 3, [{"sessionId": session}]), event("check_in", booking, session, numberOfAttendees=3))
        stream.until(lambda: stream.tally(session).get("attendees") == 3)
        stream.until(lambda: (stream.values["bookings"][booking] or {}).get("attended") == 1)
        tally = api.client.get(f"/v1/sessions/{session}").json()
        del tally["freshness"]
        assert stream.tally(session) == tally
        publish(api, event("cleared", booking, session))
        stream.until(lambda: stream.tally(session).get("notSet") == 1)
        assert len(stream.named("snapshot")) == 1


def test_alerts_open_and_resolve(api: Api) -> None:
    session, booking = session_name(), booking_name()
    kind = "STATUS_COUNT_MISMATCH"

    def of_booking(stream: LiveStream) -> list[str]:
        return [each["kind"] for each in stream.values["alerts"]["newest"] if each["bookingId"] == booking]

    with LiveStream(api, [("alerts", "open")]) as every, LiveStream(api, [("alerts", kind), ("alerts", "CLOCK_AHEAD")]) as one:
        for stream in (every, one):
            stream.until(lambda: stream.named("snapshot"))  # noqa: B023
        assert set(one.values["alerts"]["counts"]) == {kind, "CLOCK_AHEAD"}
        before = one.values["alerts"]["counts"][kind]
        publish(api, upserted(booking, 2, [{"sessionId": session}]), event("check_in", booking, session, numberOfAttendees=0))
        for stream in (every, one):
            stream.until(lambda: kind in of_booking(stream))  # noqa: B023
        assert one.values["alerts"]["counts"][kind] == before + 1
        publish(api, event("check_in", booking, session, numberOfAttendees=2))
        for stream in (every, one):
            stream.until(lambda: not of_booking(stream))  # noqa: B023


def test_subscribers_share_one_watcher(api: Api) -> None:
    session = session_name()
    with LiveStream(api, [("sessions", session)]) as one, LiveStream(api, [("sessions", session)]) as other, LiveStream(api):
        one.until(lambda: one.named("snapshot"))
        attended(api, session, 3)
        for stream in (one, other):
            stream.until(lambda: stream.tally(session).get("attended") == 3)  # noqa: B023
        # that of an earlier subscriber may still be closing
        assert wait_until(lambda: most_that_wait(api) == 1, 20)
        assert figure(api, "attendance_api_streams") >= 3


def test_a_client_resumes_with_what_changed_since(api: Api) -> None:
    session, other = session_name(), session_name()
    asked = [("sessions", session), ("sessions", other)]
    attended(api, other, 1)
    with LiveStream(api, asked) as stream:
        stream.until(lambda: stream.tally(other).get("attended") == 1)
        last = stream.events[-1].id
    attended(api, session, 2)
    api.system.until_applied()
    with LiveStream(api, asked, resume=last) as stream:
        stream.until(lambda: stream.tally(session).get("attended") == 2)
        assert not stream.named("snapshot")
        assert other not in stream.values["sessions"]
    # what another process, or a subscriber of other sources, was sent says nothing here
    for resume, parameters in ((OF_ANOTHER_PROCESS, asked), (last, asked[:1]), ("", asked), (f"{last}0000000", asked)):
        with LiveStream(api, parameters, resume=resume) as stream:
            stream.until(lambda: stream.events)
            assert stream.events[0].name == "snapshot"
            assert stream.values["sessions"].keys() == {value for _, value in parameters}


def test_a_burst_comes_as_few_events(api: Api) -> None:
    session, begun = session_name(), time.monotonic()
    with LiveStream(api, [("sessions", session)]) as stream:
        stream.until(lambda: stream.named("snapshot"))
        for _ in range(25):
            attended(api, session, 20)
        stream.until(lambda: stream.tally(session).get("attended") == 500)
        events = len(stream.events)
    # however late a loaded machine reads them: a quarter of a second is between any two, and before the first there is none
    assert events <= 4 * (time.monotonic() - begun) + 1


def test_wrong_parameters_are_named(api: Api) -> None:
    client = api.client
    assert violations(client.get("/v1/live?session=a")) == {"session": "UNKNOWN_FIELD"}
    assert violations(client.get("/v1/live?alerts=closed")) == {"alerts": "UNKNOWN_VALUE"}
    assert violations(client.get("/v1/live?sessions=%00")) == {"sessions": "MALFORMED"}
    assert violations(client.get("/v1/live?booking=")) == {"booking": "MALFORMED"}
    many = "&".join(f"sessions=s{number}" for number in range(101))
    assert violations(client.get(f"/v1/live?{many}")) == {"sessions": "TOO_MANY"}
    head = client.head("/v1/live")
    assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")


def test_an_id_is_normalised_as_elsewhere(api: Api) -> None:
    session = str(uuid4())
    with LiveStream(api, [("sessions", f"  {session.upper()} ")]) as stream:
        stream.until(lambda: session in stream.values.get("sessions", {}))
        attended(api, session.upper(), 1)
        stream.until(lambda: stream.tally(session).get("attended") == 1)


def test_curl_reads_the_stream(api: Api) -> None:
    session = session_name()
    command = ["curl", "-sN", "-H", f"Authorization: Bearer {api.tokens['read']}", f"{api.url}/v1/live?sessions={session}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        try:
            assert curl.stdout.readline().startswith("retry: ")
            assert curl.stdout.readline() == "\n"
            assert curl.stdout.readline().startswith("id: ")
            assert curl.stdout.readline() == "event: snapshot\n"
            assert json.loads(curl.stdout.readline().removeprefix("data: "))["sessions"] == {session: None}
        finally:
            curl.kill()


def test_a_stream_is_no_request_in_flight(own_api: Api) -> None:
    with LiveStream(own_api) as stream:
        stream.until(lambda: stream.named("snapshot"))
        assert figure(own_api, "attendance_api_streams") == 1
        assert figure(own_api, "attendance_api_requests_in_flight") == 1, "the one that asks"
    assert wait_until(lambda: figure(own_api, "attendance_api_streams") == 0, 10)
    count = 'attendance_api_request_seconds_count{method="GET",route="/v1/live",status="200"}'
    assert figure(own_api, count) == 1
    slow = 'attendance_api_request_seconds_bucket{le="10.0",method="GET",route="/v1/live",status="200"}'
    assert figure(own_api, slow) == 1


@pytest.mark.slow
def test_keys_of_those_who_left_shut_nobody_out(own_api: Api) -> None:
    for number in range(MAX_VALUES // MAX_KEYS + 1):
        assert wait_until(lambda: figure(own_api, "attendance_api_streams") == 0, 10)
        with LiveStream(own_api, [("sessions", f"left-{number}-{each}") for each in range(MAX_KEYS)]) as stream:
            assert stream.status == 200, number
            stream.until(lambda: stream.events)


def test_a_token_has_its_share_of_the_streams(own_api: Api) -> None:
    with LiveStream(own_api), LiveStream(own_api), LiveStream(own_api):
        refused = own_api.client_of("read").get("/v1/live")
        assert problem(refused, 429) == "TOO_MANY_REQUESTS"
        assert refused.headers["retry-after"] == "1"
        with LiveStream(own_api, token="all") as other:
            other.until(lambda: other.named("snapshot"))
        assert own_api.client.get("/v1/status").status_code == 200
    assert wait_until(lambda: figure(own_api, "attendance_api_streams") == 0, 10)
    with LiveStream(own_api) as again:
        again.until(lambda: again.named("snapshot"))


def test_a_revoked_token_ends_its_streams(own_api: Api) -> None:
    for name, lifetime in (("revoked", None), ("expiring", timedelta(seconds=6))):
        own_api.tokens[name] = create_token(own_api.tokens_file, [Scope.READ], name, lifetime, time.time())
    # a token is known within a second
    assert wait_until(lambda: own_api.client_of("expiring").get("/v1/status").status_code == 200, 5)
    with (
        LiveStream(own_api) as kept,
        LiveStream(own_api, token="expiring") as expiring,
        LiveStream(own_api, token="revoked") as revoked,
    ):
        for stream in (expiring, revoked):
            stream.until(lambda: stream.named("snapshot"))  # noqa: B023
        revoke_token(own_api.tokens_file, "revoked")
        for stream in (revoked, expiring):
            assert stream.has_ended.wait(20)
            assert stream.events[-1].name == "dropped"
            assert "unknown or has expired" in stream.events[-1].data["reason"]
        assert not kept.has_ended.is_set()
    assert figure(own_api, 'attendance_api_streams_dropped_total{reason="token"}') == 2


def test_a_stop_ends_streams_and_is_quick(api: Api, tmp_path: Path) -> None:
    with Api(api.system, tmp_path, ATTENDANCE_API_STOP_TIMEOUT="60s") as stopping, LiveStream(stopping) as stream:
        stream.until(lambda: stream.named("snapshot"))
        assert stopping.process.terminate(30) == 0
        assert stream.has_ended.wait(10)
        assert stream.events[-1].name == "dropped"
        assert "stopping" in stream.events[-1].data["reason"]
    # a client that comes back to another process gets a snapshot, whatever id it has
    with LiveStream(api, resume=stream.named("snapshot")[0].id) as again:
        again.until(lambda: again.named("snapshot"))


def test_several_processes_serve_streams(api: Api, tmp_path: Path) -> None:
    session = session_name()
    with Api(api.system, tmp_path, "--workers", "2", TMPDIR=str(tmp_path)) as several:
        assert wait_until(lambda: several.process.said().count("event=serving") == 2, 30)
        streams = [LiveStream(several, [("sessions", session)]) for _ in range(8)]
        for stream in streams:
            stream.__enter__()
        try:
            attended(api, session, 4)
            for stream in streams:
                stream.until(lambda: stream.tally(session).get("attended") == 4)  # noqa: B023
            assert figure(several, "attendance_api_streams") == 8
            assert several.process.terminate(30) == 0
            assert all(stream.has_ended.wait(10) for stream in streams)
        finally:
            for stream in streams:
                stream.__exit__()


@pytest.mark.slow
def test_an_idle_stream_has_heartbeats(api: Api) -> None:
    with LiveStream(api, [("sessions", session_name())]) as stream:
        stream.until(lambda: "heartbeat" in stream.comments, 20)
