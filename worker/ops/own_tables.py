"""The processes that serve the tables of a build until the workers do."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from worker.ops.children import Child
from worker.settings import ENV_PREFIX, Settings
from worker.stream.group import count_members

#: A stopping worker ends within 15 s in any case.
_STOP_SECONDS = 16.0
_LOOK_SECONDS = 1.0


@asynccontextmanager
async def local_worker(settings: Settings) -> AsyncIterator[Child]:
    """A worker of these tables on this machine, which ends with this process."""
    with tempfile.TemporaryDirectory(prefix="attendance-rebuild-") as folder:
        environment = {f"{ENV_PREFIX}TABLES": settings.tables, f"{ENV_PREFIX}METRICS_BIND": "127.0.0.1:0"}
        child = Child("worker", [sys.executable, "-m", "worker", "worker"], Path(folder) / "worker.log", environment)
        try:
            yield child
        finally:
            await child.stop(_STOP_SECONDS)


@asynccontextmanager
async def local_mirror() -> AsyncIterator[Child]:
    """A process that mirrors the topics of these settings on this machine, and ends with this process."""
    with tempfile.TemporaryDirectory(prefix="attendance-mirror-") as folder:
        child = Child("mirror", [sys.executable, "-m", "worker", "mirror"], Path(folder) / "mirror.log")
        try:
            yield child
        finally:
            await child.stop(_STOP_SECONDS)


async def until_served(settings: Settings, local: Sequence[Child], stop: asyncio.Event, report: Callable[[str], None]) -> None:
    """Waits until another worker than the local one is a member of the group, or the event is set.

    Raises:
        ChildFailed: a local process has ended.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    waited = 0.0
    while not stop.is_set() and await count_members(settings) < 2:
        for each in local:
            each.check()
        waited += _LOOK_SECONDS
        if waited == 5 * _LOOK_SECONDS:
            report(
                "no other worker serves it yet: start yours with these settings, or restart them; this command serves it until "
                "one does, or until Ctrl-C"
            )
        await asyncio.sleep(_LOOK_SECONDS)
