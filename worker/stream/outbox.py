"""What a batch sends to Kafka beside its changelog: dead letters, forwards, alerts. Repeating it is harmless."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.alerts import AlertEvent, AlertKind
from schemas.events import RECEIVED_HEADER
from schemas.times import format_time
from worker.domain.state import BookingState
from worker.engine.tail import Record, Tail, read
from worker.stream import project
from worker.stream.intake import Intake
from worker.topics import MAX_MESSAGE_BYTES, TopicNames, partition_of

_LETTER_HEADERS = frozenset({"reason", "detail", "topic", "partition", "offset", "first-seen", "truncated"})
#: A record batch of 2 MiB may hold far more when it is compressed; beyond these a dead letter would be stuck for ever.
_VALUE_LIMIT = MAX_MESSAGE_BYTES
_KEY_LIMIT = 8 * 1024
_HEADERS_LIMIT = 32 * 1024


class Message(NamedTuple):
    """One record to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Outgoing(NamedTuple):
    """Everything a batch sends."""

    messages: list[Message]
    alerts: list[Record]
    """Key and value of records of the alerts topic, in the batch's partition."""


def outgoing(intake: Intake, published: Iterable[AlertEvent], topics: TopicNames, partition: int, partitions: int) -> Outgoing:
    """What a batch sends, in the order in which it is sent."""
    letters = [_dead_letter(*letter, topics=topics, partition=partition) for letter in intake.letters]
    forwards = [_forward(*forward, topics=topics, partitions=partitions) for forward in intake.forwards]
    return Outgoing(letters + forwards, list(map(_alert, published)))


async def send(producer: AIOKafkaProducer, alerts: Tail, outgoing: Outgoing) -> None:
    """Sends and waits until Kafka has them all.

    Raises:
        aiokafka.errors.KafkaError: not (known to be) all sent; sending them again is harmless.
    """
    sent = [
        await producer.send(m.topic, key=m.key, value=m.value, partition=m.partition, headers=m.headers)
        for m in outgoing.messages
    ]
    await asyncio.gather(*sent)
    if outgoing.alerts:
        await alerts.append(producer, [(alert,) for alert in outgoing.alerts])


async def mend(
    producer: AIOKafkaProducer,
    alerts: Tail,
    offsets: range,
    client: Mapping[str, Any],
    state: Callable[[str], BookingState],
) -> None:
    """Publishes the alerts again that somebody else published at these offsets, as they are now.

    Raises:
        TimeoutError: what is there cannot be read.
        aiokafka.errors.KafkaError: not (known to be) all sent; sending them again is harmless.
    """
    found = {record.key: record.value for record in await read(client, alerts.topic, alerts.partition, offsets)}
    said = [_now(value, state) for value in found.values()]
    again = list(map(_alert, filter(None, said)))
    if again:
        await alerts.append(producer, [(alert,) for alert in again])


def _now(value: bytes | None, state: Callable[[str], BookingState]) -> AlertEvent | None:
    """What is to be said now of the alert in a record; None where it was never open, or is no alert."""
    try:
        data = orjson.loads(value or b"")["data"]
        booking_id, kind, session_id = data["bookingId"], AlertKind(data["kind"]), data.get("sessionId")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # whoever wrote that is no worker; it has a key of its own
    return project.said(state(booking_id), kind, session_id)


def _alert(event: AlertEvent) -> Record:
    return event["data"]["alertId"].encode(), orjson.dumps(event)


def _dead_letter(record: Any, letter: Any, received: int, *, topics: TopicNames, partition: int) -> Message:
    """The original, untouched, with why and whence in headers; its own headers stay, for a replay."""
    own = _bounded(record, _LETTER_HEADERS)
    ours = {
        "reason": letter.reason,
        "detail": letter.detail,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "first-seen": format_time(max(received, 0)),
    }
    if len(record.value or b"") > _VALUE_LIMIT:
        ours["truncated"] = str(len(record.value))
    headers = [*own, *((name, text.encode()) for name, text in ours.items())]
    key, value = record.key and record.key[:_KEY_LIMIT], record.value and record.value[:_VALUE_LIMIT]
    return Message(topics.dead_letters, partition, key, value, headers)


def _forward(record: Any, booking_id: str, received: int, *, topics: TopicNames, partitions: int) -> Message:
    """The event to its booking's partition, saying when it first came."""
    own = _bounded(record, {RECEIVED_HEADER})
    headers = [*own, (RECEIVED_HEADER, _exact(received).encode())]
    return Message(topics.events, partition_of(booking_id, partitions), booking_id.encode(), record.value, headers)


def _bounded(record: Any, without: Collection[str]) -> list[tuple[str, bytes]]:
    """The record's own headers but some, those of CloudEvents first, as far as they fit."""
    kept, size = [], 0
    for name, content in sorted(record.headers, key=lambda header: not header[0].startswith("ce_")):
        size += len(name) + len(content or b"")
        if name not in without and size <= _HEADERS_LIMIT:
            kept.append((name, content))
    return kept


def _exact(received: int) -> str:
    """RFC 3339 to the microsecond: an event must not be received earlier because it was forwarded."""
    return f"{format_time(received)[:-4]}{received % 1_000_000:06d}Z"
