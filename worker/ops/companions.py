"""The processes that a worker starts for other tables with its settings, so that a fleet serves a build of its own tables.

After `attendance rebuild --refold` the tables of the build and those that were live are both written until one is dropped. Each
worker keeps its own tables, and starts a process of its own for the others; a worker whose tables are dropped leaves the work
to that process.
"""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from time import monotonic

import structlog
from redis.exceptions import RedisError

from worker.ops.children import die_with_parent
from worker.read_model.builds import BuildState, Registry, read_registry
from worker.read_model.keys import is_ours
from worker.redis.client import create_redis
from worker.settings import ENV_PREFIX, Settings
from worker.topics import FIRST_TABLES

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
#: One that ended is started again after so long, seconds.
_RESTART_SECONDS = 15.0
#: A stopping worker ends within 15 s in any case.
_STOP_SECONDS = 16.0


class Companions:
    """The processes of one worker.

    Args:
        settings: of the worker, with its tables.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}

    @property
    def are_running(self) -> bool:
        """Whether there is one."""
        return any(process.poll() is None for process in self._processes.values())

    async def keep(self) -> None:
        """Starts and stops them, as builds come and go, until it is cancelled; all have ended then."""
        client = create_redis(self._settings)
        try:
            while True:
                # without Redis nothing changes
                with suppress(RedisError, OSError, TimeoutError):
                    await self._follow(await read_registry(client, self._settings.redis_namespace))
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await client.aclose()
            await asyncio.gather(*map(self._stop, list(self._processes)))

    async def until_ended(self, stop: asyncio.Event) -> None:
        """Waits until none runs any more, or the event is set."""
        while self.are_running and not stop.is_set():  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(_LOOK_SECONDS / 4)

    async def _follow(self, registry: Registry) -> None:
        others = other_tables(registry, self._settings)
        for tables in self._processes.keys() - others:
            await self._stop(tables)
        for tables in others:
            if tables in self._processes:
                has_ended = self._processes[tables].poll() is not None
                if not has_ended or monotonic() - self._started[tables] < _RESTART_SECONDS:
                    continue
            log.info("starting a worker of other tables", tables=tables)
            self._processes[tables], self._started[tables] = _start(tables), monotonic()

    async def _stop(self, tables: str) -> None:
        process = self._processes.pop(tables)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, _STOP_SECONDS)
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait)


def other_tables(registry: Registry, settings: Settings) -> set[str]:
    """The tables that were made with these settings, besides those of a worker."""
    base, shaping, own = settings.redis_namespace, settings.shaping(), settings.tables or FIRST_TABLES
    found = {
        build.namespace.tables
        for build in registry.builds
        if build.state is not BuildState.LOADING and is_ours(base, build.namespace.name) and build.settings == shaping
    }
    if registry.live is not None and is_ours(base, registry.live.name) and registry.live_settings == shaping:
        found.add(registry.live.tables)
    return found - {own}


def _start(tables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "worker"],
        stdin=subprocess.DEVNULL,
        env={**os.environ, f"{ENV_PREFIX}TABLES": tables},
        # Ctrl-C in the terminal reaches only the parent, which ends it
        start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl, looked up before the fork
    )
