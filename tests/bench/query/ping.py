"""`python -m tests.bench.query.ping URL`: pings a Redis each millisecond; on SIGTERM prints how long the answers took.

It also says how late it was woken itself: where that is long, other processes had the processor, and waits and blocks that
the clock shows are theirs too.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from time import perf_counter, sleep
from urllib.parse import urlsplit

_REST_S = 0.001


def main(url: str) -> None:
    """Milliseconds of answers and of being late: p50, p99, p999, max; of how many pings."""
    address = urlsplit(url)
    waits: list[float] = []
    late: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print(_said(waits, late), flush=True)))
    with socket.create_connection((address.hostname or "127.0.0.1", address.port or 6379)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            start = perf_counter()
            connection.sendall(b"PING\r\n")
            connection.recv(64)
            end = perf_counter()
            waits.append((end - start) * 1e3)
            sleep(_REST_S)
            late.append((perf_counter() - end - _REST_S) * 1e3)


def _said(waits: list[float], late: list[float]) -> str:
    return json.dumps(
        {**_spread(waits), **{f"late_{name}": value for name, value in _spread(late).items()}, "pings": len(waits)}
    )


def _spread(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(ordered[int((len(ordered) - 1) * share)], 3) for name, share in shares.items() if ordered}


if __name__ == "__main__":
    main(sys.argv[1])
