"""What the partitions of a worker share."""

import asyncio
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaProducer

from worker.domain.alert_rules import Rules
from worker.domain.rows import merge_attendance_rows, merge_booking_rows
from worker.engine.gathering import Gathering
from worker.engine.partition_appender import PartitionAppender
from worker.engine.stores import open_store
from worker.engine.stores.base import Store, StoreUnusable
from worker.engine.table import Table
from worker.monitoring.metrics import WorkerMetrics
from worker.redis.client import Client
from worker.settings import Settings, SettingsError
from worker.stream.choose_core import choose_core
from worker.stream.dead_letters import DeadLetterLog
from worker.stream.lease import Lease
from worker.stream.retry import until_done
from worker.topics import BATCH_BYTES, TopicNames

#: Bookings cached in decoded form, in all partitions together; the least recently used ones are dropped.
CACHED_BOOKINGS = 55_000


def open_row_store(settings: Settings) -> Store:
    """The store that ``ATTENDANCE_STORE`` names, for the rows of these tables.

    Numbered tables have a folder of their own in it, since a slot is emptied for rows of another name.

    Raises:
        SettingsError: it cannot be used.
    """
    try:
        has_folder = settings.store not in ("memory://", "rocksdb://")
        is_numbered = settings.group != settings.topic_prefix
        url = f"{settings.store.rstrip('/')}/{settings.group}" if has_folder and is_numbered else settings.store
        return open_store(url, settings.group)
    except StoreUnusable as error:
        raise SettingsError(f"ATTENDANCE_STORE: {error}") from None


def open_tables(settings: Settings, store: Store, gathering: Gathering | None = None) -> tuple[Table, Table]:
    """The tables ``attendance`` and ``bookings`` in a store."""
    topics = TopicNames.of(settings.topic_prefix, settings.tables)
    return (
        Table(topics.attendance_changelog, merge_attendance_rows, BATCH_BYTES, store, 0, gathering),
        Table(topics.bookings_changelog, merge_booking_rows, BATCH_BYTES, store, 1, gathering),
    )


class Resources:
    """Clients, tables, settings, and by partition the appender of the alerts topic."""

    def __init__(
        self,
        settings: Settings,
        producer: AIOKafkaProducer,
        redis: Client,
        attendance: Table,
        bookings: Table,
        metrics: WorkerMetrics,
        erase_key: bytes = b"",
        gathering: Gathering | None = None,
    ) -> None:
        """
        Args:
            erase_key: of the hashes of erased bookings; the same for all tables of the system.
            gathering: that of the tables; None: one of its own, which gathers nothing.
        """
        self.settings = settings
        self.core = choose_core(settings)
        self.metrics = metrics
        self.erase_key = erase_key
        self.topics = TopicNames.of(settings.topic_prefix, settings.tables)
        self.rules = Rules(**{k: v for k, v in settings.shaping().items() if k != "partitions"})
        self.producer = producer
        self.redis = redis
        self.attendance = attendance
        self.bookings = bookings
        self.tables = (attendance, bookings)
        self.lease = Lease(settings.session_timeout.total_seconds())
        self.gathering = gathering or Gathering()
        self.folding = asyncio.Lock()
        """Held while a batch is folded."""
        self.alerts: dict[int, PartitionAppender] = {}
        self.dead_letters = DeadLetterLog()

    @property
    def cached_bookings(self) -> int:
        """Bookings that each partition may cache."""
        return CACHED_BOOKINGS // max(1, len(self.attendance.partitions))

    async def until_written(self, what: str, number: int, write: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Calls ``write`` with the producer and these until Kafka has all of it; not while the lease is in doubt.

        Args:
            what: see `until_done`.
            number: of the partition.
        """

        async def attempt() -> None:
            await self.lease.hold()
            await write(self.producer, *arguments)

        await until_done(what, attempt, partition=number)

    def create_alert_appenders(self, partitions: set[int]) -> list[PartitionAppender]:
        """Replaces all appenders of the alerts topic by new ones for the partitions assigned now."""
        self.alerts = {number: PartitionAppender(self.topics.alerts, number, BATCH_BYTES) for number in partitions}
        return list(self.alerts.values())
