"""What a batch sends to Kafka besides its changelog: dead letters, forwards, alerts. Sending them twice is harmless."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition

from schemas.alerts import AlertEvent, AlertKind
from schemas.decoding.readable import traceparent_of
from schemas.events import OFFSET_HEADER, RECEIVED_HEADER, TRACEPARENT_HEADER
from schemas.times import format_exact_time, format_time
from worker.domain.booking_state import BookingState
from worker.engine.partition_appender import PartitionAppender, Record, read
from worker.kafka import Message, send_all
from worker.stream import projection
from worker.stream.decode_batch import Contents
from worker.stream.originals import KeptRecord, kept_headers, unpack_original
from worker.topics import MAX_MESSAGE_BYTES, TopicNames, partition_of

DEAD_LETTER_HEADERS = frozenset({"reason", "detail", "topic", "partition", "offset", "first-seen", "truncated"})
#: A compressed record batch of 2 MiB may hold far larger records; a dead letter beyond these limits could never be sent.
_VALUE_LIMIT = MAX_MESSAGE_BYTES
_KEY_LIMIT = 8 * 1024


class Outgoing(NamedTuple):
    """Everything that a batch sends."""

    messages: list[Message]
    alerts: list[Record]
    """Key and value of records for the batch's partition of the alerts topic."""


def outgoing(contents: Contents, alerts: list[Record], source: TopicPartition, topics: TopicNames, partitions: int) -> Outgoing:
    """Everything that a batch sends, in the order of sending; ``source``: where it was read."""
    dead_letters = [_dead_letter(*entry, source=source, topics=topics) for entry in contents.dead_letters]
    forwards = [forwarded(*forward, topic=source.topic, partitions=partitions) for forward in contents.forwards]
    return Outgoing(dead_letters + forwards, alerts)


async def send(producer: AIOKafkaProducer, alerts: PartitionAppender, outgoing: Outgoing) -> None:
    """Sends everything and waits until Kafka has it.

    Raises:
        aiokafka.errors.KafkaError: not everything is (known to be) sent; sending it again is harmless.
    """
    await send_all(producer, outgoing.messages)
    if outgoing.alerts:
        await alerts.append(producer, [(alert,) for alert in outgoing.alerts])


async def rewrite(
    producer: AIOKafkaProducer,
    alerts: PartitionAppender,
    offsets: range,
    client: Mapping[str, Any],
    state_of: Callable[[str], BookingState],
) -> None:
    """Publishes the present state of the alerts that foreign writes at these offsets concern.

    Args:
        producer: for the new records.
        alerts: appends to the partition of the alerts topic.
        offsets: of the foreign writes.
        client: connection settings for aiokafka.
        state_of: gives the state of a booking.

    Raises:
        worker.engine.partition_appender.BehindOpenTransaction: an open transaction holds some of the foreign writes.
        TimeoutError: the foreign writes cannot be read.
        aiokafka.errors.KafkaError: not everything is (known to be) sent; sending it again is harmless.
    """
    values = {record.key: record.value for record in await read(client, alerts.topic, alerts.partition, offsets)}
    events = [(value, _current_event(value, state_of)) for value in values.values()]
    records = [projection.alert_record(event) for value, event in events if event is not None and not _is_same(value, event)]
    if records:
        await alerts.append(producer, [(record,) for record in records])


def _current_event(value: bytes | None, state_of: Callable[[str], BookingState]) -> AlertEvent | None:
    """The present CloudEvent of the alert in a record; None if the alert was never open, or the record is no alert."""
    try:
        data = orjson.loads(value or b"")["data"]
        booking_id, kind, session_id = data["bookingId"], AlertKind(data["kind"]), data.get("sessionId")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # not written by a worker; its key is no alert's
    return projection.current_alert_event(state_of(booking_id), kind, session_id)


def _is_same(value: bytes | None, event: AlertEvent) -> bool:
    """Whether a record has that event already, perhaps marked as a backfill."""
    document: dict[str, Any] = orjson.loads(value or b"{}")
    document.pop("backfill", None)
    return bool(document == orjson.loads(orjson.dumps(event)))


def _dead_letter(record: Any, dead_letter: Any, received: int, *, source: TopicPartition, topics: TopicNames) -> Message:
    """The original value and headers, for a replay, and further headers with the reason and the origin."""
    original = kept_headers(record.headers, DEAD_LETTER_HEADERS)
    added = {
        "reason": dead_letter.reason,
        "detail": dead_letter.detail,
        "topic": source.topic,
        "partition": str(source.partition),
        "offset": str(record.offset),
        "first-seen": format_time(max(received, 0)),
    }
    if len(record.value or b"") > _VALUE_LIMIT:
        added["truncated"] = str(len(record.value))
    trace = traceparent_of(record.value, record.headers)
    if trace is not None and all(name.lower() != TRACEPARENT_HEADER for name, _ in original):
        added[TRACEPARENT_HEADER] = trace
    headers = [*original, *((name, text.encode()) for name, text in added.items())]
    key, value = record.key and record.key[:_KEY_LIMIT], record.value and record.value[:_VALUE_LIMIT]
    return Message(topics.dead_letters, source.partition, key, value, headers)


def forwarded(record: Any, booking_id: str, received: int, *, topic: str, partitions: int) -> Message:
    """The record for its booking's partition, with the booking's key and a header with its first reception."""
    headers = [*kept_headers(record.headers), _received(received)]
    return Message(topic, partition_of(booking_id, partitions), booking_id.encode(), record.value, headers)


def append_again(topic: str, partition: int, kept: KeptRecord) -> Message:
    """The current record of a booking, to follow an older one in the log: compaction then keeps the current one."""
    headers, value = unpack_original(kept.original)
    headers += [_received(kept.place.received), (OFFSET_HEADER, b"%d" % kept.place.offset)]
    return Message(topic, partition, kept.booking_id.encode(), value, headers)


def _received(received: int) -> tuple[str, bytes]:
    # to the microsecond: forwarding must not make the reception of a record earlier
    return RECEIVED_HEADER, format_exact_time(received).encode()
