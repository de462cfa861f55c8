"""The one Kafka request that readiness needs, by hand: clients cannot be driven from inside a running event loop."""

from __future__ import annotations

import socket
import struct

# Metadata v1 for no topics. Kafka 4 still serves the lowest versions of Metadata, and so does Tansu.
_REQUEST = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
_TIMEOUT_S = 1.0


def live_brokers(host: str, port: int) -> frozenset[int]:
    """The ids of the brokers that the one at `host:port` tells clients to be alive.

    Empty when it does not answer within a second, or not in Kafka's protocol; never raises.
    """
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(_REQUEST)) + _REQUEST)
            with connection.makefile("rb") as stream:
                (size,) = struct.unpack(">i", stream.read(4))
                return _broker_ids(stream.read(size))
    except (OSError, struct.error, IndexError):
        return frozenset()


def _broker_ids(body: bytes) -> frozenset[int]:
    # correlation id, then an array of: node id int32, host string, port int32, rack nullable string
    (count,) = struct.unpack_from(">i", body, 4)
    at, ids = 8, set()
    for _ in range(count):
        node, length = struct.unpack_from(">ih", body, at)
        at += 6 + length + 4
        (rack,) = struct.unpack_from(">h", body, at)
        at += 2 + max(rack, 0)
        ids.add(node)
    return frozenset(ids)
