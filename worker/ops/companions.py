"""The processes that a worker starts beside itself, so that a fleet serves what a rebuild needs without being deployed anew.

After `attendance rebuild --refold` the tables of the build and those that were live are both written until one is dropped. Each
worker keeps its own tables, and starts a process of its own for the others; a worker whose tables are dropped leaves the work
to that process. Topics that are mirrored with those of another prefix have one more process for that.
"""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from time import monotonic

import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from worker.ops.children import die_with_parent
from worker.read_model.builds import BuildState, Registry, read_registry
from worker.read_model.keys import is_ours
from worker.redis.client import create_redis
from worker.settings import ENV_PREFIX, Settings
from worker.stream.group_topic import find_mirrored
from worker.topics import FIRST_TABLES

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
#: Name of the process that mirrors; those for other tables have their number.
_MIRROR = "mirror"
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
        self._seen: Registry | None = None
        self._is_mirrored = False

    @property
    def are_running(self) -> bool:
        """Whether there is one for other tables."""
        return any(process.poll() is None for name, process in self._processes.items() if name != _MIRROR)

    async def keep(self) -> None:
        """Starts and stops them, as builds come and go, until it is cancelled; all have ended then."""
        client = create_redis(self._settings)
        try:
            while True:
                # without Redis and Kafka nothing changes
                with suppress(RedisError, KafkaError, OSError, TimeoutError):
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
        wanted = other_tables(registry, self._settings)
        if registry != self._seen:
            # it changes whenever mirroring begins or ends, and Kafka is not asked again and again
            self._is_mirrored, self._seen = await find_mirrored(self._settings) is not None, registry
        if self._is_mirrored:
            wanted.add(_MIRROR)
        for name in self._processes.keys() - wanted:
            await self._stop(name)
        for name in wanted:
            if name in self._processes:
                has_ended = self._processes[name].poll() is not None
                if not has_ended or monotonic() - self._started[name] < _RESTART_SECONDS:
                    continue
            if name == _MIRROR:
                log.info("starting to mirror the topics")
            else:
                log.info("starting a worker of other tables", tables=name)
            self._processes[name], self._started[name] = _start(name), monotonic()

    async def _stop(self, name: str) -> None:
        process = self._processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, _STOP_SECONDS)
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait)


def other_tables(registry: Registry, settings: Settings) -> set[str]:
    """The tables that were made with these settings, besides those of a worker."""
    of_builds = [(each.namespace, each.settings) for each in registry.builds if each.state is not BuildState.LOADING]
    of_live = [] if registry.live is None else [(registry.live, registry.live_settings)]
    found = {
        namespace.tables
        for namespace, shaping in [*of_builds, *of_live]
        if is_ours(settings.redis_namespace, namespace.name)
        and shaping == settings.shaping()
        and namespace.has_prefix(settings.topic_prefix)
    }
    return found - {settings.tables or FIRST_TABLES}


def _start(name: str) -> subprocess.Popen[bytes]:
    is_mirror = name == _MIRROR
    return subprocess.Popen(  # noqa: S603 - the command is ours
        [sys.executable, "-m", "worker", "mirror" if is_mirror else "worker"],
        stdin=subprocess.DEVNULL,
        env=dict(os.environ) if is_mirror else {**os.environ, f"{ENV_PREFIX}TABLES": name},
        # Ctrl-C in the terminal reaches only the parent, which ends it
        start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl, looked up before the fork
    )
