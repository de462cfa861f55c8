"""What a batch sends to Kafka beside its changelog: dead letters, forwards, alerts. Repeating it is harmless."""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.alerts import AlertEvent
from schemas.events import RECEIVED_HEADER
from schemas.times import format_time
from worker.stream.intake import Intake
from worker.topics import TopicNames, partition_of

_LETTER_HEADERS = frozenset({"reason", "detail", "topic", "partition", "offset", "first-seen"})


class Message(NamedTuple):
    """One record to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def messages(
    intake: Intake, published: Iterable[AlertEvent], topics: TopicNames, partition: int, partitions: int
) -> list[Message]:
    """Everything a batch sends, in the order in which it is sent."""
    return [
        *(_dead_letter(*letter, topics=topics, partition=partition) for letter in intake.letters),
        *(_forward(*forward, topics=topics, partitions=partitions) for forward in intake.forwards),
        *(Message(topics.alerts, partition, event["data"]["alertId"].encode(), orjson.dumps(event), []) for event in published),
    ]


async def send(producer: AIOKafkaProducer, waiting: Iterable[Message]) -> None:
    """Sends and waits until Kafka has them all.

    Raises:
        aiokafka.errors.KafkaError: not (known to be) all sent; sending them again is harmless.
    """
    sent = [await producer.send(m.topic, key=m.key, value=m.value, partition=m.partition, headers=m.headers) for m in waiting]
    await asyncio.gather(*sent)


def _dead_letter(record: Any, letter: Any, received: int, *, topics: TopicNames, partition: int) -> Message:
    """The original, untouched, with why and whence in headers; its own headers stay, for a replay."""
    own = [(name, content) for name, content in record.headers if name not in _LETTER_HEADERS]
    ours = {
        "reason": letter.reason,
        "detail": letter.detail,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "first-seen": format_time(max(received, 0)),
    }
    headers = [*own, *((name, text.encode()) for name, text in ours.items())]
    return Message(topics.dead_letters, partition, record.key, record.value, headers)


def _forward(record: Any, booking_id: str, received: int, *, topics: TopicNames, partitions: int) -> Message:
    """The event to its booking's partition, saying when it first came."""
    own = [(name, content) for name, content in record.headers if name != RECEIVED_HEADER]
    headers = [*own, (RECEIVED_HEADER, _exact(received).encode())]
    return Message(topics.events, partition_of(booking_id, partitions), booking_id.encode(), record.value, headers)


def _exact(received: int) -> str:
    """RFC 3339 to the microsecond: an event must not be received earlier because it was forwarded."""
    return f"{format_time(received)[:-4]}{received % 1_000_000:06d}Z"
