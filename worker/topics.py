"""Names of the topics, the partition of a booking, and a plain producer for whoever publishes."""

from functools import lru_cache
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from worker.settings import Settings

MIB = 1024 * 1024
#: What a broker takes as one record batch; a dead letter may be an original of that size with headers.
MAX_MESSAGE_BYTES = 2 * MIB
MAX_DEAD_LETTER_BYTES = MAX_MESSAGE_BYTES + 128 * 1024
TABLES = ("attendance", "bookings")
BATCH_BYTES = 512 * 1024


class TopicNames(NamedTuple):
    """Every topic of one tenant."""

    events: str
    bookings: str
    alerts: str
    dead_letters: str
    attendance_changelog: str
    bookings_changelog: str

    @classmethod
    def of(cls, prefix: str) -> "TopicNames":
        """The names under a prefix; changelogs are named as Faust names them."""
        plain = (f"{prefix}.{name}" for name in ("events", "bookings", "alerts", "dead-letters"))
        return cls(*plain, *(f"{prefix}-{table}-changelog" for table in TABLES))


@lru_cache(maxsize=100_000)
def partition_of(booking_id: str, partitions: int) -> int:
    """The partition of a booking: Kafka's default partitioner on its normalised id."""
    number: int = murmur2(booking_id.encode()) & 0x7FFFFFFF
    return number % partitions


def create_producer(settings: Settings, **changes: Any) -> AIOKafkaProducer:
    """A producer that waits for every replica. Repeats after a lost answer are harmless here, so it is not idempotent."""
    return AIOKafkaProducer(
        **{
            **settings.kafka_client(),
            "acks": "all",
            "max_batch_size": BATCH_BYTES,
            "max_request_size": MAX_DEAD_LETTER_BYTES,
            **changes,
        }
    )
