"""A stop that meets a rebalance: the client's thread and the app's loop may not wait for each other."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from faust.types import TP
from mode.threads import QueueServiceThread

from tests.engine.station import Line, acknowledge, run, until
from tests.services import Broker
from worker.engine import transport


class Thread(transport.ConsumerThread):
    """Between the end of its queue of calls and the end of its client a rebalance begins."""

    async def on_thread_stop(self) -> None:
        await QueueServiceThread.on_thread_stop(self)
        await asyncio.to_thread(self.consumer.revoking.wait, 15)  # type: ignore[attr-defined]
        await self._ensure_consumer().stop()


class Consumer(transport.Consumer):
    """Never knows that Kafka took a commit, so that there is always one to make."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.revoking = threading.Event()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> transport.ConsumerThread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        await super()._commit(offsets)
        self.stored.clear()
        return False

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        if self._thread.should_stop:  # a first join revokes too, nothing
            self.revoking.set()
        await super().on_partitions_revoked(revoked)


def test_a_rebalance_does_not_hold_up_a_stop(kafka: Broker) -> None:
    """Where calls into a thread that ends wait for ever: it waits for the revocation, which waits for its commit, 60 s."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge, Consumer) as station:
            await until(lambda: len(station.offsets) == 10)
            stopping = asyncio.create_task(station.app.stop())
            await until(lambda: station.consumer._thread.method_queue.should_stop)
            async with line.station(acknowledge):
                done, _ = await asyncio.wait([stopping], timeout=30)
                assert done
            assert station.consumer.revoking.is_set()

    run(kafka, scenario)
