"""Compares the tables, Redis and the alerts topic, partition by partition, also while workers run."""

from collections.abc import AsyncGenerator, Iterable

from worker.engine.log_reader import open_consumer
from worker.engine.stores import open_store
from worker.kafka import open_admin, require_answer
from worker.ops.partition_check import OnProgress, PartitionCheck, Unreached, Window
from worker.ops.partition_report import PartitionReport
from worker.ops.scratch import scratch_folder
from worker.read_model.builds import other_topics, read_registry
from worker.read_model.keys import is_ours
from worker.redis.client import Client
from worker.settings import Settings


class VerifyError(Exception):
    """Nothing can be compared; the message says why and what to do."""


class Verification:
    """Compares the partitions of one system, one after the other."""

    def __init__(self, settings: Settings, client: Client, on_progress: OnProgress = lambda _: None) -> None:
        self._settings = settings
        self._client = client
        self._done = 0
        self._on_progress = on_progress

    async def run(
        self, partitions: Iterable[int], window: Window | None = None, *, repair: bool = False
    ) -> AsyncGenerator[tuple[PartitionReport, PartitionReport | None]]:
        """Compares partitions; yields what each is found to be, and with ``repair`` what it is after its repair.

        Raises:
            VerifyError: no namespace is live, or it is not of this layout.
        """
        settings, namespace = await self._live()
        await require_answer(settings)
        with scratch_folder("attendance-verify-") as folder:
            url = settings.store if settings.store == "memory://" else f"rocksdb://{folder}/rows"
            store = open_store(url, settings.group)
            try:
                async with open_consumer(settings.kafka_client()) as consumer, open_admin(settings) as admin:
                    for number in partitions:
                        check = PartitionCheck(
                            settings, self._client, consumer, admin, namespace, number, store, self._progress
                        )
                        try:
                            found = await check.run(window)
                            after = await check.repair(found) if repair and not found.is_equal else None
                        finally:
                            check.copy.drop()
                        yield found, after
            finally:
                store.close()

    async def correct_alerts(self, number: int, operation: str) -> int:
        """Has the alerts topic of a partition say what the tables do; returns how many alerts differed.

        Raises:
            VerifyError: no namespace is live, or the worker does not reach the tables.
        """
        settings, namespace = await self._live()
        with scratch_folder("attendance-verify-") as folder:
            url = settings.store if settings.store == "memory://" else f"rocksdb://{folder}/rows"
            store = open_store(url, settings.group)
            try:
                async with open_consumer(settings.kafka_client()) as consumer, open_admin(settings) as admin:
                    given = (settings, self._client, consumer, admin, namespace, number, store, self._progress)
                    return await PartitionCheck(*given).correct_alerts(operation)
            except Unreached as error:
                raise VerifyError(str(error)) from None
            finally:
                store.close()

    def _progress(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done)

    async def _live(self) -> tuple[Settings, str]:
        """The settings with the tables of the live namespace, and its name."""
        base = self._settings.redis_namespace
        live = (await read_registry(self._client, base)).live
        if live is None:
            raise VerifyError("no namespace is live in Redis: start a worker, which fills one from the tables")
        if not is_ours(base, live.name):
            raise VerifyError(f"namespace {live.name} has the layout of another version: use the version of the workers")
        if not live.has_prefix(self._settings.topic_prefix):
            raise VerifyError(other_topics(live))
        if live.partitions != self._settings.partitions:
            raise VerifyError(f"ATTENDANCE_PARTITIONS: the read models have {live.partitions} partitions: set that number")
        return self._settings.model_copy(update={"tables": live.tables}), live.name
