"""What a batch sends to Kafka beside its changelog: dead letters, forwards, alerts. Repeating it is harmless."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.alerts import AlertEvent, AlertKind
from schemas.events import OFFSET_HEADER, RECEIVED_HEADER
from schemas.times import format_exact_time, format_time
from worker.domain.booking_state import BookingState
from worker.engine.partition_appender import Record, Tail, read
from worker.stream import projection
from worker.stream.decode_batch import Intake
from worker.stream.originals import Headers, KeptRecord, kept_headers, unpack_original
from worker.topics import MAX_MESSAGE_BYTES, TopicNames, partition_of

_LETTER_HEADERS = frozenset({"reason", "detail", "topic", "partition", "offset", "first-seen", "truncated"})
#: A record batch of 2 MiB may hold far more when it is compressed; beyond these a dead letter would be stuck for ever.
_VALUE_LIMIT = MAX_MESSAGE_BYTES
_KEY_LIMIT = 8 * 1024


class Message(NamedTuple):
    """One record to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Outgoing(NamedTuple):
    """Everything a batch sends."""

    messages: list[Message]
    alerts: list[Record]
    """Key and value of records of the alerts topic, in the batch's partition."""


def outgoing(intake: Intake, published: Iterable[AlertEvent], topics: TopicNames, partition: int, partitions: int) -> Outgoing:
    """What a batch sends, in the order in which it is sent."""
    letters = [_dead_letter(*letter, topics=topics, partition=partition) for letter in intake.letters]
    forwards = [forwarded(*forward, partitions=partitions) for forward in intake.forwards]
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
    return projection.said(state(booking_id), kind, session_id)


def _alert(event: AlertEvent) -> Record:
    return event["data"]["alertId"].encode(), orjson.dumps(event)


def _dead_letter(record: Any, letter: Any, received: int, *, topics: TopicNames, partition: int) -> Message:
    """The original, untouched, with why and whence in headers; its own headers stay, for a replay."""
    own = kept_headers(record.headers, _LETTER_HEADERS)
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


def forwarded(record: Any, booking_id: str, received: int, *, partitions: int) -> Message:
    """The record to its booking's partition, under the booking's key, saying when it first came."""
    headers = [*kept_headers(record.headers), _received(received)]
    return Message(record.topic, partition_of(booking_id, partitions), booking_id.encode(), record.value, headers)


def append_again(topic: str, partition: int, kept: KeptRecord) -> Message:
    """A booking's record that holds, behind one that does not: compaction then keeps the right one."""
    headers, value = unpack_original(kept.original)
    headers += [_received(kept.place.received), (OFFSET_HEADER, b"%d" % kept.place.offset)]
    return Message(topic, partition, kept.booking_id.encode(), value, headers)


def _received(received: int) -> tuple[str, bytes]:
    # to the microsecond: a record must not be received earlier because it was sent on
    return RECEIVED_HEADER, format_exact_time(received).encode()
