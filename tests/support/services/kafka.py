"""Apache Kafka in KRaft mode: one broker, or a cluster of brokers that are controllers too."""

from __future__ import annotations

import base64
import functools
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from .cache import locked
from .errors import ServiceStartFailed, ServiceUnavailable, ToolFailed
from .group import ServiceGroup
from .kafka_jars import kafka_jars
from .kafka_wire import live_brokers
from .ports import LOOPBACK, ReservedPort
from .processes import run_tool
from .service import ServiceProcess

_log = logging.getLogger(__name__)

#: The largest record batch, in bytes: dead letters carry originals of up to 2 MiB, plus headers.
MAX_MESSAGE_BYTES = 2_359_296

_HEAP = ("-Xmx512m", "-XX:+UseSerialGC")
#: A broker that lives for seconds gets nothing back from the optimising compiler: 6.6 s of a core with it, 3.7 s without.
_QUICK = ("-XX:TieredStopAtLevel=1",)
_FORMAT_TIMEOUT_S = 60.0


class KafkaNode(ServiceProcess):
    """One broker and controller of a KafkaCluster; made by it.

    `settings` is the whole of server.properties, less what only this node can know. `jvm_flags` come before the class;
    without any, the JVM starts from its archive. `optimised` has all of the JVM's compilers.
    """

    def __init__(
        self, node_id: int, cluster_id: str, *, optimised: bool = False, jvm_flags: Sequence[str] | None = None
    ) -> None:
        super().__init__(f"kafka-{node_id}")
        self.node_id = node_id
        self.settings: dict[str, str] = {}
        self._cluster_id = cluster_id
        self._compilers = () if optimised else _QUICK
        self._jvm_flags = jvm_flags
        self._controller_port = ReservedPort()
        self._advertised: dict[str, tuple[ReservedPort, int]] = {}

    def advertise(self, port: int | None = None) -> int:
        """Before the start: a further listener, which sends clients to `port` (a proxy's) or to itself; where it listens."""
        own = ReservedPort()
        self._advertised[f"VIA{len(self._advertised)}"] = (own, own.number if port is None else port)
        return own.number

    @property
    def voter(self) -> str:
        """`ID@127.0.0.1:PORT`, its part of controller.quorum.voters."""
        return f"{self.node_id}@{self._controller_port.address}"

    def command(self) -> Sequence[str]:
        return [*self._java(), *_log_flags("info"), "kafka.Kafka", str(self._properties)]

    def is_ready(self) -> bool:
        # A broker that only listens is fenced still and would send clients away; this one says it takes part.
        return self.node_id in live_brokers(LOOPBACK, self.port)

    def prepare(self) -> None:
        super().prepare()
        data = self.folder / "data"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in self._own_settings(data).items()))
        if not (data / "meta.properties").exists():
            self._format()

    def close(self) -> None:
        super().close()
        self._controller_port.release()
        for own, _ in self._advertised.values():
            own.release()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _own_settings(self, data: Path) -> dict[str, str]:
        main, controller = f"PLAINTEXT://{self.address}", f"CONTROLLER://{self._controller_port.address}"
        more = {name: (own.address, f"{LOOPBACK}:{sent_to}") for name, (own, sent_to) in self._advertised.items()}
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "listeners": ",".join([main, controller, *(f"{name}://{own}" for name, (own, _) in more.items())]),
            "advertised.listeners": ",".join([main, *(f"{name}://{sent_to}" for name, (_, sent_to) in more.items())]),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ["PLAINTEXT", "CONTROLLER", *more]),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(data),
            **self.settings,
        }

    def _format(self) -> None:
        storage_tool = [*self._java(), *_log_flags("warn"), "kafka.tools.StorageTool", "format"]
        target = [f"--cluster-id={self._cluster_id}", f"--config={self._properties}"]
        try:
            run_tool([*storage_tool, *target], timeout=_FORMAT_TIMEOUT_S)
        except ToolFailed as failed:
            raise ServiceStartFailed(f"{self.name}: the data folder could not be formatted: {failed}") from failed

    def _java(self) -> list[str]:
        archive = shared_classes() if self._jvm_flags is None else None
        flags = self._jvm_flags or ([f"-XX:SharedArchiveFile={archive}"] if archive else [])
        return ["java", *_HEAP, *self._compilers, *flags, "-cp", _classpath()]


class KafkaCluster(ServiceGroup[KafkaNode]):
    """Apache Kafka 4.1.1 of `n` nodes, each a broker and a controller, on free ports of 127.0.0.1.

    Topics are replicated min(3, n) times and are never made by a client's asking. `settings` are added to every node's
    server.properties and win over the harness's own, for example {"broker.session.timeout.ms": "9000"}.
    With n = 3 any one node may be killed, paused or restarted (`cluster.nodes[i]`) and the others go on. Measurements take
    nodes that are `optimised`.
    """

    def __init__(self, n: int = 1, *, optimised: bool = False, settings: Mapping[str, str] | None = None) -> None:
        cluster_id = _new_cluster_id()
        super().__init__("kafka", [KafkaNode(each, cluster_id, optimised=optimised) for each in range(1, n + 1)])
        voters = ",".join(node.voter for node in self.nodes)
        for node in self.nodes:
            node.settings = {"controller.quorum.voters": voters, **broker_settings(n), **(settings or {})}

    def is_whole(self) -> bool:
        everyone = {node.node_id for node in self.nodes}
        return all(live_brokers(LOOPBACK, node.port) == everyone for node in self.nodes)

    @property
    def bootstrap(self) -> str:
        return ",".join(node.address for node in self.nodes)

    @property
    def url(self) -> str:
        return ";".join(f"kafka://{node.address}" for node in self.nodes)


def broker_settings(n: int) -> dict[str, str]:
    """The settings of server.properties that all nodes of a cluster of `n` share."""
    replicas, in_sync = str(min(3, n)), str(max(1, min(3, n) - 1))
    return {
        "auto.create.topics.enable": "false",
        "message.max.bytes": str(MAX_MESSAGE_BYTES),
        "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "2",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        # A broker that was killed may register again only when its old session is over: the default is nine seconds.
        "broker.session.timeout.ms": "3000" if n == 1 else "6000",
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",  # the default makes every first join wait three seconds
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # the default is a quarter of the heap
    }


@functools.cache
def shared_classes() -> Path | None:
    """The JVM's class-data archive for these jars and this Java: it halves the start (5.6 s to 2.4 s measured here).

    Written once, beside the jars, by a broker that starts and stops. None when this JVM would not write one: Kafka
    then starts slower. Raises ServiceUnavailable when there is no Java or there are no jars.
    """
    jars = kafka_jars()
    try:
        java = run_tool(["java", "-version"], timeout=30.0)
    except ToolFailed as failed:
        raise ServiceUnavailable(f"Apache Kafka needs a Java 17 or later: {failed}") from failed
    archive = jars.parent / f"classes-{uuid.uuid5(uuid.NAMESPACE_URL, java).hex[:12]}.jsa"
    with locked(jars.parent / "classes.lock"):
        if not archive.exists():
            _archive_classes(archive)
    return archive if archive.exists() else None


def _archive_classes(archive: Path) -> None:
    unfinished = archive.with_suffix(f".{os.getpid()}")
    node = KafkaNode(1, _new_cluster_id(), jvm_flags=[f"-XX:ArchiveClassesAtExit={unfinished}"])
    node.settings = {"controller.quorum.voters": node.voter, **broker_settings(1)}
    node.stop_timeout = 60.0  # the archive is written after the broker has ended
    try:
        with node:
            node.stop()
        unfinished.rename(archive)
    except (ServiceStartFailed, FileNotFoundError) as failed:
        _log.warning("no class-data archive, so Kafka will start slower: %s", failed)
    finally:
        unfinished.unlink(missing_ok=True)


def _classpath() -> str:
    # Sorted and spelled out: the archive is only used with exactly the class path it was made with.
    return ":".join(str(jar) for jar in sorted(kafka_jars().glob("*.jar")))


def _log_flags(level: str) -> list[str]:
    prefix = "-Dorg.slf4j.simpleLogger"
    return [f"{prefix}.defaultLogLevel={level}", f"{prefix}.showDateTime=true", f"{prefix}.dateTimeFormat=HH:mm:ss.SSS"]


def _new_cluster_id() -> str:
    # Kafka's ids are 16 bytes in URL-safe base 64 and do not begin with a dash, which its tools take for an option.
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
