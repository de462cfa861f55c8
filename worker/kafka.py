"""The producer of every process; readers need no Kafka client and never import this."""

from typing import Any

from aiokafka import AIOKafkaProducer

from worker.settings import Settings
from worker.topics import BATCH_BYTES, MAX_DEAD_LETTER_BYTES


def create_producer(settings: Settings, **changes: Any) -> AIOKafkaProducer:
    """A producer with ``acks=all``. Not idempotent: records that are repeated after a lost answer change nothing here."""
    return AIOKafkaProducer(
        **{
            **settings.kafka_client(),
            "acks": "all",
            "max_batch_size": BATCH_BYTES,
            "max_request_size": MAX_DEAD_LETTER_BYTES,
            **changes,
        }
    )
