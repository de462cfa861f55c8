"""Kafka, Redis or the workers are away: 503 with Retry-After, nothing is lost, and it goes on by itself."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis as Client

from tests.integration.system import System, running
from tests.services import KafkaCluster, RedisServer
from tests.services.processes import wait_until
from tests.web.serving import Api, booking_name, event
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


def test_no_worker_runs(own_api: Api) -> None:
    system, booking = own_api.system, booking_name()
    own_api.set(booking, "s1", "ATTENDED", 1)
    own_api.set(booking, "s2", "ATTENDED", 1)
    system.workers.pop().terminate()
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
    assert wait_until(lambda: own_api.client.get("/v1/status").json()["freshness"]["lag"] is None, 15), "heartbeats have ended"
    system.start_worker()
    system.until_applied()
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
            # one that serves is enough to be ready: the others' readers are told
            redis.hset(PartitionKeys(namespace(base), 0).watermark, "state", "live")
            assert own_api.client.get("/readyz").status_code == 200
        finally:
            for number, state in before.items():
                redis.hset(PartitionKeys(namespace(base), number).watermark, "state", state)
            worker.signal(18)
    own_api.system.until_serving()
    assert own_api.get(booking, "s1").json()["attendance"] == done


def test_no_namespace_is_live_or_it_is_another_versions(own_api: Api) -> None:
    base = own_api.system.settings.redis_namespace
    with Client.from_url(own_api.system.settings.redis.get_secret_value()) as redis:
        live = redis.hgetall(live_key(base))
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
    assert own_api.query().status_code == 200


def test_redis_is_away(own_api: Api, own_redis: RedisServer) -> None:
    booking = booking_name()
    own_redis.kill()
    assert problem(own_api.get(booking, "s1"), 503) == "READ_MODELS_AWAY"
    assert problem(own_api.set(booking, "s1", "ATTENDED"), 503) == "READ_MODELS_AWAY"
    assert problem(own_api.client.get("/readyz"), 503) == "READ_MODELS_AWAY"
    assert own_api.client.get("/healthz").status_code == 200
    own_redis.start()
    own_api.system.until_serving()
    assert own_api.set(booking, "s1", "ATTENDED").status_code == 200


def test_kafka_goes_away_and_comes_back(own_api: Api, own_kafka: KafkaCluster, tmp_path: Path) -> None:
    booking, document = booking_name(), event("check_in", booking_name(), "s1")
    own_kafka.kill()
    assert problem(own_api.set(booking, "s1", "ATTENDED"), 503) in AWAY
    assert problem(own_api.client.post("/v1/events", json=document, headers=STRUCTURED), 503) in AWAY
    with Api(own_api.system, tmp_path, **QUICK) as late:
        # it starts without Kafka, and reads need none
        assert late.client.get("/readyz").status_code == 200
        assert late.query().status_code == 200
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
