"""The producer of every process, and the admin client; readers need no Kafka client and never import this."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.settings import Settings
from worker.tasks import cancel_all, uncancelled
from worker.topics import BATCH_BYTES, MAX_DEAD_LETTER_BYTES

_ADMIN_TIMEOUT_MS = 10_000
#: How long a broker may take to answer a first connection, seconds. A client of its own waits for 10 or 40 s.
_ANSWER_SECONDS = 5.0


class NoAnswer(KafkaConnectionError):  # type: ignore[misc] # aiokafka has no types
    """No server that was named has answered in time; none has refused us."""


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


async def require_answer(settings: Settings) -> None:
    """Connects once to a broker, so that a command need not wait for the timeouts of its client.

    Raises:
        NoAnswer: the first servers that can be reached do not answer within `_ANSWER_SECONDS`.
    """
    client = settings.kafka_client()
    servers = [server.rpartition(":") for server in client.pop("bootstrap_servers")]
    client["request_timeout_ms"] = int(2000 * _ANSWER_SECONDS)
    connecting = [asyncio.create_task(create_conn(host.strip("[]"), int(port), **client)) for host, _, port in servers]
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            for each in asyncio.as_completed(connecting):
                try:
                    await each
                except (KafkaError, OSError):
                    continue
                return
    except TimeoutError:
        raise NoAnswer from None
    finally:
        await cancel_all(connecting)
        for task in connecting:
            if not task.cancelled() and task.exception() is None:
                task.result().close()


@asynccontextmanager
async def open_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A started `create_producer` for many records.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    await require_answer(settings)
    producer = create_producer(settings, linger_ms=5)
    try:
        await uncancelled(producer.start())
        yield producer
    finally:
        await producer.stop()


async def send_all(producer: AIOKafkaProducer, messages: Iterable[Message]) -> None:
    """Sends records, and waits until Kafka has acknowledged all of them.

    Raises:
        aiokafka.errors.KafkaError: not all are (known to be) sent.
    """
    batches: dict[tuple[str, int], list[BatchBuilder]] = {}
    for message in messages:
        of_partition = batches.setdefault(message[:2], [])
        if not of_partition or not _add(message, of_partition[-1]):
            of_partition.append(producer.create_batch())
            _add(message, of_partition[-1])  # an empty batch takes any record
    sending = (_send_batches(producer, *place, of_partition) for place, of_partition in batches.items())
    # if one fails, the others end too before the error is raised: nothing is sent behind the caller's back
    for error in filter(None, await asyncio.gather(*sending, return_exceptions=True)):
        raise error


async def _send_batches(producer: AIOKafkaProducer, topic: str, partition: int, batches: Iterable[BatchBuilder]) -> None:
    """Sends batches to a partition in their order, each once the one before has left, and waits for all of them."""
    futures = []
    for batch in batches:
        batch.close()
        futures.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*futures)


def _add(message: Message, batch: BatchBuilder) -> bool:
    """Whether the batch had room."""
    added = batch.append(timestamp=None, key=message.key, value=message.value, headers=list(message.headers))
    return added is not None


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    await require_answer(settings)
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=_ADMIN_TIMEOUT_MS)
    try:
        await uncancelled(admin.start())
        yield admin
    finally:
        await admin.close()


async def committed_offsets(
    admin: AIOKafkaAdminClient, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """The offsets that a group has committed, without the partitions in which it has committed none.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    # each by its name: some brokers do not answer for all that there are
    answer = await admin.list_consumer_group_offsets(group, partitions=list(partitions))
    return {tp: committed.offset for tp, committed in answer.items() if committed.offset >= 0}
