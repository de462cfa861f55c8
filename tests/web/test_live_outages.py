"""Live streams while Redis is away, a partition is repaired or another namespace becomes live; and readers that do not read."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from redis import Redis as Client

from tests.support.services import Broker, RedisCluster, RedisServer
from tests.support.services.processes import wait_until
from tests.support.serving import Api, booking_name, event
from tests.support.streaming import LiveStream
from tests.support.system import System, running
from tests.web.test_live import attended, figure, session_name
from worker.read_model.keys import PartitionKeys, live_key, namespace


@pytest.fixture(scope="module")
def tenant(kafka: Broker, own_redis: RedisServer) -> Iterator[System]:
    """A tenant with a Redis of its own and one worker."""
    with running(System(kafka, own_redis)) as system:
        yield system


@pytest.fixture(scope="module")
def own_api(tenant: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Api(tenant, tmp_path_factory.mktemp("outages")) as api:
        yield api


def test_redis_stops_and_comes_back(own_api: Api, own_redis: RedisServer) -> None:
    session = session_name()
    before = own_api.process.said().count("live feed interrupted")
    with LiveStream(own_api, [("sessions", session)]) as stream:
        attended(own_api, session, 2)
        stream.until(lambda: stream.tally(session).get("attended") == 2)
        own_redis.kill()
        stream.until(lambda: stream.named("unavailable"))
        (told,) = stream.named("unavailable")
        assert (told.data, told.id) == ({"reason": "Redis does not answer"}, "")
        with LiveStream(own_api, [("sessions", session)]) as newcomer:
            newcomer.until(lambda: newcomer.named("unavailable"))
            own_redis.start()
            own_api.system.until_serving()
            # its memory was lost: a worker fills it again
            for each in (stream, newcomer):
                each.until(lambda: each.events[-1].name in ("snapshot", "update") and each.named("snapshot"), 60)  # noqa: B023
                each.until(lambda: each.tally(session).get("attended") == 2)  # noqa: B023
        assert len(stream.named("snapshot")) >= 2
        attended(own_api, session, 1)
        stream.until(lambda: stream.tally(session).get("attended") == 3)
        assert stream.named("unavailable")[-1].at < stream.named("snapshot")[-1].at
    said = own_api.process.said()
    # the second may be of the repair
    assert before < said.count("live feed interrupted") <= before + 2
    assert said.count("live feed continues") == said.count("live feed interrupted")
    assert "Traceback" not in said


def test_a_repair_is_told_and_ends(own_api: Api) -> None:
    session, system = session_name(), own_api.system
    (worker,) = system.workers
    key = PartitionKeys(namespace(system.settings.redis_namespace), 1).watermark
    attended(own_api, session, 20)
    with LiveStream(own_api, [("sessions", session)]) as stream, closing(redis_of(system)) as redis:
        stream.until(lambda: stream.tally(session).get("attended") == 20)
        worker.signal(19)
        try:
            redis.hset(key, "state", "repairing")
            stream.until(lambda: stream.named("unavailable"))
            assert stream.named("unavailable")[0].data["reason"].startswith("partition 1 is being repaired")
            # the state of the system is shown meanwhile
            stream.until(lambda: stream.values["status"]["partitions"]["live"] == 3)
        finally:
            redis.hset(key, "state", "live")
            worker.signal(18)
        stream.until(lambda: len(stream.named("snapshot")) == 2)
        # a real one, whose owner finds its keys lost
        redis.hdel(key, "generation")
        assert wait_until(lambda: redis.hget(key, "generation") and redis.hget(key, "state") == b"live", 30)
        attended(own_api, session, 20)
        stream.until(lambda: stream.tally(session).get("attended") == 40, 30)


def test_another_namespace_becomes_live(own_api: Api) -> None:
    session, system = session_name(), own_api.system
    (worker,) = system.workers
    base, count = system.settings.redis_namespace, system.settings.partitions
    attended(own_api, session, 1)
    with LiveStream(own_api, [("sessions", session)]) as stream, closing(redis_of(system)) as redis:
        stream.until(lambda: stream.tally(session).get("attended") == 1)
        other = namespace(base, 7)
        for number in range(count):
            watermark = {"state": "live", "keys": "g", "generation": "g", "events.offset": 0}
            redis.hset(PartitionKeys(other, number).watermark, mapping=watermark)
        try:
            redis.hset(f"{PartitionKeys(other, 0).prefix('g')}tally:{session}", mapping={"bookings": 9, "reported": 9})
            worker.signal(19)  # it would name its own
            redis.hset(live_key(base), "namespace", other)
            stream.until(lambda: stream.tally(session).get("attended") == 9)
            entry = {"sessions": session, "alerts": "0"}
            redis.hset(f"{PartitionKeys(other, 0).prefix('g')}tally:{session}", "reported", 8)
            redis.xadd(PartitionKeys(other, 0).changes, entry)
            stream.until(lambda: stream.tally(session).get("attended") == 8)
            redis.hdel(live_key(base), "namespace")
            stream.until(lambda: stream.named("unavailable"))
            assert stream.named("unavailable")[-1].data["reason"].startswith("no namespace is live")
        finally:
            redis.hset(live_key(base), "namespace", namespace(base))
            worker.signal(18)
        stream.until(lambda: stream.tally(session).get("attended") == 1)


def test_entries_that_were_missed_are_found(own_api: Api) -> None:
    """A change whose entry was dropped from the stream before it was read."""
    session, system = session_name(), own_api.system
    keys = PartitionKeys(namespace(system.settings.redis_namespace), 0)
    attended(own_api, session, 1)
    with LiveStream(own_api, [("sessions", session)]) as stream, closing(redis_of(system)) as redis:
        stream.until(lambda: stream.tally(session).get("attended") == 1)
        name = f"{keys.prefix(redis.hget(keys.watermark, 'keys').decode())}tally:{session}"
        redis.hincrby(name, "reported", 5)
        try:
            # as the script leaves it, without the entry
            redis.hset(keys.watermark, "changes", f"{int(time.time() * 1000) + 60_000}-0")
            stream.until(lambda: stream.tally(session).get("attended") == 6)
        finally:
            redis.hincrby(name, "reported", -5)
            redis.delete(name) if not redis.hget(name, "bookings") else None


def test_a_user_without_xread_reads_each_second(own_api: Api, tmp_path: Path) -> None:
    session, system = session_name(), own_api.system
    with closing(redis_of(system)) as redis:
        redis.acl_setuser("looker", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-xread"], reset=True)
    host = system.settings.redis.get_secret_value().removeprefix("redis://")
    with Api(system, tmp_path, ATTENDANCE_REDIS=f"redis://looker:pw@{host}") as api:
        with LiveStream(api, [("sessions", session)]) as stream:
            stream.until(lambda: stream.named("snapshot"))
            attended(api, session, 2)
            stream.until(lambda: stream.tally(session).get("attended") == 2)
        assert api.process.said().count("live values are read each second") == 1


def test_streams_on_a_cluster(kafka: Broker, redis_cluster: RedisCluster, tmp_path: Path) -> None:
    session = session_name()
    with running(System(kafka, redis_cluster)) as system, Api(system, tmp_path) as api:
        with LiveStream(api, [("sessions", session), ("alerts", "open")]) as stream:
            stream.until(lambda: stream.named("snapshot"))
            attended(api, session, 30)
            stream.until(lambda: stream.tally(session).get("attended") == 30)
        assert "Traceback" not in api.process.said()


def idle_reader(api: Api, sessions: list[str]) -> socket.socket:
    """A subscriber that reads nothing."""
    idle = socket.socket()
    idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    idle.connect(api.address)
    query, token = urlencode([("sessions", each) for each in sessions]), api.tokens["read"]
    idle.sendall(f"GET /v1/live?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return idle


def test_a_stop_does_not_wait_for_who_does_not_read(own_api: Api, tmp_path: Path) -> None:
    sessions = [f"{uuid4().hex[:8]}-{number}-".ljust(250, "x") for number in range(90)]
    system = own_api.system
    with (
        Api(system, tmp_path, ATTENDANCE_API_STOP_TIMEOUT="100s") as api,
        closing(idle_reader(api, sessions)),
        LiveStream(api, [("sessions", each) for each in sessions]) as other,
    ):
        for count in range(1, 5):
            system.publish([system.event(event("check_in", booking_name(), each, numberOfAttendees=1)) for each in sessions])
            other.until(lambda: all(other.tally(each).get("attended") == count for each in sessions))  # noqa: B023
        assert api.process.terminate(40) == 0
        assert other.has_ended.wait(10)


@pytest.mark.slow
def test_a_reader_that_does_not_read_is_dropped(own_api: Api) -> None:
    sessions = [f"{uuid4().hex[:8]}-{number}-".ljust(250, "x") for number in range(90)]
    with closing(idle_reader(own_api, sessions)):
        deadline = time.monotonic() + 60
        dropped = 'attendance_api_streams_dropped_total{reason="slow"}'
        while figure(own_api, dropped) < 1:
            assert time.monotonic() < deadline, "it was not dropped"
            own_api.system.publish(
                [own_api.system.event(event("check_in", booking_name(), each, numberOfAttendees=1)) for each in sessions]
            )
        assert wait_until(lambda: figure(own_api, "attendance_api_streams") == 0, 5)
        assert "live stream dropped" in own_api.process.said()


def redis_of(system: System) -> Client:
    return Client.from_url(system.settings.redis.get_secret_value())
