"""A Faust app of one agent on the batch transport, in this process, on a real Kafka."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import uuid4

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from faust.types import TP

from tests.support.services import Broker
from tests.support.services.records import create_topic
from worker.engine import faust_consumer
from worker.engine.faust_recovery import SafeTableManager
from worker.engine.fetching import Fetched

Handle = Callable[[Any], Awaitable[None]]


class Line:
    """A topic, a consumer group on it, and a plain producer: what outlives an app."""

    def __init__(self, kafka: Broker, partitions: int = 1) -> None:
        self.kafka = kafka
        self.group = f"group-{uuid4().hex[:10]}"
        self.topic = create_topic(kafka.bootstrap, partitions=partitions)
        self.partitions = [TP(self.topic, number) for number in range(partitions)]

    async def publish(self, count: int, partition: int = 0, **settings: Any) -> None:
        """So many records, each with its number as value."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, acks="all", **settings)
        async with producer:
            await asyncio.gather(*[await producer.send(self.topic, b"%d" % n, partition=partition) for n in range(count)])

    async def trim(self, offset: int, partition: int = 0) -> None:
        """See `trim`."""
        await trim(self.kafka.bootstrap, self.topic, offset, partition)

    async def committed(self, partition: int = 0) -> int | None:
        """What Kafka has for the group, asked by a client that is no member."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap, group_id=self.group, enable_auto_commit=False)
        await consumer.start()
        try:
            found: int | None = await consumer.committed(TopicPartition(self.topic, partition))
            return found
        finally:
            await consumer.stop()

    def station(self, handle: Handle, consumer: type[Any] = faust_consumer.Consumer, **settings: Any) -> "Station":
        return Station(self, handle, consumer, **settings)


class Station:
    """One member of the group. Use as an async context manager; `handle` is called with each event and may ack it."""

    def __init__(self, line: Line, handle: Handle, consumer: type[Any], *, stock: bool = False, **settings: Any) -> None:
        faust_consumer.register()
        self.line = line
        self._folder = tempfile.TemporaryDirectory(prefix="attendance-station-")
        scheme = "kafka" if stock else faust_consumer.SCHEME
        managed = {} if stock else {"TableManager": SafeTableManager}
        self.app = faust.App(
            line.group,
            broker=f"{scheme}://{line.kafka.bootstrap}",
            env_prefix="ATTENDANCE_FAUST_INTERNAL_",
            store="memory://",
            datadir=self._folder.name,
            **{
                **managed,
                "web_enabled": False,
                "topic_partitions": len(line.partitions),
                "topic_disable_leader": True,
                "topic_allow_declare": False,
                "table_standby_replicas": 0,
                "consumer_auto_offset_reset": "earliest",
                "broker_max_poll_interval": 86_400,
                "broker_commit_interval": 0.1,
                "broker_session_timeout": 6.0,
                "broker_rebalance_timeout": 11.0,
                "broker_heartbeat_interval": 0.5,
                **settings,
            },
        )
        if not stock:
            self.app.transport.Consumer = consumer
            self.app.boot_strategy.enable_kafka_producer = False
        self.offsets: list[tuple[int, int]] = []
        """(partition, offset) of every record that was handed over."""
        raw = faust_consumer.RawSchema(key_type=bytes, value_type=bytes)
        topic = self.app.topic(line.topic, schema=raw)

        async def consume(stream: Any) -> None:
            async for event in (stream if stock else stream.noack()).events():
                for each in (event,) if stock else self.consumer.batches(event):
                    message = each.message
                    records = each.value.records if isinstance(each.value, Fetched) else [message]
                    self.offsets += [(message.partition, record.offset) for record in records]
                    await handle(each)

        self.app.agent(topic, name="agent")(consume)

    @property
    def consumer(self) -> Any:
        return self.app.consumer

    async def __aenter__(self) -> "Station":
        await self.app.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.wait_for(self.app.stop(), 12)
        finally:
            self._folder.cleanup()


def run(kafka: Broker, scenario: Callable[[Line], Coroutine[Any, Any, None]], partitions: int = 1) -> None:
    """Runs a scenario on a line of its own."""
    asyncio.run(scenario(Line(kafka, partitions)))


async def trim(bootstrap: str, topic: str, offset: int, partition: int = 0) -> None:
    """Deletes the records below an offset, as retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


async def acknowledge(event: Any) -> None:
    """A handler that has nothing to do."""
    event.ack()


async def until(condition: Callable[[], Any], timeout: float = 20, what: str = "") -> None:
    """Waits for a condition, which may be a coroutine function; fails after so many seconds."""
    deadline = time.monotonic() + timeout
    while True:
        holds = condition()
        if isinstance(holds, Coroutine):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, what or condition
        await asyncio.sleep(0.02)
