"""What a user meets who may not come in: each way to be refused has its own line and its own fix, whatever the command."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess
from time import monotonic
from typing import NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.support.services import Broker, KafkaCluster, RedisServer
from tests.support.system import System

_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
_STORE_PASSWORD = "of-the-store"
EVENT = (
    b'{"specversion":"1.0","id":"1","source":"k","type":"attendance.set","time":"2026-11-22T10:00:00Z",'
    b'"data":{"bookingId":"b","sessionId":"s","status":"ATTENDED","numberOfAttendees":1}}\n'
)


class Listeners(NamedTuple):
    """A broker with a listener of each kind; the tenant has its topics there."""

    system: System
    plain: int
    sasl: int
    tls: int
    authority: Path
    admin: AdminClient


def _keytool(*arguments: str) -> None:
    subprocess.run(["keytool", *arguments, "-storepass", _STORE_PASSWORD], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def listeners(kafka: Broker, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listeners]:
    folder = tmp_path_factory.mktemp("tls")
    store, authority = folder / "store.p12", folder / "authority.pem"
    names = ("-dname", "CN=localhost", "-ext", "san=dns:localhost,ip:127.0.0.1")
    made = ("-keyalg", "EC", "-validity", "3650", "-storetype", "PKCS12", *names)
    _keytool("-genkeypair", "-alias", "own", "-keystore", str(store), *made)
    _keytool("-exportcert", "-rfc", "-alias", "own", "-keystore", str(store), "-file", str(authority))
    cluster = KafkaCluster(
        settings={
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,VIA0:SASL_PLAINTEXT,VIA1:SSL",
            "listener.name.via0.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.via0.plain.sasl.jaas.config": f'{_LOGIN} required user_us="right-one";',
            "listener.name.via1.ssl.keystore.type": "PKCS12",
            "listener.name.via1.ssl.keystore.location": str(store),
            "listener.name.via1.ssl.keystore.password": _STORE_PASSWORD,
            "listener.name.via1.ssl.key.password": _STORE_PASSWORD,
            "authorizer.class.name": _AUTHORIZER,
            "super.users": "User:ANONYMOUS",
        }
    )
    (node,) = cluster.nodes
    sasl, tls = node.advertise(), node.advertise()
    with cluster, System(cluster, own_redis) as system:
        yield Listeners(system, node.port, sasl, tls, authority, AdminClient({"bootstrap.servers": cluster.bootstrap}))


def broker(port: int, security: str = "PLAINTEXT", **more: str) -> dict[str, str]:
    given = {"BROKER": f"kafka://127.0.0.1:{port}", "BROKER_SECURITY": security, "BROKER_USERNAME": "us", **more}
    return {f"ATTENDANCE_{name}": value for name, value in given.items()}


def login(listeners: Listeners, password: str = "right-one", mechanism: str = "PLAIN") -> dict[str, str]:
    return broker(listeners.sasl, "SASL_PLAINTEXT", BROKER_PASSWORD=password, BROKER_SASL_MECHANISM=mechanism)


def refused(done: CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for part in parts:
        assert part in line, line
    assert "-one" not in line


@pytest.mark.parametrize("arguments", [["topics", "check"], ["worker"], ["publish", "-"]], ids=" ".join)
def test_a_broker_that_expects_tls(listeners: Listeners, arguments: list[str]) -> None:
    done = listeners.system.run_cli(*arguments, stdin=EVENT, **broker(listeners.tls))
    refused(done, "it expects TLS", "set ATTENDANCE_BROKER_SECURITY to SSL or SASL_SSL")


def test_a_broker_that_does_not_speak_tls(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", **broker(listeners.plain, "SSL"))
    refused(done, "it does not speak TLS", "set ATTENDANCE_BROKER_SECURITY to PLAINTEXT")


def test_a_certificate_of_an_unknown_authority(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", **broker(listeners.tls, "SSL"))
    refused(done, "certificate verify failed", "set ATTENDANCE_BROKER_CA_FILE")
    known = broker(listeners.tls, "SSL", BROKER_CA_FILE=str(listeners.authority))
    assert listeners.system.run_cli("topics", "check", **known).returncode == 0


def test_a_broker_that_expects_a_login(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", **broker(listeners.sasl))
    refused(done, "it expects a login", "SASL_PLAINTEXT", "ATTENDANCE_BROKER_SASL_MECHANISM to PLAIN")


def test_a_broker_that_takes_no_login(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", **{**login(listeners), **broker(listeners.plain, "SASL_PLAINTEXT")})
    refused(done, "it takes no login", "set ATTENDANCE_BROKER_SECURITY to PLAINTEXT")


def test_another_mechanism_than_that_of_the_broker(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", **login(listeners, mechanism="SCRAM-SHA-512"))
    refused(done, "it does not take SCRAM-SHA-512", "set ATTENDANCE_BROKER_SASL_MECHANISM to PLAIN")


def test_a_wrong_password(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", **login(listeners, "wrong-one"))
    refused(done, "Authentication failed", "set ATTENDANCE_BROKER_USERNAME and ATTENDANCE_BROKER_PASSWORD")


def test_a_right_in_kafka_that_is_lacking(listeners: Listeners) -> None:
    """Kafka names the topic; what the user may not even see is as if it were not there."""
    system, rights = listeners.system, "Rights"
    refused(system.run_cli("topics", "check", **login(listeners)), system.settings.topic_prefix, "Authorization", rights)
    refused(system.run_cli("worker", **login(listeners)), system.settings.topic_prefix, "Authorization", rights)
    other = login(listeners) | {"ATTENDANCE_TOPIC_PREFIX": "other"}
    refused(system.run_cli("topics", "create", **other), "other.", "Authorization", rights)
    refused(system.run_cli("publish", "-", stdin=EVENT, **login(listeners)), system.topics.events, "does not show", rights)
    pattern = (ResourceType.TOPIC, system.settings.topic_prefix, ResourcePatternType.PREFIXED, "User:us", "*")
    allowed = AclBinding(*pattern, AclOperation.DESCRIBE, AclPermissionType.ALLOW)
    (granted,) = listeners.admin.create_acls([allowed]).values()
    granted.result(30)
    done = system.run_cli("publish", "-", stdin=EVENT, **login(listeners))
    refused(done, system.topics.events, "TopicAuthorization", rights)


def test_a_port_where_something_else_answers(listeners: Listeners, own_redis: RedisServer) -> None:
    done = listeners.system.run_cli("topics", "check", **broker(own_redis.port))
    refused(done, "is unavailable", "does not answer as Kafka does")
    done = listeners.system.run_cli("session", "s", ATTENDANCE_REDIS=f"redis://127.0.0.1:{listeners.plain}")
    refused(done, "ATTENDANCE_REDIS: Redis at", "is unavailable")


@pytest.mark.parametrize("arguments", [["topics", "check"], ["publish", "-"], ["archive", "FOLDER", "--yes"]], ids=" ".join)
def test_a_silent_port_is_named_within_seconds(listeners: Listeners, tmp_path: Path, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = monotonic()
        given = [str(tmp_path) if each == "FOLDER" else each for each in arguments]
        done = listeners.system.run_cli(*given, **broker(silent.getsockname()[1]))
        # 5 s for the answer, and the start of a command on a busy machine; a client of its own waits for 10 to 40 s
        assert monotonic() - began < 15
    refused(done, "is unavailable", "does not answer as Kafka does")


def test_a_name_that_does_not_exist(listeners: Listeners) -> None:
    done = listeners.system.run_cli("topics", "check", ATTENDANCE_BROKER="kafka://no-such.invalid:1")
    refused(done, "no-such.invalid:1", "Name or service not known")


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
@pytest.mark.parametrize("arguments", [["session", "s"], ["worker"]], ids=" ".join)
def test_a_redis_that_expects_tls(listeners: Listeners, arguments: list[str], scheme: str) -> None:
    """Any server that speaks TLS will do: nothing of Redis is asked before."""
    done = listeners.system.run_cli(*arguments, ATTENDANCE_REDIS=f"{scheme}://127.0.0.1:{listeners.tls}")
    refused(done, "it expects TLS", "begin ATTENDANCE_REDIS with rediss")


def test_a_redis_that_does_not_speak_tls(listeners: Listeners, own_redis: RedisServer) -> None:
    done = listeners.system.run_cli("session", "s", ATTENDANCE_REDIS=f"rediss://127.0.0.1:{own_redis.port}")
    refused(done, "it does not speak TLS", "begin ATTENDANCE_REDIS with redis instead of rediss")


def test_a_redis_whose_certificate_is_of_an_unknown_authority(listeners: Listeners) -> None:
    done = listeners.system.run_cli("session", "s", ATTENDANCE_REDIS=f"rediss://127.0.0.1:{listeners.tls}")
    refused(done, "self-signed certificate", "?ssl_ca_certs=FILE")
    missing = f"rediss://127.0.0.1:{listeners.tls}?ssl_ca_certs=/no/such/file"
    refused(listeners.system.run_cli("session", "s", ATTENDANCE_REDIS=missing), "file", "options of ATTENDANCE_REDIS")


def test_a_redis_of_another_kind(listeners: Listeners, own_redis: RedisServer) -> None:
    run = listeners.system.run_cli
    refused(run("session", "s", ATTENDANCE_REDIS=f"redis://{own_redis.address}/99"), "out of range", "as in /0")
    refused(run("session", "s", ATTENDANCE_REDIS=f"redis+cluster://{own_redis.address}"), "not a Redis Cluster", "redis://host")


def test_a_right_in_redis_that_is_lacking(listeners: Listeners, own_redis: RedisServer) -> None:
    assert own_redis.ask("ACL", "SETUSER", "few", "reset", "on", ">right-one", "+@connection") == "+OK"
    done = listeners.system.run_cli("session", "s", ATTENDANCE_REDIS=f"redis://few:right-one@{own_redis.address}/0")
    refused(done, "the user lacks a right", "hmget", "a reader needs what deploy/README.md lists under Rights")


@contextmanager
def closing_at_once() -> Iterator[int]:
    """A port where each connection is taken and closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # it was closed
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_server_behind_a_closed_door_is_away_and_not_a_refusal(listeners: Listeners) -> None:
    """A load balancer takes the connection and closes it while its servers are away: a worker must wait for them."""
    with closing_at_once() as port:
        for security in ("PLAINTEXT", "SSL"):
            done = listeners.system.run_cli("topics", "check", **broker(port, security))
            refused(done, "is unavailable")
        for scheme in ("redis", "rediss"):
            done = listeners.system.run_cli("session", "s", ATTENDANCE_REDIS=f"{scheme}://127.0.0.1:{port}")
            refused(done, "is unavailable")
