"""Watches Redis for a live feed: waits for entries of the streams of changes, and reads all watermarks each second."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import structlog
from redis.exceptions import NoPermissionError, RedisError

from worker.read_model.changes import START, id_order, read_changes
from worker.read_model.freshness import Partition
from worker.read_model.reader import AttendanceReader, ReaderError
from worker.redis.client import ANSWER_SECONDS, Client
from worker.redis.cluster import Cluster
from worker.tasks import cancel_all
from worker.web.live.source import Changes

log = structlog.get_logger(__name__)

STATUS_SECONDS = 1.0
#: A status read that takes longer counts as an outage.
ANSWERS_WITHIN = 3.0
#: Pauses after failed status reads. One alone is no outage: a failover, or a namespace that is switched.
_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
_BLOCK_MS = 1000
#: Entries that arrive within this time are read together.
_GATHER_SECONDS = 0.05


class Watcher:
    """Reports what changed, on connections of its own: one to a single server, one for each partition of a cluster.

    Without the right to run XREAD it reports each second which partitions changed.

    Args:
        on_changes: called with what changed; Redis is available.
        on_outage: called with the reason, in words, each time that the watermarks cannot be read.
    """

    def __init__(
        self,
        client: Client,
        reader: AttendanceReader,
        on_changes: Callable[[Changes], None],
        on_outage: Callable[[str], None],
    ) -> None:
        self._client = client
        self._reader = reader
        self._on_changes = on_changes
        self._on_outage = on_outage

    async def run(self) -> None:
        """Watches until it is cancelled."""
        failures = 0
        view: _View | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(ANSWERS_WITHIN):
                        namespace, partitions = await self._reader.live_status()
                except (ReaderError, RedisError, OSError) as error:
                    failures += 1
                    if failures > 1:
                        self._on_outage(describe(error))
                    await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1])
                    continue
                if view is None or failures > 1 or not view.is_of(namespace, partitions):
                    if view is not None:
                        await view.close()
                    view = _View(self._client, namespace, partitions, self._on_changes)
                    self._on_changes(Changes(None, True, frozenset(range(len(partitions))), True, len(partitions)))
                else:
                    self._on_changes(view.compare(partitions))
                failures = 0
                await asyncio.sleep(STATUS_SECONDS)
        finally:
            if view is not None:
                await view.close()


class _View:
    """A namespace as it was last read, and the tasks that wait for its changes."""

    def __init__(
        self, client: Client, namespace: str, partitions: Sequence[Partition], on_changes: Callable[[Changes], None]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._count = len(partitions)
        self._on_changes = on_changes
        self._read_ids = {each.number: _newest_id(each) for each in partitions}
        """The last entry read of each stream."""
        self._seen = {each.number: _Seen.of(each) for each in partitions}
        self._may_read_streams = True
        groups = [[each.number] for each in partitions] if isinstance(client, Cluster) else [[*self._read_ids]]
        self._tasks = [asyncio.create_task(self._follow(group)) for group in groups]

    def is_of(self, namespace: str, partitions: Sequence[Partition]) -> bool:
        return self._namespace == namespace and self._count == len(partitions)

    async def close(self) -> None:
        await cancel_all(self._tasks)

    def compare(self, partitions: Iterable[Partition]) -> Changes:
        """What changed since the last status read and was not read from a stream."""
        missed = set()
        for each in partitions:
            before, self._seen[each.number] = self._seen[each.number], _Seen.of(each)
            newest, read = _newest_id(each), self._read_ids[each.number]
            if not self._may_read_streams:
                is_missed = newest != read
            else:
                # an entry that was there a second ago has not been read; or the ids went back, after a loss of data
                known = id_order(before.newest_id)
                is_missed = id_order(read) < known or id_order(newest) < known
            if is_missed:
                self._read_ids[each.number] = newest
            if is_missed or before.keys != self._seen[each.number].keys:
                missed.add(each.number)
        return Changes(None if missed else frozenset(), bool(missed), frozenset(missed), True, self._count)

    async def _follow(self, numbers: Sequence[int]) -> None:
        while True:
            after = {number: self._read_ids[number] for number in numbers}
            try:
                async with asyncio.timeout(_BLOCK_MS / 1000 + ANSWER_SECONDS):
                    reads = await read_changes(self._client, self._namespace, after, _BLOCK_MS)
            except NoPermissionError as error:
                if self._may_read_streams:
                    self._may_read_streams = False
                    log.warning("live values are read each second: grant XREAD to the Redis user", error=str(error))
                return
            except (RedisError, OSError):
                # the status read finds outages, and what was not read here
                await asyncio.sleep(STATUS_SECONDS)
                continue
            if not reads:
                continue
            for number, read in reads.items():
                self._read_ids[number] = read.last_id
            names = [read.sessions for read in reads.values()]
            sessions = None if None in names else frozenset[str]().union(*(each for each in names if each is not None))
            has_alerts = any(read.alerts for read in reads.values())
            self._on_changes(Changes(sessions, has_alerts, frozenset(reads), False, self._count))
            await asyncio.sleep(_GATHER_SECONDS)


class _Seen(NamedTuple):
    """What a status read found of a partition."""

    newest_id: str
    keys: tuple[str, ...]
    """State, live keys and table: after a change of them, all of its values may be others."""

    @classmethod
    def of(cls, partition: Partition) -> "_Seen":
        return cls(_newest_id(partition), tuple(partition.mark.get(name, "") for name in ("state", "keys", "generation")))


def _newest_id(partition: Partition) -> str:
    return partition.mark.get("changes") or START


def describe(error: Exception) -> str:
    """Why nothing can be read now, in words."""
    return str(error) if isinstance(error, ReaderError) else "Redis does not answer"
