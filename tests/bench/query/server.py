"""What the server says of itself: its processor time, its slowest commands, and how long another client waits meanwhile."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from tests.bench.process import Child

_LOG_MS = 0.5
_LOG_ENTRIES = 20_000
_SLOWEST = 10
#: Commands of the benchmark itself.
_OURS = (b"SLOWLOG", b"INFO", b"CONFIG")


class Server:
    """The Redis that is asked. ``longest_ms`` is by its own SLOWLOG: one command, without waiting and network."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def prepare(self) -> None:
        """Logs every command that takes half a millisecond."""
        await self._client.config_set("slowlog-log-slower-than", int(_LOG_MS * 1000))
        await self._client.config_set("slowlog-max-len", _LOG_ENTRIES)

    async def cpu_seconds(self) -> float:
        used: dict[str, Any] = await self._client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    async def forget_slow(self) -> None:
        await self._client.slowlog_reset()

    async def slowest(self) -> tuple[float, str, list[float]]:
        """Of the slowest command since `forget_slow` milliseconds (0: none took half a one) and name; those of the ten slowest.

        These are times by the clock: where other processes took the processor from the server, one of them alone is long.
        """
        log = [entry for entry in await self._client.slowlog_get(_LOG_ENTRIES) if not entry["command"].startswith(_OURS)]
        log = sorted(log, key=lambda entry: -int(entry["duration"]))[:_SLOWEST]
        if not log:
            return 0.0, "", []
        name = b" ".join(log[0]["command"].split()[:3])[:60].decode(errors="replace")
        return int(log[0]["duration"]) / 1e3, name, [int(entry["duration"]) / 1e3 for entry in log]


class Pinging:
    """A second process that pings the server every millisecond, until the context ends: what other clients wait."""

    def __init__(self, url: str, folder: Path) -> None:
        self._child = Child("ping", (sys.executable, "-m", "tests.bench.query.ping", url), folder)
        self.waits: dict[str, float] = {}
        """What `tests.bench.query.ping` prints; empty where it did not end well."""

    def __enter__(self) -> Pinging:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.stop()
        with suppress(ValueError, IndexError):
            self.waits = orjson.loads(self._child.log.read_text().splitlines()[-1])
