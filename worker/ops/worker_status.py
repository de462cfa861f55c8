"""Asks the workers on this machine what they are doing, at the ports where they serve their metrics."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.request import ProxyHandler, build_opener

from worker.monitoring.server import PORTS
from worker.settings import Settings

_SECONDS = 3.0
#: An address to listen at that is none to connect to, and what is connected to instead.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def worker_statuses(settings: Settings) -> list[dict[str, Any]]:
    """What `/status` of each worker of this tenant answers, with its ``address``.

    Asked are the host and the ports of `ATTENDANCE_METRICS_BIND`, all at once; whatever else listens there is passed over.
    """
    host, first = settings.metrics_address
    name = _LOOPBACK.get(host, host)
    addresses = [f"http://{f'[{name}]' if ':' in name else name}:{port}" for port in range(first, min(first + PORTS, 65536))]
    with ThreadPoolExecutor(PORTS) as threads:
        answers = zip(addresses, threads.map(_ask, addresses), strict=True)
        return [
            {"address": address, **answer}
            for address, answer in answers
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


def _ask(address: str) -> dict[str, Any] | None:
    """The answer of a worker; None: there is none."""
    try:
        # no proxy of the environment: what is asked for is this machine
        with build_opener(ProxyHandler({})).open(f"{address}/status", timeout=_SECONDS) as answer:
            document = json.loads(answer.read(1 << 20))
    except (OSError, HTTPException, ValueError):
        return None
    is_worker = isinstance(document, dict) and document.get("service") == "attendance-worker"
    return document if is_worker else None
