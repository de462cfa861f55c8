"""Topics and records by aiokafka in blocking calls, for tests that have no event loop running.

Each call opens and closes its own client, and raises TimeoutError when it is not done in 30 seconds.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

_TIMEOUT_S = 30.0
_MAX_REQUEST_BYTES = 4 * 1024 * 1024

Result = TypeVar("Result")


def create_topic(bootstrap: str, *, partitions: int = 1, replicas: int = 1) -> str:
    """Create a topic with a name nobody else uses, and return the name. Raises aiokafka's KafkaError when refused."""
    name = f"test-{uuid.uuid4().hex[:12]}"

    async def create() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            answer = await admin.create_topics([NewTopic(name, partitions, replicas)])
            for _, code, *_ in answer.topic_errors:  # aiokafka hands a refusal back instead of raising it
                if code != 0:
                    raise for_code(code)(name)
        finally:
            await admin.close()

    _run(create())
    return name


def produce(bootstrap: str, topic: str, value: bytes, *, key: bytes | None = None) -> None:
    """Write one record and wait until all replicas in sync have it."""

    async def send() -> None:
        sender = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=_MAX_REQUEST_BYTES)
        async with sender:
            await sender.send_and_wait(topic, value, key=key)

    _run(send())


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """The values of the first `count` records that come, from the beginning of every partition."""

    async def read() -> list[bytes]:
        async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as reader:
            return [(await reader.getone()).value for _ in range(count)]

    return _run(read())


def _run(work: Coroutine[object, object, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, _TIMEOUT_S))
