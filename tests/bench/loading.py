"""Puts records into Kafka as fast as it takes them, and asks how long topics are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.bench.workload import Record
from worker.kafka import create_producer
from worker.settings import Settings

_DEADLINE_S = 120.0


async def load(settings: Settings, topic: str, records: Sequence[Sequence[Record]]) -> list[int]:
    """Appends the records of each partition in their order; the partitions' end offsets after it."""
    async with asyncio.timeout(_DEADLINE_S), create_producer(settings) as producer:
        sends = (_load_partition(producer, topic, number, some) for number, some in enumerate(records))
        await asyncio.gather(*sends)
    return await end_offsets(settings, topic, len(records))


async def end_offsets(settings: Settings, topic: str, partitions: int) -> list[int]:
    """The offset that the next record of each partition will get."""
    wanted = [TopicPartition(topic, number) for number in range(partitions)]
    async with AIOKafkaConsumer(**settings.kafka_client()) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(wanted)
    return [ends[each] for each in wanted]


async def _load_partition(producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[Record]) -> None:
    sent, batch = [], producer.create_batch()

    async def send(full: Any) -> None:
        full.close()
        sent.append(await producer.send_batch(full, topic, partition=partition))

    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None) is None:
            await send(batch)
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    await send(batch)
    await asyncio.gather(*sent)
