"""Records that are sent together: in order within each partition, whatever their keys, values, headers and sizes."""

import asyncio

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from tests.support.services import Broker, Redis
from tests.support.system import System
from worker.kafka import Message, open_producer, send_all
from worker.topics import BATCH_BYTES


def send(system: System, messages: list[Message]) -> None:
    async def sending() -> None:
        async with open_producer(system.settings) as producer:
            await send_all(producer, messages)

    asyncio.run(sending())


def test_records_of_any_form_arrive_in_order(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server) as system:
        topic = system.topics.dead_letters
        headers: list[tuple[str, bytes | None]] = [("with", b"1"), ("without", None)]
        messages = [
            Message(topic, 0, b"plain", b"1"),
            Message(topic, 1, b"headers", b"2", headers),
            Message(topic, 0, None, b"3", tuple(headers)),
            Message(topic, 0, b"deleted", None),
            Message(topic, 1, None, None, ()),
            # three of these fill a batch
            *(Message(topic, number % 2, b"large", bytes(BATCH_BYTES // 3)) for number in range(10)),
            Message(topic, 0, b"last", b"4", headers),
        ]
        send(system, messages)
        found = system.consume(topic)
        for partition in (0, 1):
            sent = [each for each in messages if each.partition == partition]
            arrived = [each for each in found if each.partition == partition]
            assert [(each.key, each.value, list(each.headers)) for each in arrived] == [
                (each.key, each.value, list(each.headers)) for each in sent
            ]


def test_a_record_that_is_too_large_is_refused(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server) as system, pytest.raises(MessageSizeTooLargeError):
        send(system, [Message(system.topics.dead_letters, 0, b"k", bytes(8 * BATCH_BYTES))])
