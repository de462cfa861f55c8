"""The two ways in which a stop waited for a minute, the app and its client's thread for each other: Kafka is away, or a
rebalance begins.
"""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from faust.types import TP
from mode.threads import QueueServiceThread

from tests.support.services import Broker, KafkaCluster
from tests.support.station import Line, acknowledge, run, until
from worker.engine import faust_consumer, faust_thread


def test_a_stop_while_kafka_is_away_ends_the_clients_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Where the thread ends by the cancellation that its client lets out, and nobody knows: the app waits for it, 60 s."""

    broker = KafkaCluster()

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge) as station:
            await until(lambda: station.consumer.committed_offsets.get(line.partitions[0]) == 10)
            thread = station.consumer._thread
            # any stop finds the client in the pause after a fetch that failed
            thread._consumer._fetcher._retry_backoff = 60
            broker.kill()
            await until(lambda: "Failed fetch messages" in caplog.text)
            done, _ = await asyncio.wait([asyncio.create_task(station.app.stop())], timeout=30)
            assert done
            assert not thread._thread.is_alive()

    with broker:
        run(broker, scenario)


class Thread(faust_thread.ConsumerThread):
    """Between the end of its queue of calls and the end of its client a rebalance begins."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        self.closed_by: list[threading.Thread] = []
        close = consumer._client.close

        async def close_and_record() -> None:
            self.closed_by.append(threading.current_thread())
            await close()

        consumer._client.close = close_and_record
        return consumer

    async def on_thread_stop(self) -> None:
        await QueueServiceThread.on_thread_stop(self)
        await asyncio.to_thread(self.consumer.revoking.wait, 15)  # type: ignore[attr-defined]
        await self._ensure_consumer().stop()


class Consumer(faust_consumer.Consumer):
    """Never knows that Kafka took a commit, so that there is always one to make."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.revoking = threading.Event()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> faust_thread.ConsumerThread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        await super()._commit(offsets)
        self.committed_offsets.clear()
        return False

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        if self._thread.should_stop:  # a first join revokes too, nothing
            self.revoking.set()
        await super().on_partitions_revoked(revoked)


def test_a_rebalance_does_not_hold_up_a_stop(kafka: Broker) -> None:
    """Where calls into a thread that ends wait for ever: it waits for the revocation, which waits for its commit, 60 s.

    Where the app closes the thread's client, as stock Faust does: it takes the connection away from under the request that
    leaves the group, and the thread waits for its answer, 90 s.
    """

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
            assert station.consumer._thread.closed_by == [station.consumer._thread._thread], "by its own thread alone"

    run(kafka, scenario)
