"""Publishes events as devices do: keyed by bookingId, to the booking's partition, with ``acks=all``."""

import asyncio
import os
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.decoding.bindings import unwrapped
from schemas.decoding.explain import decode, decode_booking
from schemas.events import RECEIVED_HEADER, Booking, BookingGone, DeadLetter, Event, EventType
from schemas.times import format_time
from worker.durations import micros
from worker.kafka import Message, send_all
from worker.ops.partitions import partition_counts_of
from worker.settings import Settings
from worker.topics import TopicNames, partition_of

_BOOKING_TYPES = frozenset({EventType.BOOKING_UPSERTED.value, EventType.BOOKING_DELETED.value})
_IN_FLIGHT = 5000
#: Records that were read are sent after this time even if no more follow, seconds.
_LINGER_SECONDS = 0.05
#: A longer line is truncated, bytes; no event is that large.
MOST_LINE_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024

Progress = Callable[[int], None]
"""Called with the number of events sent so far."""
Decoded = Event | Booking | BookingGone


class Outgoing(NamedTuple):
    """A record to publish, with the booking that determines its partition."""

    topic: str
    booking_id: str
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class BadLine(NamedTuple):
    """A line that is not an event: its file and number, and what to fix."""

    where: str
    detail: str


def read_line(line: bytes, where: str, settings: Settings, now_ms: int, *, backfill: bool) -> Outgoing | BadLine:
    """Reads an event from a line of JSON; with ``backfill`` it counts as received when it happened."""
    read = decode_event_line(line, where, settings, now_ms, backfill=backfill)
    return read if isinstance(read, BadLine) else read[0]


def decode_event_line(
    line: bytes, where: str, settings: Settings, now_ms: int, *, backfill: bool
) -> tuple[Outgoing, Decoded] | BadLine:
    """As `read_line`, with what the line holds."""
    if len(line) > MOST_LINE_BYTES:
        return BadLine(where, f"too-large: longer than {MOST_LINE_BYTES} bytes; write one CloudEvent per line")
    topics, line = TopicNames.of(settings.topic_prefix), unwrapped(line)
    try:
        doc: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(where, f"not JSON ({error}); write one CloudEvent per line")
    headers = [(RECEIVED_HEADER, str(doc["time"]).encode())] if backfill and isinstance(doc, dict) and "time" in doc else []
    if isinstance(doc, dict) and isinstance(doc.get("type"), str) and doc["type"] in _BOOKING_TYPES:
        return _outgoing(decode_booking(line, headers), topics.bookings, line, where, headers)
    return _outgoing(decode(line, headers, now_ms, max_age=micros(settings.max_event_age)), topics.events, line, where, headers)


def _outgoing(
    decoded: Decoded | DeadLetter,
    topic: str,
    line: bytes,
    where: str,
    headers: list[tuple[str, bytes]],
) -> tuple[Outgoing, Decoded] | BadLine:
    if isinstance(decoded, DeadLetter):
        return BadLine(where, f"{decoded.reason}: {decoded.detail}")
    return Outgoing(topic, decoded.booking_id, line, headers), decoded


def cloud_event(identity: str, source: str, kind: EventType, time: int, data: dict[str, Any]) -> dict[str, Any]:
    """Builds a CloudEvent; ``time`` in microseconds."""
    return {
        "specversion": "1.0",
        "id": identity,
        "source": source,
        "type": kind.value,
        "time": format_time(time),
        "data": data,
    }


def event(topics: TopicNames, document: dict[str, Any], headers: list[tuple[str, bytes]] | None = None) -> Outgoing:
    """The record of an event that was built here and needs no validation."""
    topic = topics.bookings if document["type"] in _BOOKING_TYPES else topics.events
    return Outgoing(topic, document["data"]["bookingId"], orjson.dumps(document), headers or [])


def size_of(files: Iterable[IO[bytes]]) -> int:
    """The size of all files together, bytes; 0 if it is unknown."""
    try:
        stats = [os.fstat(file.fileno()) for file in files]
    except OSError:
        return 0
    return sum(each.st_size for each in stats) if all(stat.S_ISREG(each.st_mode) for each in stats) else 0


def lines(file: IO[bytes], most: int = MOST_LINE_BYTES) -> Iterator[tuple[bytes, int]]:
    """The lines of a file as they arrive, truncated behind ``most`` bytes, each with its size in the file, bytes."""
    # without the file's buffer: its lock, which the reading thread holds, would delay the end of the process at Ctrl-C
    read = getattr(file, "raw", file).read
    line, size = bytearray(), 0
    while chunk := read(_READ_BYTES):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line += end[: most + 1 - len(line)]
            yield bytes(line), size + len(end) + 1
            line, size = bytearray(), 0
        line += rest[: most + 1 - len(line)]
        size += len(rest)
    if size:
        yield bytes(line), size


async def send(producer: AIOKafkaProducer, outgoing: Iterable[Outgoing]) -> int:
    """Sends records, waits until Kafka has acknowledged all of them, and returns their number.

    Raises:
        aiokafka.errors.KafkaError: one could not be sent.
        TopicsError: a topic is missing.
    """
    count = 0
    partitions: dict[str, int] = {}
    for batch in _batches(outgoing, _IN_FLIGHT):
        count += await _send(producer, batch, partitions)
    return count


async def send_as_read(
    producer: AIOKafkaProducer, outgoing: Iterator[Outgoing], progress: Progress, stop: asyncio.Event
) -> int:
    """As `send`, but sends while the records are read, from a pipe for example; ends early if ``stop`` is set."""
    count = 0
    partitions: dict[str, int] = {}
    async for batch in _as_read(outgoing, stop):
        count += await _send(producer, batch, partitions)
        progress(count)
    return count


async def _as_read(outgoing: Iterator[Outgoing], stop: asyncio.Event) -> AsyncIterator[list[Outgoing]]:
    """Batches of the records that a thread reads: reading a pipe blocks until its writer writes."""
    ready, room, errors = deque[Outgoing](), threading.Semaphore(_IN_FLIGHT), list[Exception]()

    def read() -> None:
        try:
            for each in outgoing:
                room.acquire()
                ready.append(each)
        except Exception as error:  # noqa: BLE001 - raised again by the coroutine
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    while not stop.is_set():
        has_ended = not thread.is_alive()
        batch = [ready.popleft() for _ in range(len(ready))]
        if batch:
            room.release(len(batch))
            yield batch
        elif has_ended:
            if errors:
                raise errors[0]
            return
        else:
            await asyncio.sleep(_LINGER_SECONDS)


async def _send(producer: AIOKafkaProducer, batch: list[Outgoing], partitions: dict[str, int]) -> int:
    for topic in {each.topic for each in batch} - partitions.keys():
        (partitions[topic],) = await partition_counts_of(producer.client, topic)
    messages = (
        Message(topic, partition_of(booking_id, partitions[topic]), booking_id.encode(), value, headers)
        for topic, booking_id, value, headers in batch
    )
    await send_all(producer, messages)
    return len(batch)


def _batches(outgoing: Iterable[Outgoing], size: int) -> Iterator[list[Outgoing]]:
    batch: list[Outgoing] = []
    for record in outgoing:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
