"""What all tables of a system share, as records in the topic of its first group: Redis may lose it, Kafka does not."""

import sys
from typing import NamedTuple
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer, ConsumerRecord

from worker.engine.partition_appender import read
from worker.read_model.builds import Namespace, other_topics
from worker.settings import Settings
from worker.stream.errors import SettingsConflict
from worker.topics import FIRST_TABLES, group_changelog

#: Key of the record that names the live tables.
_LIVE_TABLES = b"live-tables"
#: How the keys of records begin whose value is a key for the hashes of erased bookings.
_ERASE_KEY = b"erase-key:"
#: Key of the record that names the topics with which these are mirrored.
_MIRRORED = b"mirrored"


class Mirrored(NamedTuple):
    """The topics with which those of a prefix are mirrored."""

    topic_prefix: str
    partitions: int


async def read_group_topic(settings: Settings, tables: str = FIRST_TABLES) -> list[ConsumerRecord]:
    """All records of the topic of a group.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    return await read(settings.kafka_client(), group_changelog(settings.topic_prefix, tables), 0, range(sys.maxsize))


async def live_tables(settings: Settings) -> str:
    """The tables whose read models were live last; Redis may have lost that.

    Raises:
        SettingsConflict: they are of other topics.
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    value = await _last(settings, _LIVE_TABLES)
    if value is None:
        return FIRST_TABLES
    if not value.startswith(b"{"):
        return value.decode()
    raise SettingsConflict(other_topics(Namespace("", **orjson.loads(value))))


async def record_live(producer: AIOKafkaProducer, topic_prefix: str, live: Namespace) -> None:
    """Records which tables are live, for workers of a prefix that start when Redis has lost it.

    Raises:
        aiokafka.errors.KafkaError: not (known to be) recorded.
    """
    value = live.tables.encode()
    if not live.has_prefix(topic_prefix):
        value = orjson.dumps({"partitions": live.partitions, "tables": live.tables, "topic_prefix": live.topic_prefix})
    await producer.send_and_wait(group_changelog(topic_prefix), key=_LIVE_TABLES, value=value, partition=0)


async def find_mirrored(settings: Settings) -> Mirrored | None:
    """The topics with which those of these settings are mirrored; None: none.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    value = await _last(settings, _MIRRORED)
    return None if value is None else Mirrored(**orjson.loads(value))


async def record_mirrored(producer: AIOKafkaProducer, topic_prefix: str, mirrored: Mirrored | None) -> None:
    """Records with which topics those of a prefix are mirrored, or that they are not any more.

    Raises:
        aiokafka.errors.KafkaError: not (known to be) recorded.
    """
    value = None
    if mirrored is not None:
        value = orjson.dumps({"topic_prefix": mirrored.topic_prefix, "partitions": mirrored.partitions})
    await producer.send_and_wait(group_changelog(topic_prefix), key=_MIRRORED, value=value, partition=0)


async def find_erase_key(settings: Settings) -> bytes:
    """The key of the hashes of erased bookings; empty: there is none yet.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    records = await read_group_topic(settings)
    return next((record.value for record in records if record.key and record.key.startswith(_ERASE_KEY)), b"")


async def ensure_erase_key(settings: Settings, producer: AIOKafkaProducer, key: bytes = b"") -> bytes:
    """As `find_erase_key`; where there is none, makes one. Of workers that start at the same time the first one decides.

    Args:
        settings: name the topic.
        producer: sends the record.
        key: to use where there is none; empty: a new one.

    Raises:
        aiokafka.errors.KafkaError: not (known to be) recorded.
    """
    if found := await find_erase_key(settings):
        return found
    # each under its own key: compaction must keep the first
    name = _ERASE_KEY + uuid4().hex.encode()
    await producer.send_and_wait(group_changelog(settings.topic_prefix), key=name, value=key or uuid4().bytes, partition=0)
    return await find_erase_key(settings)


async def _last(settings: Settings, key: bytes) -> bytes | None:
    """The value of the last record of a key."""
    values = [record.value for record in await read_group_topic(settings) if record.key == key]
    return values[-1] if values else None
