"""`python -m tests.bench.query.ping URL`: pings a Redis each millisecond; on SIGTERM prints how long the answers took."""

from __future__ import annotations

import json
import signal
import socket
import sys
from time import perf_counter, sleep
from urllib.parse import urlsplit

_REST_S = 0.001


def main(url: str) -> None:
    """Milliseconds: p50, p99, p999, max, of how many."""
    address = urlsplit(url)
    waits: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print(_said(sorted(waits)), flush=True)))
    with socket.create_connection((address.hostname or "127.0.0.1", address.port or 6379)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            start = perf_counter()
            connection.sendall(b"PING\r\n")
            connection.recv(64)
            waits.append((perf_counter() - start) * 1e3)
            sleep(_REST_S)


def _said(waits: list[float]) -> str:
    last = len(waits) - 1
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return json.dumps({**{name: round(waits[int(last * share)], 3) for name, share in shares.items()}, "pings": len(waits)})


if __name__ == "__main__":
    main(sys.argv[1])
