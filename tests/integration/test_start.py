"""How a worker starts where not everything is there, and how it ends: told to at any moment, refused, or stalled."""

import asyncio
import gc
import random
import socket
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.conn import AIOKafkaConnection
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.integration.test_faults import agrees
from tests.integration.test_main_job import World
from tests.support.odd_worker import MOMENTS, odd
from tests.support.services import Broker, KafkaCluster, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import System, WorkerProcess, running
from worker.kafka import create_producer
from worker.tasks import uncancelled

NOBODY = "127.0.0.1:1"
AWAY = {"kafka": {"ATTENDANCE_BROKER": f"kafka://{NOBODY}"}, "redis": {"ATTENDANCE_REDIS": f"redis://us:hidden@{NOBODY}/0"}}
ENDS_SECONDS = 10.0
MOST_REQUESTS = 20
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


def lines(worker: WorkerProcess) -> list[str]:
    return worker.log.read_text().splitlines()


def said(worker: WorkerProcess, event: str, what: str) -> list[str]:
    return [line for line in lines(worker) if f"event={event} what={what}" in line]


def test_a_worker_waits_for_kafka_and_for_redis(kafka: Broker, redis_server: Redis) -> None:
    """One line each when the wait begins and when it ends, and no other."""
    world = World(seed=51, events=100)
    with KafkaCluster() as broker, RedisServer() as server, System(broker, server) as system:
        system.publish(world.records(system, random.Random(12)))
        broker.stop()
        server.stop()
        worker = system.start_worker()
        assert wait_until(lambda: said(worker, "waiting", "kafka"), 20), worker.said()
        assert not wait_until(lambda: not worker.running or len(lines(worker)) > 1, 3), worker.said()
        broker.start()
        assert wait_until(lambda: said(worker, "waiting", "redis"), 20), worker.said()
        assert not wait_until(lambda: not worker.running or len(lines(worker)) > 3, 3), worker.said()
        server.start()
        agrees(system, world.outcome())
        for what in AWAY:
            assert len(said(worker, "waiting", what)) == len(said(worker, "resumed", what)) == 1, worker.said()


@pytest.mark.parametrize("away", AWAY)
def test_a_worker_that_waits_to_start_ends_when_it_is_told(kafka: Broker, redis_server: Redis, away: str) -> None:
    with System(kafka, redis_server) as system:
        worker = system.start_worker(**AWAY[away])
        assert wait_until(lambda: said(worker, "waiting", away), 20), worker.said()
        assert worker.terminate(ENDS_SECONDS) == 0, worker.said()
        assert len(lines(worker)) == 2
        assert "event=stopping" in lines(worker)[-1]
        assert "hidden" not in worker.said()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_is_told_to_end_while_it_starts_does(kafka: Broker, redis_server: Redis, moment: str) -> None:
    with System(kafka, redis_server) as system:
        worker = system.start_worker(odd(moment))
        assert wait_until(lambda: f"told to end: {moment}" in worker.said(), 20), worker.said()
        assert worker.wait(ENDS_SECONDS) == 0, worker.said()
        # a broker that has just been started has no coordinator of the group yet, which the client takes for an error
        own = [line for line in lines(worker) if "logger=aiokafka" not in line]
        assert not [line for line in own if "level=error" in line or "Traceback" in line], worker.said()


CLIENTS = {
    "producer": create_producer,
    "consumer": lambda settings: AIOKafkaConsumer(**settings.kafka_client()),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_start_cancelled_at_any_request_closes(
    kafka: Broker, redis_server: Redis, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The connections of a client that was stopped are closed, whichever answer its start was waiting for."""
    with System(kafka, redis_server) as system:
        for request in range(1, MOST_REQUESTS):
            errors, count = asyncio.run(cancelled_at(request, lambda: CLIENTS[name](system.settings), monkeypatch))
            assert not errors, (request, errors)
            if count < request:
                break
        else:
            pytest.fail(f"a start sent {MOST_REQUESTS} requests")
        assert request > 2, "nothing was cancelled behind the first answer"


async def cancelled_at(request: int, create: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """Starts a client and cancels that as a request is sent: what the event loop was warned of, and how many were sent."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["message"]))
    original, sent = AIOKafkaConnection.send, 0

    def send(self: AIOKafkaConnection, *given: Any, **named: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == request:
            starting.cancel()
        return original(self, *given, **named)

    monkeypatch.setattr(AIOKafkaConnection, "send", send)
    client = create()
    starting = asyncio.create_task(uncancelled(client.start()))
    await asyncio.wait((starting,))
    await client.stop()
    monkeypatch.undo()
    del client
    gc.collect()
    return errors, sent


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ATTENDANCE_REDIS": "redis://nobody:wrong@{redis}/0"}, "ATTENDANCE_REDIS"),
        ({"ATTENDANCE_BROKER_SECURITY": "SSL", "ATTENDANCE_BROKER_CA_FILE": "/no/such/file"}, "ATTENDANCE_BROKER_CA_FILE"),
        ({"ATTENDANCE_STORE": "rocksdb:///proc/rows"}, "ATTENDANCE_STORE"),
    ],
    ids=["Redis refuses", "no certificate", "no place for rows"],
)
def test_what_no_waiting_mends_ends_it_at_once(
    kafka: Broker, own_redis: RedisServer, settings: dict[str, str], named: str
) -> None:
    with System(kafka, own_redis) as system:
        given = {name: value.format(redis=own_redis.address) for name, value in settings.items()}
        done = system.run_cli("worker", **given)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith(f"{named}: ")
        assert "wrong" not in done.stderr


def test_a_kafka_that_refuses_the_password_ends_it_at_once(kafka: Broker, redis_server: Redis) -> None:
    """The client says only that it reached no broker. With the right password it waits: that listener leads nowhere."""
    cluster = KafkaCluster(
        settings={
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,VIA0:SASL_PLAINTEXT",
            "listener.name.via0.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.via0.plain.sasl.jaas.config": f'{_LOGIN} required user_us="right-one";',
        }
    )
    port = cluster.nodes[0].advertise(1)
    with cluster, System(cluster, redis_server) as system:
        login = {
            "ATTENDANCE_BROKER": f"kafka://127.0.0.1:{port}",
            "ATTENDANCE_BROKER_SECURITY": "SASL_PLAINTEXT",
            "ATTENDANCE_BROKER_SASL_MECHANISM": "PLAIN",
            "ATTENDANCE_BROKER_USERNAME": "us",
        }
        done = system.run_cli("worker", **login, ATTENDANCE_BROKER_PASSWORD="wrong-one")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "ATTENDANCE_BROKER" in done.stderr
        assert "refuses this client" in done.stderr
        assert "wrong-one" not in done.stderr
        for arguments in (("simulate", "--count", "1"), ("topics", "check")):
            done = system.run_cli(*arguments, **login, ATTENDANCE_BROKER_PASSWORD="wrong-one")
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
            assert "refuses this client" in done.stderr
        worker = system.start_worker(**login, ATTENDANCE_BROKER_PASSWORD="right-one")
        assert wait_until(lambda: said(worker, "waiting", "kafka"), 20), worker.said()
        assert worker.terminate(ENDS_SECONDS) == 0, worker.said()


def _create_login(kafka: Broker, user: str, password: str, mechanism: str) -> None:
    credential = ScramCredentialInfo(ScramMechanism[mechanism.replace("-", "_")], 4096)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    (created,) = admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(user, credential, password.encode())]
    ).values()
    created.result(30)


@pytest.mark.slow
def test_any_password_of_kafka_arrives(redis_server: Redis) -> None:
    """Quotation marks, blanks, what URLs and shells give a meaning, letters of any script."""
    plain = "p@ss:/#?% =,;$x{}[]"
    passwords = {"PLAIN": [plain], "SCRAM-SHA-256": ["q\"u'o\\te `x`"], "SCRAM-SHA-512": ["${HOME} #x", "pä ß€ 🎈", " blanks "]}
    listener = {f"listener.name.via0.{name.lower()}.sasl.jaas.config": f"{_SCRAM} required;" for name in passwords}
    cluster = KafkaCluster(
        settings={
            **listener,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,VIA0:SASL_PLAINTEXT",
            "listener.name.via0.sasl.enabled.mechanisms": ",".join(passwords),
            "listener.name.via0.plain.sasl.jaas.config": f'{_LOGIN} required user_us0="{plain}";',
        }
    )
    port = cluster.nodes[0].advertise()
    with cluster:
        for mechanism, several in passwords.items():
            for number, password in enumerate(several):
                if mechanism != "PLAIN":
                    _create_login(cluster, f"us{number}", password, mechanism)
                login = {
                    "ATTENDANCE_BROKER": f"kafka://127.0.0.1:{port}",
                    "ATTENDANCE_BROKER_SECURITY": "SASL_PLAINTEXT",
                    "ATTENDANCE_BROKER_SASL_MECHANISM": mechanism,
                    "ATTENDANCE_BROKER_USERNAME": f"us{number}",
                    "ATTENDANCE_BROKER_PASSWORD": password,
                }
                with System(cluster, redis_server) as system:
                    worker = system.start_worker(**login)
                    system.until_serving()
                    assert password not in worker.said()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_of_three_brokers_away_does_not_stop_a_start(redis_server: Redis, kafka: Broker) -> None:
    world = World(seed=52, events=200)
    with KafkaCluster(3) as cluster, System(cluster, redis_server) as system:
        system.publish(world.records(system, random.Random(13)))
        for node in cluster.nodes:
            node.kill()
            try:
                worker = system.start_worker()
                system.until_serving(40)
                agrees(system, world.outcome())
                assert worker.terminate() == 0, worker.said()
            finally:
                node.start()


@pytest.mark.parametrize(
    "oddity", ["swallows acknowledgements", pytest.param("swallows acknowledgements and does not stop", marks=pytest.mark.slow)]
)
def test_a_worker_that_stalls_ends_with_one_line(kafka: Broker, redis_server: Redis, oddity: str) -> None:
    world = World(seed=53, events=100)
    with System(kafka, redis_server) as system:
        worker = system.start_worker(odd(oddity))
        system.publish(world.records(system, random.Random(14)))
        assert worker.wait(60) == 1, worker.said()
        (line,) = [line for line in lines(worker) if "stalled" in line]
        assert line.startswith("stalled: no offset of ")
        assert lines(worker)[-1] == line
        assert "Traceback" not in worker.said()
        system.start_worker()
        agrees(system, world.outcome())


def test_a_worker_logs_its_version_and_changed_settings_once(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server)) as system:
        (started,) = [line for line in lines(system.workers[0]) if "event=starting" in line]
        assert f"version={version('attendance-worker')}" in started
        assert f"ATTENDANCE_TOPIC_PREFIX={system.settings.topic_prefix}" in started
        assert "ATTENDANCE_CLOCK_TOLERANCE" not in started, "a default"


def test_kafka_shows_a_worker_under_its_name(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server)) as system:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        (group,) = admin.describe_consumer_groups([system.settings.topic_prefix]).values()
        (member,) = group.result(30).members
        assert member.client_id == f"attendance-worker-{socket.gethostname()}-{system.workers[0].pid}"
