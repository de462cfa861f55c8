"""What all partitions of a worker use."""

import asyncio

from aiokafka import AIOKafkaProducer

from worker.domain.alert_rules import Rules
from worker.engine.partition_appender import Tail
from worker.engine.table import Table
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.dead_letters import DeadLetterLog
from worker.stream.lease import Lease
from worker.topics import BATCH_BYTES, TopicNames, partition_of

#: Bookings kept decoded in memory, of all partitions together; beyond, those longest unused are read from the table again.
CACHED_BOOKINGS = 55_000


class Resources:
    """Clients, tables and settings, and the alerts topic's tails by partition."""

    def __init__(
        self, settings: Settings, producer: AIOKafkaProducer, redis: Client, attendance: Table, bookings: Table, namespace: str
    ) -> None:
        self.settings = settings
        self.topics = TopicNames.of(settings.topic_prefix)
        self.rules = Rules(**{k: v for k, v in settings.shaping().items() if k != "partitions"})
        self.producer = producer
        self.redis = redis
        self.attendance = attendance
        self.bookings = bookings
        self.namespace = namespace
        self.lease = Lease(settings.session_timeout.total_seconds())
        self.folding = asyncio.Lock()
        """Held while a batch is folded."""
        self.alerts: dict[int, Tail] = {}
        self.dead_letters = DeadLetterLog()

    @property
    def cached_bookings(self) -> int:
        """Bookings that each partition may keep decoded."""
        return CACHED_BOOKINGS // max(1, len(self.attendance.partitions))

    def partition_of(self, booking_id: str) -> int:
        return partition_of(booking_id, self.settings.partitions)

    def own(self, partitions: set[int]) -> list[Tail]:
        """Makes tails for the partitions assigned now, and forgets all others; those made."""
        made = {number: Tail(self.topics.alerts, number, BATCH_BYTES) for number in partitions}
        self.alerts = made
        return list(made.values())
