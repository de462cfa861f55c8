"""Publishes while the faults happen: in small portions spread over the round, with bursts, and whatever the broker does."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.support.system import Record
from worker.kafka import create_producer
from worker.settings import Settings

_STEP = 0.1


class Publisher:
    """Sends records in order per partition; one that is not known to be there is sent again, with all that follow it there."""

    def __init__(self, settings: Settings, records: Sequence[Record]) -> None:
        self._settings = settings
        self._records = list(records)
        self._at = 0
        self._wanted = 0
        self._until = 0.0
        self._error: BaseException | None = None
        self._done = False
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def left(self) -> int:
        return len(self._records) - self._at

    def send(self, count: int, timeout: float = 60) -> None:
        """Sends so many more at once and waits for them. Raises TimeoutError."""
        with self._moved:
            self._wanted = goal = min(len(self._records), max(self._wanted, self._at) + count)
            if not self._moved.wait_for(lambda: self._error or self._at >= goal, timeout):
                raise TimeoutError(f"{goal - self._at} records could not be published in {timeout:.0f} s")
        self._check()

    def burst(self, count: int) -> None:
        """Sends so many more at once, without waiting."""
        self._wanted = min(len(self._records), max(self._wanted, self._at) + count)

    def spread(self, seconds: float, keep: int) -> None:
        """Spreads the records, but the last `keep`, over the next seconds."""
        self._keep, self._until = keep, time.monotonic() + seconds

    def close(self) -> None:
        self._done = True
        self._thread.join(30)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._publish())
        except BaseException as error:  # noqa: BLE001 - the round's thread raises it
            self._error = error
        with self._moved:
            self._moved.notify_all()

    async def _publish(self) -> None:
        producer = create_producer(self._settings, linger_ms=5)
        await producer.start()
        try:
            while not self._done:
                portion = self._records[self._at : self._at + self._portion()]
                await self._send(producer, portion)
                with self._moved:
                    self._at += len(portion)
                    self._moved.notify_all()
                await asyncio.sleep(_STEP)
        finally:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(producer.stop(), 10)

    def _portion(self) -> int:
        wanted = self._wanted - self._at
        if self._until:
            steps = max(1, int((self._until - time.monotonic()) / _STEP))
            wanted = max(wanted, (self.left - self._keep) // steps)
        return max(0, wanted)

    async def _send(self, producer: AIOKafkaProducer, portion: list[Record]) -> None:
        while portion and not self._done:
            results = await asyncio.gather(*[self._sent(producer, record) for record in portion])
            failed: set[tuple[str, Any]] = set()
            again = []
            for record, is_there in zip(portion, results, strict=True):
                place = (record.topic, record.partition)
                if not is_there:
                    failed.add(place)
                if place in failed:
                    again.append(record)
            portion = again

    async def _sent(self, producer: AIOKafkaProducer, record: Record) -> bool:
        try:
            sending = await producer.send(
                record.topic, key=record.key, value=record.value, headers=record.headers, partition=record.partition
            )
            await sending
        except KafkaError:
            return False
        return True
