"""Publishes events as devices would: keyed by booking, into its partition, with acks from every replica."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.bindings import unwrapped
from schemas.decode import decode, decode_booking
from schemas.events import RECEIVED_HEADER, Booking, BookingGone, DeadLetter, Event, EventType
from schemas.times import format_time
from worker.settings import Settings, micros
from worker.topics import TopicNames, partition_of

_BOOKING_TYPES = frozenset({EventType.BOOKING_UPSERTED.value, EventType.BOOKING_DELETED.value})
_IN_FLIGHT = 5000

Progress = Callable[[int], None]
"""Told how many events are sent."""


class Outgoing(NamedTuple):
    """One record on its way, with the booking that decides its partition."""

    topic: str
    booking_id: str
    value: bytes
    headers: list[tuple[str, bytes]]


class BadLine(NamedTuple):
    """A line that is no event: which, and what to mend."""

    where: str
    detail: str


def read_line(line: bytes, where: str, settings: Settings, now_ms: int, *, backfill: bool) -> Outgoing | BadLine:
    """An event from a line of JSON; with ``backfill`` it counts as received when it happened."""
    topics, line = TopicNames.of(settings.topic_prefix), unwrapped(line)
    try:
        doc: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(where, f"not JSON ({error}); write one CloudEvent a line")
    headers = [(RECEIVED_HEADER, str(doc["time"]).encode())] if backfill and isinstance(doc, dict) and "time" in doc else []
    if isinstance(doc, dict) and isinstance(doc.get("type"), str) and doc["type"] in _BOOKING_TYPES:
        return _judged(decode_booking(line, headers), topics.bookings, line, where, headers)
    return _judged(decode(line, headers, now_ms, max_age=micros(settings.max_event_age)), topics.events, line, where, headers)


def _judged(
    said: Event | Booking | BookingGone | DeadLetter,
    topic: str,
    line: bytes,
    where: str,
    headers: list[tuple[str, bytes]],
) -> Outgoing | BadLine:
    if isinstance(said, DeadLetter):
        return BadLine(where, f"{said.reason}: {said.detail}")
    return Outgoing(topic, said.booking_id, line, headers)


def cloud_event(identity: str, source: str, kind: EventType, time: int, data: dict[str, Any]) -> dict[str, Any]:
    """An event of our own making; ``time`` in microseconds."""
    return {
        "specversion": "1.0",
        "id": identity,
        "source": source,
        "type": kind.value,
        "time": format_time(time),
        "data": data,
    }


def event(topics: TopicNames, document: dict[str, Any], headers: list[tuple[str, bytes]] | None = None) -> Outgoing:
    """An event of our own making, which needs no check."""
    topic = topics.bookings if document["type"] in _BOOKING_TYPES else topics.events
    return Outgoing(topic, document["data"]["bookingId"], orjson.dumps(document), headers or [])


async def send(producer: AIOKafkaProducer, outgoing: Iterable[Outgoing], progress: Progress | None = None) -> int:
    """Sends and waits until Kafka has all of them; how many.

    Raises:
        aiokafka.errors.KafkaError: one could not be sent, or a topic is missing.
    """
    count = 0
    partitions: dict[str, int] = {}
    for some in _some(outgoing, _IN_FLIGHT):
        for topic in {each.topic for each in some} - partitions.keys():
            # the topic's own number, not the setting's: whoever publishes need not know how workers are set
            partitions[topic] = len(await producer.partitions_for(topic))
        sent = [
            await producer.send(
                each.topic,
                key=each.booking_id.encode(),
                value=each.value,
                headers=each.headers,
                partition=partition_of(each.booking_id, partitions[each.topic]),
            )
            for each in some
        ]
        await asyncio.gather(*sent)
        count += len(sent)
        if progress is not None:
            progress(count)
    return count


def _some(outgoing: Iterable[Outgoing], size: int) -> Iterator[list[Outgoing]]:
    some: list[Outgoing] = []
    for each in outgoing:
        some.append(each)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
