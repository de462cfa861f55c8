"""However a log ends, its reader comes to the end, commits it, and is not taken for stalled while nothing more comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from tests.support.services import Broker
from tests.support.station import Line, Station, acknowledge, run, until
from worker.engine.watchdog import CHECK_SECONDS, Watchdog, ends_of

STALL_SECONDS, SEEKING_SECONDS = 30.0, 120.0


class Writer:
    """A transactional producer on librdkafka."""

    def __init__(self, kafka: Broker, topic: str) -> None:
        self._topic = topic
        own = {"transactional.id": uuid4().hex, "transaction.timeout.ms": 600_000}
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, **own})
        self._producer.init_transactions(30)

    def begin(self, count: int, partition: int = 0, value: bytes | None = b"1") -> None:
        """Leaves a transaction open, its records flushed."""
        self._producer.begin_transaction()
        self.write(count, partition, value)

    def write(self, count: int, partition: int = 0, value: bytes | None = b"1") -> None:
        """More records of the open transaction, flushed."""
        for number in range(count):
            self._producer.produce(self._topic, value, b"k%d\0s" % number, partition=partition)
        self._producer.flush(30)

    def commit(self) -> None:
        self._producer.commit_transaction(30)

    def abort(self) -> None:
        self._producer.abort_transaction(30)


async def plain(line: Line) -> int:
    await line.publish(5)
    return 5


async def committed(line: Line) -> int:
    def write() -> None:
        writer = Writer(line.kafka, line.topic)
        writer.begin(3)
        writer.commit()

    await line.publish(5)
    await asyncio.to_thread(write)
    return 8


async def aborted(line: Line) -> int:
    def write() -> None:
        writer = Writer(line.kafka, line.topic)
        writer.begin(3)
        writer.abort()

    await line.publish(5)
    await asyncio.to_thread(write)
    return 5


async def only_aborted(line: Line) -> int:
    def write() -> None:
        writer = Writer(line.kafka, line.topic)
        for _ in range(2):
            writer.begin(3)
            writer.abort()

    await asyncio.to_thread(write)
    return 0


async def deleted(line: Line) -> int:
    await line.publish(5)
    await line.trim(5)
    return 0


ENDS = [plain, committed, aborted, only_aborted, deleted]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_log_is_read_to_its_end(kafka: Broker, end: Callable[[Line], Awaitable[int]]) -> None:
    """With the last record as progress: 3 of 8 are never committed, and the watchdog ends the worker, again at each start."""

    async def scenario(line: Line) -> None:
        count = await end(line)
        async with line.station(acknowledge) as station:
            await at_its_end(line, station)
            await is_quiet(station)
        assert len(station.offsets) == count
        async with line.station(acknowledge) as again:
            await at_its_end(line, again)
            await is_quiet(again)
        assert again.offsets == []

    run(kafka, scenario)


def test_an_open_transaction_is_held_then_counted(kafka: Broker) -> None:
    """With read_uncommitted: its records are handed over before they are committed."""

    async def scenario(line: Line) -> None:
        await line.publish(2)
        writer = await asyncio.to_thread(Writer, line.kafka, line.topic)
        await asyncio.to_thread(writer.begin, 3)
        await line.publish(4)
        async with line.station(acknowledge) as station:
            consumer, tp = station.consumer, line.partitions[0]
            await until(lambda: len(station.offsets) == 2 and consumer.committed_offsets.get(tp) == 2)
            await is_quiet(station)
            end = consumer.log_end(tp)
            assert (end.stable, end.high) == (2, 9)
            await asyncio.to_thread(writer.commit)
            await until(lambda: len(station.offsets) == 9)
            await at_its_end(line, station)
            await is_quiet(station)

    run(kafka, scenario)


def test_records_deleted_while_it_reads_hold_up_nothing(kafka: Broker) -> None:
    async def scenario(line: Line) -> None:
        async with line.station(acknowledge) as station:
            await line.publish(5)
            await at_its_end(line, station)
            station.consumer.stop_flow()
            await line.publish(5)
            await line.trim(10)
            station.consumer.resume_flow()
            await at_its_end(line, station)
            await is_quiet(station)
            await line.publish(2)
            await until(lambda: (0, 11) in station.offsets)

    run(kafka, scenario)


def test_many_small_transactions_seek_back_no_position(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a marker taken for a missing record, each of the 20 costs two fetches more."""

    async def scenario(line: Line) -> None:
        def write() -> None:
            writer = Writer(line.kafka, line.topic)
            for _ in range(20):
                writer.begin(1)
                writer.commit()

        async with line.station(acknowledge) as station:
            await until(station.consumer.positioned.is_set)
            sought: list[int] = []
            seek = station.consumer._seek
            await until(lambda: not station.consumer._needs_seek)
            monkeypatch.setattr(station.consumer, "_seek", lambda tp, offset: (sought.append(offset), seek(tp, offset))[1])
            await asyncio.to_thread(write)
            await until(lambda: len(station.offsets) == 20)
            await at_its_end(line, station)
            assert sought == []

    run(kafka, scenario)


def test_transactions_over_several_fetches_are_read_whole(kafka: Broker) -> None:
    """Two at once, one of them aborted; a fetch takes some batches, a poll some records of one."""

    async def scenario(line: Line) -> None:
        def write() -> None:
            aborted, committed = Writer(line.kafka, line.topic), Writer(line.kafka, line.topic)
            for writer in (aborted, committed):
                writer.begin(0)
            for _ in range(10):
                aborted.write(30, value=b"aborted" * 20)
                committed.write(30, value=b"committed" * 20)
            aborted.abort()
            committed.commit()

        await asyncio.to_thread(write)
        values: set[bytes] = set()

        async def take(event: Any) -> None:
            values.update(record.value for record in event.value.records)
            event.ack()

        async with line.station(take, broker_max_poll_records=7, consumer_max_fetch_size=2_000) as station:
            await at_its_end(line, station)
        assert len(station.offsets) == 300
        assert len(set(station.offsets)) == 300
        assert values == {b"committed" * 20}

    run(kafka, scenario)


async def at_its_end(line: Line, station: Station) -> None:
    """Until all that can be read is committed."""
    tp = line.partitions[0]

    def committed() -> bool:
        end = station.consumer.log_end(tp)
        return end is not None and station.consumer.committed_offsets.get(tp, 0) == end.stable == end.high

    await until(committed)


async def is_quiet(station: Station) -> None:
    """No stall is seen in twice the time that would be one; the clock is the test's own."""
    now = 0.0
    client = {"bootstrap_servers": station.line.kafka.bootstrap}
    watchdog = Watchdog(lambda: station.consumer, ends_of(client), STALL_SECONDS, SEEKING_SECONDS, lambda: now)
    while now < 2 * STALL_SECONDS:
        now += CHECK_SECONDS
        await watchdog.check()
