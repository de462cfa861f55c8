"""Topics, commits and Redis of one tenant in a file, and how they are read and written back."""

import asyncio
import base64
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.first_release import DATA, NAMESPACE, PARTITIONS
from tests.support.oracle import BookingRecord, Delivery
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import Record, System
from worker.kafka import create_producer
from worker.redis.client import Client, create_redis
from worker.settings import Settings

FILE = DATA / "snapshot.json.gz"


class Snapshot(NamedTuple):
    """What the first release left, and what it had not yet received."""

    topics: dict[str, dict[str, str]]
    """The settings of each topic, by its name without the prefix."""
    records: dict[str, list[list[Any]]]
    """The records of each topic: partition, key, value (base 64) and headers, in the order of each partition, from offset 0."""
    commits: list[tuple[str, int, int]]
    """Topic without the prefix, partition, offset."""
    redis: list[tuple[str, str, Any]]
    """Key, type and content (base 64) of each key."""
    served: list[dict[str, Any]]
    """Every attendance that its API served, by id."""
    later: list[list[Any]]
    """Records as in `records`, with the topic before them: published after it."""
    deliveries: list[tuple[dict[str, Any], int]]
    bookings: list[tuple[str, dict[str, Any] | None, int]]
    """What the records come to, those of `later` included: the arguments of the oracle."""
    attendances: list[dict[str, Any]]
    """All attendances in the end, without ids, sorted by bookingId and sessionId."""

    def arguments(self) -> tuple[list[Delivery], list[BookingRecord]]:
        """The arguments of the oracle."""
        return [Delivery(*each) for each in self.deliveries], [BookingRecord(*each) for each in self.bookings]


def read(file: Path = FILE) -> Snapshot:
    return Snapshot(**json.loads(gzip.decompress(file.read_bytes())))


def write(snapshot: Snapshot, file: Path = FILE) -> None:
    file.write_bytes(gzip.compress(json.dumps(snapshot._asdict()).encode(), mtime=0))


class Restored(System):
    """A tenant as the first release left it. Use as a context manager; nothing runs before it is told to.

    Args:
        redis: a Redis that nobody else uses: its keys have a fixed prefix.
    """

    def __init__(self, kafka: Broker, redis: Redis, snapshot: Snapshot, **settings: Any) -> None:
        super().__init__(kafka, redis, partitions=PARTITIONS, namespace=NAMESPACE, **settings)
        self.snapshot = snapshot

    def __enter__(self) -> "Restored":
        asyncio.run(self._restore())
        return self

    async def _restore(self) -> None:
        await create_topics(self.settings, self.snapshot.topics)
        await self._send([[topic, *record] for topic, records in self.snapshot.records.items() for record in records])
        await self._commit()
        client = create_redis(self.settings)
        try:
            await restore_redis(client, self.snapshot.redis)
        finally:
            await client.aclose()

    def publish_later(self, part: slice = slice(None)) -> None:
        """Publishes records that the first release had not yet received."""
        asyncio.run(self._send(self.snapshot.later[part]))

    async def _send(self, records: list[list[Any]]) -> None:
        producer = create_producer(self.settings, linger_ms=5)
        await producer.start()
        try:
            sent = []
            for topic, partition, key, value, headers in records:
                name = self.settings.topic_prefix + topic
                taken = [(field, binary(content) or b"") for field, content in headers]
                sent.append(await producer.send(name, binary(value), binary(key), partition, headers=taken))
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def _commit(self) -> None:
        prefix = self.settings.topic_prefix
        commits = {TopicPartition(prefix + topic, number): offset for topic, number, offset in self.snapshot.commits}
        consumer = AIOKafkaConsumer(**self.settings.kafka_client(), group_id=prefix, enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign(list(commits))
            await consumer.commit(commits)
        finally:
            await consumer.stop()


async def create_topics(settings: Settings, topics: dict[str, dict[str, str]]) -> None:
    """Creates topics by their names without the prefix, and waits until the broker has them."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        names = [settings.topic_prefix + name for name in topics]
        plans = [
            NewTopic(name, PARTITIONS, 1, topic_configs=topics[name.removeprefix(settings.topic_prefix)]) for name in names
        ]
        answer = await admin.create_topics(plans)
        assert all(error[1] == 0 for error in answer.topic_errors), answer
        described: list[Any] = []
        for _ in range(100):
            described = await admin.describe_topics(names)
            if all(len(each["partitions"]) == PARTITIONS for each in described):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(described)
    finally:
        await admin.close()


async def dump_redis(client: Client) -> list[tuple[str, str, Any]]:
    """All keys of a server; none may have an expiry."""
    reads = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    found = []
    for key in sorted([key async for key in client.scan_iter("*", count=1000)]):
        assert await client.pttl(key) == -1, key
        kind = await client.type(key)
        content = await reads[kind](key)
        listed = content.items() if isinstance(content, dict) else content
        plain = text(content) if kind == b"string" else [_plain_pair(*each) for each in listed]
        found.append((key.decode(), kind.decode(), plain))
    return found


def _plain_pair(name: bytes, value: Any) -> list[Any]:
    return [text(name), text(value) if isinstance(value, bytes) else float(value)]


async def restore_redis(client: Client, keys: list[tuple[str, str, Any]]) -> None:
    """Writes the keys of `dump_redis`."""
    for key, kind, content in keys:
        if kind == "string":
            await client.set(key, binary(content) or b"")
        elif kind == "hash":
            await client.hset(key, mapping={binary(name): binary(value) for name, value in content})
        else:
            await client.zadd(key, {binary(name) or b"": score for name, score in content})


def plain_record(record: Record | Any) -> list[Any]:
    """A record as `Snapshot` has it, without the topic."""
    headers = [[name, text(content)] for name, content in record.headers]
    return [record.partition, text(record.key), text(record.value), headers]


def text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def binary(content: str | None) -> bytes | None:
    return None if content is None else base64.b64decode(content)


def until_idle(system: System, timeout: float = 60) -> None:
    """Until every partition of the live namespace has applied both topics, by its watermark alone."""
    ends = system.ends()

    async def applied() -> bool:
        client = create_redis(system.settings)
        try:
            live = await client.hget(f"{system.settings.redis_namespace}:live", "namespace")
            for number in range(system.settings.partitions if live else 0):
                mark = await client.hgetall(f"{live.decode()}:{{{number}}}:watermark")
                for name, topic in (("events", system.topics.events), ("bookings", system.topics.bookings)):
                    if int(mark.get(f"{name}.offset".encode(), -1)) < ends[topic][number]:
                        return False
            return live is not None
        finally:
            await client.aclose()

    last = [worker.said() for worker in system.workers]
    assert wait_until(lambda: asyncio.run(applied()), timeout), "\n".join(last)
