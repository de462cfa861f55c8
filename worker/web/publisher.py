"""The one producer of an API process: it starts when Kafka is there, and whoever needs it sooner is told."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from worker.settings import Settings
from worker.tasks import end
from worker.topics import create_producer, partition_of
from worker.web.errors import ApiError, unavailable

_START_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_PATIENCE_SECONDS = 3.0
_REQUEST_MS = 10_000


class Place(NamedTuple):
    """Where Kafka put a record."""

    partition: int
    offset: int


class Publisher:
    """Publishes with acks from every replica. Use `open` and `close` in the running loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None

    def open(self) -> None:
        """Begins to connect; returns at once, whether Kafka is there or not."""
        self._starting = asyncio.create_task(self._start())

    async def close(self) -> None:
        """Sends what is under way and disconnects."""
        if self._starting is None:
            return
        if self._starting.done() and not self._starting.cancelled():
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_START_SECONDS):
                    await self._starting.result().stop()
        await end([self._starting])

    @property
    def connected(self) -> bool:
        """Whether Kafka has answered since `open`."""
        return self._starting is not None and self._starting.done()

    async def publish(self, topic: str, booking_id: str, value: bytes, seconds: float) -> Place:
        """Publishes a record of a booking and says where it is.

        Raises:
            ApiError: a 503; its description says whether the record may be there all the same.
        """
        producer = await self._producer()
        try:
            async with asyncio.timeout(seconds):
                # the topic's own number, as every publisher takes it
                partition = partition_of(booking_id, len(await producer.partitions_for(topic)))
                sent = await producer.send(topic, key=booking_id.encode(), value=value, partition=partition)
                placed = await asyncio.shield(sent)
        except TimeoutError:
            raise _unacknowledged() from None
        except KafkaError as error:
            if error.retriable:
                raise _unacknowledged() from None
            raise unavailable("BROKER_REFUSES", f"Kafka took no event ({type(error).__name__})") from None
        return Place(partition, placed.offset)

    async def publish_all(self, records: Sequence[tuple[str, str, bytes]], seconds: float) -> None:
        """Publishes (topic, booking, value) and waits for all of them. Raises as `publish`."""
        came = await asyncio.gather(*(self.publish(*record, seconds) for record in records), return_exceptions=True)
        for each in came:
            if isinstance(each, BaseException):
                raise each

    async def _producer(self) -> AIOKafkaProducer:
        assert self._starting is not None, "open() was not called"
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await asyncio.shield(self._starting)
        except TimeoutError:
            raise unavailable("BROKER_AWAY", "Kafka does not answer, nothing was published: ask again") from None

    async def _start(self) -> AIOKafkaProducer:
        while True:
            producer = create_producer(self._settings, request_timeout_ms=_REQUEST_MS)
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await producer.start()
            except (KafkaError, OSError, TimeoutError):
                await producer.stop()
                await asyncio.sleep(_AGAIN_SECONDS)
            except BaseException:
                await producer.stop()
                raise
            else:
                return producer


def _unacknowledged() -> ApiError:
    return unavailable(
        "NOT_ACKNOWLEDGED", "Kafka has not acknowledged the event in time: it may be there all the same; ask again"
    )
