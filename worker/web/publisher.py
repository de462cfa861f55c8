"""The Kafka producer of an API process: it connects in the background; until then publishing fails with a 503."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from worker.kafka import create_producer
from worker.settings import Settings
from worker.tasks import cancel_all, uncancelled
from worker.topics import partition_of
from worker.web.errors import ApiError, Unavailable

_START_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_WAIT_SECONDS = 3.0
_REQUEST_MS = 10_000


class RecordPosition(NamedTuple):
    """Where Kafka stored a record."""

    partition: int
    offset: int


class Publisher:
    """Publishes with ``acks=all``. Call `open` and `close` in the running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None

    def open(self) -> None:
        """Begins to connect and returns at once."""
        self._starting = asyncio.create_task(self._start())

    async def close(self) -> None:
        """Sends pending records and disconnects."""
        if self._starting is None:
            return
        if self._starting.done() and not self._starting.cancelled():
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_START_SECONDS):
                    await self._starting.result().stop()
        await cancel_all([self._starting])

    @property
    def connected(self) -> bool:
        """Whether Kafka has answered since `open`."""
        return self._starting is not None and self._starting.done()

    async def publish(self, topic: str, booking_id: str, value: bytes, seconds: float) -> RecordPosition:
        """Publishes a record of a booking and returns its position.

        Raises:
            ApiError: 503; its description says whether the record may have been published.
        """
        producer = await self._producer()
        try:
            async with asyncio.timeout(seconds):
                # the topic's number of partitions, not the setting's, as every publisher does
                partition = partition_of(booking_id, len(await producer.partitions_for(topic)))
                delivery = await producer.send(topic, key=booking_id.encode(), value=value, partition=partition)
                metadata = await asyncio.shield(delivery)
        except TimeoutError:
            raise _unacknowledged() from None
        except KafkaError as error:
            if error.retriable:
                raise _unacknowledged() from None
            raise Unavailable("BROKER_REFUSES", f"Kafka refused the event ({type(error).__name__})") from None
        return RecordPosition(partition, metadata.offset)

    async def publish_all(self, records: Sequence[tuple[str, str, bytes]], seconds: float) -> None:
        """Publishes records of (topic, bookingId, value) and waits for all of them. Raises as `publish`."""
        results = await asyncio.gather(*(self.publish(*record, seconds) for record in records), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _producer(self) -> AIOKafkaProducer:
        assert self._starting is not None, "open() was not called"
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await asyncio.shield(self._starting)
        except TimeoutError:
            raise Unavailable("BROKER_AWAY", "Kafka does not answer, nothing was published: retry") from None

    async def _start(self) -> AIOKafkaProducer:
        while True:
            producer = create_producer(self._settings, request_timeout_ms=_REQUEST_MS)
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await uncancelled(producer.start())
            except (KafkaError, OSError, TimeoutError):
                await producer.stop()
                await asyncio.sleep(_RETRY_SECONDS)
            except BaseException:
                await producer.stop()
                raise
            else:
                return producer


def _unacknowledged() -> ApiError:
    return Unavailable(
        "NOT_ACKNOWLEDGED", "Kafka has not acknowledged the event in time, it may have been published nevertheless: retry"
    )
