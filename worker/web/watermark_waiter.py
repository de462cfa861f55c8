"""Waits until a worker has applied what was published: one look at a partition's watermark for all who wait for it."""

import asyncio

from redis.exceptions import RedisError

from worker.read_model.reader import AttendanceReader, ReaderError
from worker.tasks import end

_LOOK_SECONDS = 0.01
_TROUBLE_SECONDS = 0.1


class Marks:
    """Who waits for which offset. Bound to the running loop by its first wait."""

    def __init__(self, reader: AttendanceReader) -> None:
        self._reader = reader
        self._waiting: dict[int, dict[asyncio.Future[None], int]] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}

    async def passed(self, booking_id: str, partition: int, offset: int, deadline: float) -> bool:
        """Whether the event at the offset was applied before the deadline (the loop's time).

        Args:
            booking_id: a booking of the partition.
            partition: where the event is.
            offset: the event's.
            deadline: how long to wait.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(partition, {})
        waiting[waiter] = offset
        if partition not in self._looking:
            self._looking[partition] = asyncio.create_task(self._look(partition, booking_id, waiting))
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError:
            return False
        finally:
            waiting.pop(waiter, None)
        return True

    async def close(self) -> None:
        """Stops looking."""
        await end(self._looking.values())

    async def _look(self, partition: int, booking_id: str, waiting: dict[asyncio.Future[None], int]) -> None:
        try:
            while waiting:
                pause = _LOOK_SECONDS
                try:
                    place = await self._reader.place(booking_id)
                except (ReaderError, RedisError, TimeoutError, OSError):
                    # whoever waits has a deadline
                    pause = _TROUBLE_SECONDS
                else:
                    for waiter, offset in list(waiting.items()):
                        if place.events_offset > offset and not waiter.done():
                            waiter.set_result(None)
                            waiting.pop(waiter, None)
                if waiting:
                    await asyncio.sleep(pause)
        finally:
            self._looking.pop(partition, None)
