"""The producer of every process, and the admin client; readers need no Kafka client and never import this."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from worker.settings import Settings
from worker.topics import BATCH_BYTES, MAX_DEAD_LETTER_BYTES

_ADMIN_TIMEOUT_MS = 10_000


class Message(NamedTuple):
    """A record to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


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


@asynccontextmanager
async def open_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A started `create_producer` for many records.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    producer = create_producer(settings, linger_ms=5)
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()


async def send_all(producer: AIOKafkaProducer, messages: Iterable[Message]) -> None:
    """Sends records, and waits until Kafka has acknowledged all of them.

    Raises:
        aiokafka.errors.KafkaError: not all are (known to be) sent.
    """
    futures = [
        await producer.send(m.topic, key=m.key, value=m.value, partition=m.partition, headers=m.headers) for m in messages
    ]
    await asyncio.gather(*futures)


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=_ADMIN_TIMEOUT_MS)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
