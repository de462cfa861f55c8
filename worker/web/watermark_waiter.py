"""Waits until a worker has applied a published event; all waiters of a partition share one poll of its watermark."""

import asyncio

from redis.exceptions import RedisError

from worker.read_model.reader import AttendanceReader, ReaderError
from worker.tasks import cancel_all

_POLL_SECONDS = 0.01
_ERROR_SECONDS = 0.1


class WatermarkWaiter:
    """Waits for offsets. Its first wait binds it to the running event loop."""

    def __init__(self, reader: AttendanceReader) -> None:
        self._reader = reader
        self._waiting: dict[int, dict[asyncio.Future[None], int]] = {}
        self._polls: dict[int, asyncio.Task[None]] = {}

    async def passed(self, booking_id: str, partition: int, offset: int, deadline: float) -> bool:
        """Waits until the event is applied; returns whether it was applied before the deadline.

        Args:
            booking_id: the booking of the event.
            partition: the partition of the event.
            offset: the offset of the event.
            deadline: in the time of the event loop.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(partition, {})
        waiting[waiter] = offset
        if partition not in self._polls:
            self._polls[partition] = asyncio.create_task(self._poll(partition, booking_id, waiting))
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError:
            return False
        finally:
            waiting.pop(waiter, None)
        return True

    async def close(self) -> None:
        """Stops polling."""
        await cancel_all(self._polls.values())

    async def _poll(self, partition: int, booking_id: str, waiting: dict[asyncio.Future[None], int]) -> None:
        try:
            while waiting:
                pause = _POLL_SECONDS
                try:
                    place = await self._reader.place(booking_id)
                except (ReaderError, RedisError, TimeoutError, OSError):
                    # each waiter has a deadline
                    pause = _ERROR_SECONDS
                else:
                    for waiter, offset in list(waiting.items()):
                        if place.events_offset > offset and not waiter.done():
                            waiter.set_result(None)
                            waiting.pop(waiter, None)
                if waiting:
                    await asyncio.sleep(pause)
        finally:
            self._polls.pop(partition, None)
