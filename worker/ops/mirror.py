"""Mirrors the topics of two prefixes: what is published to the one is copied to the other, until nobody uses one of them.

A rebuild into new topics needs both: publishers change to the new ones one after the other, and going back must lose nothing.
Records keep their key, value and time of reception, and go to the partition of their key; a record that came from a topic is
not copied back to it. Each direction is a consumer group of its own, shared by all processes that mirror; after a crash some
records are copied again, which changes nothing.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from schemas.decoding.explain import received_at
from schemas.events import MAX_BOOKING_BYTES, MIRRORED_HEADER, OFFSET_HEADER, RECEIVED_HEADER
from schemas.times import format_exact_time
from worker.engine.fetching import ISOLATION, Fetches
from worker.engine.log_reader import find_windows
from worker.kafka import Message, committed_offsets, create_producer, open_admin, send_all
from worker.settings import Settings
from worker.stream.group_topic import Mirrored
from worker.stream.originals import POSITION_HEADERS, first_offset, kept_headers
from worker.stream.retry import until_done
from worker.tasks import uncancelled
from worker.topics import TopicNames, partition_of_key

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.2
_METADATA_MS = 10_000
#: Records that are copied together.
_AT_ONCE = 5_000
_SET_HEADERS = POSITION_HEADERS | {MIRRORED_HEADER}
#: A longer key is no booking's.
_KEY_LIMIT = 8 * 1024
#: A longer value cannot be used, and need not be copied whole.
_VALUE_LIMIT = MAX_BOOKING_BYTES + 1
#: Errors of a commit after the partition went to another member, which copies these records again.
_MOVED = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


def mirror_group(sink: Settings) -> str:
    """The consumer group that copies to the topics of these settings."""
    return f"{sink.topic_prefix}.mirror"


def other_side(settings: Settings, mirrored: Mirrored) -> Settings:
    """The settings with the topics with which those of these are mirrored."""
    return settings.model_copy(update={"topic_prefix": mirrored.topic_prefix, "partitions": mirrored.partitions})


async def mirror(one: Settings, other: Settings) -> None:
    """Copies both ways between the topics of two prefixes, until it is cancelled.

    Raises:
        aiokafka.errors.KafkaError: the broker refuses.
    """
    async with asyncio.TaskGroup() as both:
        both.create_task(_Mirror(one, other).run())
        both.create_task(_Mirror(other, one).run())


async def mirror_ends(source: Settings) -> dict[TopicPartition, int]:
    """Where the topics of a prefix end that are copied.

    Raises:
        worker.engine.log_reader.LogUnreadable: a broker does not answer.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    topics, client = TopicNames.of(source.topic_prefix), source.kafka_client()
    windows = [await find_windows(client, topic, range(source.partitions)) for topic in (topics.events, topics.bookings)]
    return {tp: window.stop for each in windows for tp, window in each.items()}


async def mirror_lag(source: Settings, sink: Settings, ends: Mapping[TopicPartition, int] | None = None) -> int:
    """How many offsets of the topics of a prefix are not yet copied to those of another one.

    Args:
        source: the one.
        sink: the other.
        ends: see `mirror_ends`; None: those of now.

    Raises:
        worker.engine.log_reader.LogUnreadable: a broker does not answer.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    ends = await mirror_ends(source) if ends is None else ends
    async with open_admin(source) as admin:
        committed = await committed_offsets(admin, mirror_group(sink), list(ends))
    return sum(max(0, end - committed.get(tp, 0)) for tp, end in ends.items())


async def begin_at(sink: Settings, offsets: Mapping[TopicPartition, int]) -> None:
    """Sets where copying to a prefix begins. Nobody mirrors yet.

    Raises:
        aiokafka.errors.KafkaError: the broker refuses, or somebody mirrors.
    """
    consumer = AIOKafkaConsumer(**sink.kafka_client(), group_id=mirror_group(sink), enable_auto_commit=False)
    try:
        await uncancelled(consumer.start())
        consumer.assign(list(offsets))
        await consumer.commit(dict(offsets))
    finally:
        await consumer.stop()


class _Mirror:
    """Copies one way."""

    def __init__(self, source: Settings, sink: Settings) -> None:
        self._topics = TopicNames.of(source.topic_prefix)
        self._sink = sink
        self._copies = Copies(source, sink)
        self._producer = create_producer(sink)
        self._consumer = AIOKafkaConsumer(
            self._topics.events,
            self._topics.bookings,
            **source.kafka_client(),
            group_id=mirror_group(sink),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=ISOLATION,
            # a leader of the group that got no metadata at first assigns nothing until it asks again
            metadata_max_age_ms=_METADATA_MS,
            session_timeout_ms=int(source.session_timeout.total_seconds() * 1000),
            heartbeat_interval_ms=int(source.session_timeout.total_seconds() * 1000 / 4),
        )
        self._copied: dict[TopicPartition, int] = {}
        """Where each partition goes on, if that is not committed yet."""

    async def run(self) -> None:
        try:
            await until_done("kafka", lambda: uncancelled(self._producer.start()))
            await until_done("kafka", lambda: uncancelled(self._consumer.start()))
            log.info("mirroring", source=self._topics.events.removesuffix(".events"), sink=self._sink.topic_prefix)
            fetches = Fetches(self._consumer)
            while True:
                await self._copy_some(fetches)
        finally:
            await self._consumer.stop()
            await self._producer.stop()

    async def _copy_some(self, fetches: Fetches) -> None:
        try:
            fetched = await fetches.take(self._consumer.assignment, _POLL_SECONDS, _AT_ONCE)
        except OffsetOutOfRangeError as error:
            (offsets,) = error.args
            log.error(
                "records were deleted before they were mirrored",
                offsets={f"{tp.topic} {tp.partition}": at for tp, at in offsets.items()},
            )
            await self._consumer.seek_to_beginning(*offsets)
            return
        messages = [message for each in fetched.values() for message in self._copies.of(each.records)]
        await until_done("kafka", lambda: send_all(self._producer, messages))
        self._copied |= {tp: each.end for tp, each in fetched.items()}
        await until_done("kafka", self._commit)

    async def _commit(self) -> None:
        assigned = self._consumer.assignment()
        if copied := {tp: end for tp, end in self._copied.items() if tp in assigned}:
            with suppress(*_MOVED):
                await self._consumer.commit(copied)
        self._copied.clear()


class Copies:
    """The records that are sent to the topics of a prefix for those of another one."""

    def __init__(self, source: Settings, sink: Settings) -> None:
        self._partitions = sink.partitions
        self._from, self._to = source.topic_prefix.encode(), sink.topic_prefix.encode()
        names, copies = TopicNames.of(source.topic_prefix), TopicNames.of(sink.topic_prefix)
        self._topics = {names.events: copies.events, names.bookings: copies.bookings}
        self._bookings = names.bookings

    def of(self, records: Collection[Any]) -> list[Message]:
        """The copies of records, in their order; of those that came from there none."""
        return [self._copy(record) for record in records if not self._came_from_there(record)]

    def _copy(self, record: Any) -> Message:
        received = format_exact_time(received_at(record.headers, record.timestamp))
        headers = [
            *kept_headers(record.headers, _SET_HEADERS),
            (RECEIVED_HEADER, received.encode()),
            (MIRRORED_HEADER, self._from),
        ]
        if record.topic == self._bookings:
            # of booking records with the same time of reception the one with the later offset holds
            headers.append((OFFSET_HEADER, b"%d" % first_offset(record.headers, record.offset)))
        key = record.key and record.key[:_KEY_LIMIT]
        partition = record.partition % self._partitions if key is None else partition_of_key(key, self._partitions)
        return Message(self._topics[record.topic], partition, key, record.value and record.value[:_VALUE_LIMIT], headers)

    def _came_from_there(self, record: Any) -> bool:
        return any(name.lower() == MIRRORED_HEADER and content == self._to for name, content in record.headers)
