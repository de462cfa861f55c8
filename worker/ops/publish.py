"""Publishes events as devices would: keyed by booking, into its partition, with acks from every replica."""

import asyncio
import os
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.decoding.bindings import unwrapped
from schemas.decoding.explain import decode, decode_booking
from schemas.events import RECEIVED_HEADER, Booking, BookingGone, DeadLetter, Event, EventType
from schemas.times import format_time
from worker.ops.topics import TopicsError
from worker.settings import Settings, micros
from worker.topics import TopicNames, partition_of

_BOOKING_TYPES = frozenset({EventType.BOOKING_UPSERTED.value, EventType.BOOKING_DELETED.value})
_IN_FLIGHT = 5000
#: What has been read is sent after so long, though no more comes, seconds.
_LINGER_SECONDS = 0.05
#: Of a longer line no more is kept, bytes: no event may be so large.
MOST_LINE_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024

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
    if len(line) > MOST_LINE_BYTES:
        return BadLine(where, f"too-large: longer than {MOST_LINE_BYTES} bytes; write one CloudEvent a line")
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


def size_of(files: Iterable[IO[bytes]]) -> int:
    """Bytes of all files together; 0 where it is not known."""
    try:
        of = [os.fstat(file.fileno()) for file in files]
    except OSError:
        return 0
    return sum(each.st_size for each in of) if all(stat.S_ISREG(each.st_mode) for each in of) else 0


def lines(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The lines of a file as they come, cut at `MOST_LINE_BYTES`, each with how many bytes of the file it was."""
    # not through the file's buffer: whoever stops at Ctrl-C would wait for its lock, which a reading thread holds
    read = getattr(file, "raw", file).read
    kept, size = bytearray(), 0
    while chunk := read(_READ_BYTES):
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            kept += part[: MOST_LINE_BYTES + 1 - len(kept)]
            yield bytes(kept), size + len(part) + 1
            kept, size = bytearray(), 0
        kept += rest[: MOST_LINE_BYTES + 1 - len(kept)]
        size += len(rest)
    if size:
        yield bytes(kept), size


async def send(producer: AIOKafkaProducer, outgoing: Iterable[Outgoing]) -> int:
    """Sends and waits until Kafka has all of them; how many.

    Raises:
        aiokafka.errors.KafkaError: one could not be sent.
        TopicsError: a topic is missing.
    """
    count = 0
    partitions: dict[str, int] = {}
    for some in _some(outgoing, _IN_FLIGHT):
        count += await _send(producer, some, partitions)
    return count


async def send_as_read(
    producer: AIOKafkaProducer, outgoing: Iterator[Outgoing], progress: Progress, stop: asyncio.Event
) -> int:
    """As `send`, of what is read from a pipe meanwhile; until there is no more, or ``stop`` is set."""
    count = 0
    partitions: dict[str, int] = {}
    async for some in _as_read(outgoing, stop):
        count += await _send(producer, some, partitions)
        progress(count)
    return count


async def _as_read(outgoing: Iterator[Outgoing], stop: asyncio.Event) -> AsyncIterator[list[Outgoing]]:
    """What a thread has read meanwhile, some at a time: reading a pipe waits for whoever writes to it."""
    ready, room, failed = deque[Outgoing](), threading.Semaphore(_IN_FLIGHT), list[Exception]()

    def read() -> None:
        try:
            for each in outgoing:
                room.acquire()
                ready.append(each)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    while not stop.is_set():
        has_ended = not reading.is_alive()
        some = [ready.popleft() for _ in range(len(ready))]
        if some:
            room.release(len(some))
            yield some
        elif has_ended:
            if failed:
                raise failed[0]
            return
        else:
            await asyncio.sleep(_LINGER_SECONDS)


async def _partitions_of(producer: AIOKafkaProducer, topic: str) -> int:
    """The topic's own number, not the setting's: whoever publishes need not know how workers are set."""
    # asked for one topic that is missing, the client would wait for it to come, 40 s
    found = (await producer.client.fetch_all_metadata()).partitions_for_topic(topic)
    if not found:
        raise TopicsError(
            f"ATTENDANCE_TOPIC_PREFIX: Kafka has no topic {topic}: run attendance topics create, or set the prefix of others"
        )
    return len(found)


async def _send(producer: AIOKafkaProducer, some: list[Outgoing], partitions: dict[str, int]) -> int:
    for topic in {each.topic for each in some} - partitions.keys():
        partitions[topic] = await _partitions_of(producer, topic)
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
    return len(sent)


def _some(outgoing: Iterable[Outgoing], size: int) -> Iterator[list[Outgoing]]:
    some: list[Outgoing] = []
    for each in outgoing:
        some.append(each)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
