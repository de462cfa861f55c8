"""Asks the workers on this machine what they are doing, at the ports where they serve their metrics."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from worker.monitoring.server import PORTS
from worker.settings import Settings

#: How long one of them may take to answer as a whole, seconds, and how much that may be, bytes.
_SECONDS, _BYTES = 3.0, 1 << 20
#: An address to listen at that is none to connect to, and what is connected to instead.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def worker_statuses(settings: Settings) -> list[dict[str, Any]]:
    """What `/status` of each worker of this tenant answers, with its ``address``.

    Asked are the host and the ports of `ATTENDANCE_METRICS_BIND`, all at once; whatever else listens there is passed over.
    Where the port is 0, workers have any free one, and none is asked. Call it in a thread without an event loop.
    """
    host, first = settings.metrics_address
    name = _LOOPBACK.get(host, host)
    ports = range(first, min(first + PORTS, 65536)) if first else range(0)

    async def ask_all() -> list[dict[str, Any] | None]:
        return await asyncio.gather(*(_ask(name, port) for port in ports))

    return [
        {"address": f"http://{f'[{name}]' if ':' in name else name}:{port}", **answer}
        for port, answer in zip(ports, asyncio.run(ask_all()), strict=True)
        if answer is not None and answer.get("prefix") == settings.topic_prefix
    ]


def describe(status: dict[str, Any]) -> str:
    """One line: the address, the health, the partitions."""
    health = "ready" if status["ready"] else f"{'not ready' if status['live'] else 'not alive'} ({status['reason']})"
    of_state: dict[str, list[str]] = {}
    for each in status["partitions"]:
        of_state.setdefault(each["state"], []).append(str(each["partition"]))
    partitions = "; ".join(f"{state} {', '.join(numbers)}" for state, numbers in of_state.items()) or "none"
    ages = [each["freshnessSeconds"] for each in status["partitions"]]
    freshness = "unknown" if not ages or None in ages else f"{max(ages)} s"
    lag = sum(sum(each["lag"].values()) for each in status["partitions"])
    return f"{status['address']} pid {status['pid']}: {health}; partitions: {partitions}; freshness: {freshness}; lag: {lag}"


async def _ask(host: str, port: int) -> dict[str, Any] | None:
    """The answer of a worker; None: there is none.

    An HTTP client would go through a proxy and after redirects, and would wait without end for a server that is slow.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            answer = await _answer(host, port)
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
    except (OSError, TimeoutError, ValueError):
        return None
    is_worker = isinstance(document, dict) and document.get("service") == "attendance-worker"
    return document if is_worker else None


async def _answer(host: str, port: int) -> bytes:
    """What a server sends until it closes the connection, as far as it is not too much."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        writer.write(b"GET /status HTTP/1.0\r\n\r\n")
        while len(answer) <= _BYTES and (part := await reader.read(_BYTES)):
            answer += part
    finally:
        writer.close()
    return answer
