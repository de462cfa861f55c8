"""Kafka, Redis or the workers are away: 503 with Retry-After, nothing is lost, and it goes on by itself."""

import signal
import time
from collections.abc import Iterator
from math import inf, isnan
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis as Client

from schemas.times import format_time
from tests.support.services import KafkaCluster, RedisServer
from tests.support.services.processes import wait_until
from tests.support.serving import Api, booking_name, event
from tests.support.system import System, running
from tests.web.test_attendances import problem
from worker.read_model.keys import PartitionKeys, live_key, namespace

QUICK = {"ATTENDANCE_API_SET_TIMEOUT": "1s", "ATTENDANCE_API_REQUEST_TIMEOUT": "20s"}


#: The API cannot know whether a record that was not acknowledged is there.
AWAY = ("BROKER_AWAY", "NOT_ACKNOWLEDGED")
STRUCTURED = {"content-type": "application/cloudevents+json"}


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[KafkaCluster]:
    """A broker that may be killed."""
    with KafkaCluster() as broker:
        yield broker


@pytest.fixture(scope="module")
def tenant(own_kafka: KafkaCluster, own_redis: RedisServer) -> Iterator[System]:
    """A tenant with services of its own and one worker."""
    with running(System(own_kafka, own_redis)) as system:
        yield system


@pytest.fixture(scope="module")
def own_api(tenant: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("away")
    with Api(tenant, folder, **QUICK) as api:
        yield api


def status(api: Api) -> dict[str, Any]:
    return dict(api.client.get("/v1/status").json())


def event_time(api: Api) -> str:
    """The newest event time applied; RFC 3339 in UTC sorts as text."""
    return str(status(api)["freshness"]["eventTime"])


def shown_event_time(api: Api) -> str | None:
    """The same, None where it is not known or nothing is answered."""
    said = api.client.get("/v1/status")
    return said.json()["freshness"]["eventTime"] if said.status_code == 200 else None


def is_ready(api: Api) -> bool:
    said = api.client.get("/readyz")
    return said.status_code == 200 and said.json() == {"status": "ready"}


def lag_is_unknown(api: Api) -> bool:
    return status(api)["freshness"]["lag"] is None


def test_a_clock_far_ahead_counts_as_of_its_reception(own_api: Api) -> None:
    system = own_api.system
    before = event_time(own_api) if own_api.set(booking_name(), "s1", "ATTENDED").status_code == 200 else ""
    in_2199 = 7_226_582_400_000_000
    system.publish([system.event(event("check_in", booking_name(), f"s{number}", in_2199)) for number in range(20)])
    system.until_applied()
    soon = format_time(time.time_ns() // 1000 + 2 * int(system.settings.clock_tolerance.total_seconds() * 1e6))
    assert before < event_time(own_api) < soon


def test_without_a_worker_reads_are_answered_and_sets_are_not(own_api: Api) -> None:
    system, booking = own_api.system, booking_name()
    own_api.set(booking, "s1", "ATTENDED", 1)
    own_api.set(booking, "s2", "ATTENDED", 1)
    assert is_ready(own_api)
    newest, healthy = event_time(own_api), own_api.gauges()
    system.workers.pop().kill()
    said = own_api.set(booking, "s1", "ATTENDED", 7)
    assert problem(said, 503) == "NOT_APPLIED_YET"
    assert "kept" in said.json()["message"]
    assert problem(own_api.delete(booking, "s2"), 503) == "NOT_APPLIED_YET"
    entries = [{"attendance": {"bookingId": booking, "sessionId": "s3", "status": "ATTENDED"}}]
    in_bulk = own_api.client.post("/bookings/v2/bulk/attendance/set", json={"attendanceDetails": entries})
    assert problem(in_bulk, 503) == "NOT_APPLIED_YET"
    # events need no worker, and reads go on with what there is
    document = event("check_in", booking, "s4")
    sent = own_api.client.post("/v1/events", json=document, headers=STRUCTURED)
    assert sent.status_code == 202
    assert own_api.get(booking, "s1").json()["attendance"]["numberOfAttendees"] == 1
    assert wait_until(lambda: lag_is_unknown(own_api), 15), "heartbeats have ended"
    # the heartbeats of the four partitions do not reach the limit of their age in one moment
    assert wait_until(lambda: "no worker owns partitions 0-3" in own_api.client.get("/readyz").text, 5)
    not_ready = own_api.client.get("/readyz")
    assert problem(not_ready, 503) == "NO_WORKER"
    assert "no worker owns partitions 0-3" in not_ready.json()["message"]
    assert [each["hasWorker"] for each in status(own_api)["partitions"]] == [False] * 4
    assert wait_until(lambda: own_api.gauges()["attendance_partitions_without_owner",] == 4, 10), "it may be half a second old"
    gauges = own_api.gauges()
    assert gauges.keys() == healthy.keys()
    assert gauges["attendance_partition_watermark_age_seconds", "0"] > 1
    assert isnan(gauges["attendance_partition_lag", "0"])
    doctor = system.run_cli("doctor")
    assert doctor.returncode == 1
    assert "BAD workers: no worker owns partitions 0-3" in doctor.stdout
    system.start_worker()
    system.until_applied()
    assert event_time(own_api) >= newest
    assert wait_until(lambda: is_ready(own_api), 15)
    assert own_api.get(booking, "s1").json()["attendance"]["numberOfAttendees"] == 7
    assert own_api.get(booking, "s2").status_code == 404
    assert {own_api.get(booking, session).status_code for session in ("s3", "s4")} == {200}


def test_a_partition_is_being_repaired(own_api: Api) -> None:
    booking = booking_name()
    done = own_api.set(booking, "s1", "ATTENDED").json()["attendance"]
    (worker,) = own_api.system.workers
    base = own_api.system.settings.redis_namespace
    with Client.from_url(own_api.system.settings.redis.get_secret_value()) as redis:
        count = own_api.system.settings.partitions
        # a worker that does nothing, so that the state stays as it is looked at
        worker.signal(19)
        try:
            before = {number: redis.hget(PartitionKeys(namespace(base), number).watermark, "state") for number in range(count)}
            for number in range(count):
                redis.hset(PartitionKeys(namespace(base), number).watermark, "state", "repairing")
            refused = (
                own_api.get(booking, "s1"),
                own_api.set(booking, "s1", "NOT_ATTENDED"),
                own_api.delete(booking, "s1"),
                own_api.query(),
                own_api.client.post("/bookings/v2/attendance/count", json={}),
                own_api.client.post("/bookings/v2/bulk/attendance/delete", json={"attendanceIds": [done["id"]]}),
                own_api.client.get("/v1/sessions/s1"),
                own_api.client.get(f"/v1/bookings/{booking}"),
                own_api.client.get("/v1/bookings?sort=noShowRate"),
                own_api.client.get("/v1/alerts"),
                own_api.client.get("/readyz"),
            )
            assert {problem(each, 503) for each in refused} == {"NOT_SERVING"}
            said = own_api.client.get("/v1/status").json()
            assert said["rebuild"] == "REPAIRING"
            assert {each["state"] for each in said["partitions"]} == {"being repaired"}
        finally:
            for number, state in before.items():
                redis.hset(PartitionKeys(namespace(base), number).watermark, "state", state)
            worker.signal(18)
            own_api.system.until_serving()
        # the others' readers are served: that is said, and no reason to ask elsewhere
        redis.hset(PartitionKeys(namespace(base), 1).watermark, "state", "repairing")
        try:
            said = own_api.client.get("/readyz")
            assert (said.status_code, said.json()["status"]) == (200, "ready")
            assert [(each["code"], each["partitions"]) for each in said.json()["problems"]] == [("REPAIRING", [1])]
        finally:
            redis.hset(PartitionKeys(namespace(base), 1).watermark, "state", "live")
    assert own_api.get(booking, "s1").json()["attendance"] == done


def test_no_namespace_is_live_or_it_is_another_versions(own_api: Api) -> None:
    base, (worker, *_) = own_api.system.settings.redis_namespace, own_api.system.workers
    with Client.from_url(own_api.system.settings.redis.get_secret_value()) as redis:
        live = redis.hgetall(live_key(base))
        # else it names its namespace again each second
        worker.signal(signal.SIGSTOP)
        try:
            redis.delete(live_key(base))
            assert problem(own_api.client.get("/v1/status"), 503) == "NOT_SERVING"
            assert problem(own_api.client.get("/readyz"), 503) == "NOT_SERVING"
            redis.hset(live_key(base), mapping={"namespace": f"{base}:999.0", "partitions": 4})
            assert problem(own_api.query(), 503) == "OTHER_LAYOUT"
            assert own_api.client.get("/healthz").status_code == 200
            assert own_api.client.get("/metrics").status_code == 200
        finally:
            redis.delete(live_key(base))
            redis.hset(live_key(base), mapping=live)
            worker.signal(signal.SIGCONT)
    assert own_api.query().status_code == 200


def test_without_redis_reads_are_a_503(own_api: Api, own_redis: RedisServer) -> None:
    booking = booking_name()
    newest, healthy = event_time(own_api), own_api.gauges()
    own_redis.kill()
    assert problem(own_api.get(booking, "s1"), 503) == "READ_MODELS_AWAY"
    assert problem(own_api.set(booking, "s1", "ATTENDED"), 503) == "READ_MODELS_AWAY"
    assert problem(own_api.client.get("/readyz"), 503) == "READ_MODELS_AWAY"
    assert own_api.client.get("/healthz").status_code == 200
    assert wait_until(lambda: own_api.gauges()["attendance_redis_up",] == 0, 10), "it may be half a second old"
    gauges = own_api.gauges()
    assert gauges.keys() == healthy.keys()
    assert gauges["attendance_partition_serving", "0"] == 0
    assert gauges["attendance_partition_watermark_age_seconds", "0"] < inf, "it grows from what was seen last"
    own_redis.start()
    # it forgot everything, which is filled again partition by partition from what the tables know
    shown: set[str | None] = set()
    assert wait_until(lambda: shown.add(shown_event_time(own_api)) or newest in shown, 60), shown
    assert shown <= {None, newest}
    own_api.system.until_serving()
    assert own_api.set(booking, "s1", "ATTENDED").status_code == 200


def test_with_kafka_frozen_the_lag_is_unknown(own_api: Api, own_kafka: KafkaCluster) -> None:
    assert wait_until(lambda: is_ready(own_api), 15)
    healthy = own_api.gauges()
    own_kafka.pause()
    try:
        assert wait_until(lambda: lag_is_unknown(own_api), 15), "0 would be a guess"
        assert problem(own_api.client.get("/readyz"), 503) == "KAFKA_AWAY"
        assert [each["hasWorker"] for each in status(own_api)["partitions"]] == [True] * 4
        assert wait_until(lambda: isnan(own_api.gauges()["attendance_partition_lag", "0"]), 10), "it may be half a second old"
        gauges = own_api.gauges()
    finally:
        own_kafka.resume()
    assert gauges.keys() == healthy.keys()
    assert gauges["attendance_partitions_without_owner",] == 0
    assert gauges["attendance_partition_kafka_age_seconds", "0"] > gauges["attendance_partition_watermark_age_seconds", "0"]
    assert isnan(gauges["attendance_partition_lag", "0"])
    assert wait_until(lambda: is_ready(own_api), 60)
    own_api.system.until_serving()


def test_kafka_goes_away_and_comes_back(own_api: Api, own_kafka: KafkaCluster, tmp_path: Path) -> None:
    booking, document = booking_name(), event("check_in", booking_name(), "s1")
    own_kafka.kill()
    assert problem(own_api.set(booking, "s1", "ATTENDED"), 503) in AWAY
    assert problem(own_api.client.post("/v1/events", json=document, headers=STRUCTURED), 503) in AWAY
    with Api(own_api.system, tmp_path, **QUICK) as late:
        # it starts without Kafka, and reads need none
        assert late.query().status_code == 200
        assert wait_until(lambda: late.client.get("/readyz").status_code == 503, 15)
        assert problem(late.client.get("/readyz"), 503) == "KAFKA_AWAY"
        assert problem(late.set(booking, "s2", "ATTENDED"), 503) == "BROKER_AWAY"
        assert problem(late.client.post("/v1/events", json=document, headers=STRUCTURED), 503) == "BROKER_AWAY"
        own_kafka.start()
        for api, session in ((late, "s2"), (own_api, "s1")):
            assert wait_until(lambda: api.set(booking, session, "NOT_ATTENDED").status_code == 200, 60)  # noqa: B023
            assert api.get(booking, session).json()["attendance"]["status"] == "NOT_ATTENDED"
            assert "Traceback" not in api.process.said()


def test_a_process_that_stops_while_kafka_is_away(tenant: System, tmp_path: Path) -> None:
    with Api(tenant, tmp_path, ATTENDANCE_BROKER="kafka://127.0.0.1:9", **QUICK) as api:
        assert httpx.get(f"{api.url}/healthz").status_code == 200
        assert api.process.terminate() == 0
        assert "Traceback" not in api.process.said()
