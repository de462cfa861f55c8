"""Windows of a log are read to their end, whatever the log holds, and no further."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from tests.engine.test_log_ends import Writer
from tests.support.services import Broker
from tests.support.services.records import create_topic
from tests.support.station import trim
from worker.engine import log_reader
from worker.engine.log_reader import LogUnreadable, Windows, find_windows, read_windows

T = TypeVar("T")
SECOND = 1_000_000


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


async def publish(kafka: Broker, topic: str, values: list[bytes], partition: int = 0, **settings: Any) -> None:
    """Values as records whose timestamps are 1,000 s after the epoch and a second apart."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, **settings)
    await producer.start()
    try:
        for number, value in enumerate(values):
            await producer.send(topic, value, partition=partition, timestamp_ms=1_000_000 + number * 1000)
        await producer.flush()
    finally:
        await producer.stop()


async def read(kafka: Broker, windows: Windows) -> dict[int, list[bytes]]:
    """The values by partition; checks that parts follow on and end where the window does."""
    values: dict[int, list[bytes]] = {tp.partition: [] for tp in windows}
    ends = {tp: window.start for tp, window in windows.items()}
    async for tp, (begin, records, end) in read_windows({"bootstrap_servers": kafka.bootstrap}, windows):
        assert ends[tp] <= begin <= end <= windows[tp].stop
        assert all(begin <= record.offset < end for record in records)
        ends[tp] = end
        values[tp.partition] += [record.value for record in records]
    assert ends == {tp: max(window.stop, window.start) for tp, window in windows.items()}
    return values


async def find(kafka: Broker, topic: str, *bounds: int | None, by_time: bool = True, count: int = 1) -> Windows:
    return await find_windows({"bootstrap_servers": kafka.bootstrap}, topic, range(count), *bounds, by_time=by_time)


def test_every_partition_is_read_to_its_end(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap, partitions=3)

    async def scenario() -> None:
        await publish(kafka, topic, [b"%d" % n for n in range(12_000)])
        await publish(kafka, topic, [b"a", b"b"], 2, compression_type="gzip")
        values = await read(kafka, await find(kafka, topic, count=3))
        assert values == {0: [b"%d" % n for n in range(12_000)], 1: [], 2: [b"a", b"b"]}

    run(scenario())


def test_a_window_by_offset_holds_those_records_alone(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap)

    async def scenario() -> None:
        await publish(kafka, topic, [b"%d" % n for n in range(10)])
        for begin, end, expected in (
            (3, 7, range(3, 7)),
            (None, 4, range(4)),
            (8, 99, range(8, 10)),
            (7, 3, ()),
            (99, None, ()),
        ):
            windows = await find(kafka, topic, begin, end, by_time=False)
            assert (await read(kafka, windows))[0] == [b"%d" % n for n in expected], (begin, end)

    run(scenario())


def test_a_window_by_time_goes_by_the_timestamps(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap)

    async def scenario() -> None:
        await publish(kafka, topic, [b"%d" % n for n in range(10)])
        for begin, end, expected in (
            (1003 * SECOND, 1005 * SECOND, (3, 4)),
            (1003 * SECOND + 1, 1005 * SECOND + 1, (4, 5)),
            (0, 1001 * SECOND, (0,)),
            (1009 * SECOND, None, (9,)),
            (2000 * SECOND, None, ()),
            (None, 5000 * SECOND, range(10)),
        ):
            values = await read(kafka, await find(kafka, topic, begin, end))
            assert values[0] == [b"%d" % n for n in expected], (begin, end)

    run(scenario())


def test_transactions_end_a_window_as_they_end_a_log(kafka: Broker) -> None:
    """Aborted records are skipped, markers at the end are passed, an open transaction is not waited for."""
    topic = create_topic(kafka.bootstrap)

    async def end_is(end: int) -> Windows:
        """The window once the markers are written, which a commit does not wait for."""
        while (windows := await find(kafka, topic))[TopicPartition(topic, 0)].stop != end:  # noqa: ASYNC110 - Kafka tells nobody
            await asyncio.sleep(0.05)
        return windows

    async def scenario() -> None:
        await publish(kafka, topic, [b"first"])
        committed, aborted, still_open = (Writer(kafka, topic) for _ in range(3))
        await asyncio.to_thread(committed.begin, 2)
        await asyncio.to_thread(committed.commit)
        assert (await read(kafka, await end_is(4)))[0] == [b"first", b"1", b"1"]
        await asyncio.to_thread(aborted.begin, 2)
        await asyncio.to_thread(aborted.abort)
        assert (await read(kafka, await end_is(7)))[0] == [b"first", b"1", b"1"]
        await asyncio.to_thread(still_open.begin, 2)
        assert (await read(kafka, await end_is(7)))[0] == [b"first", b"1", b"1"]
        await asyncio.to_thread(still_open.abort)

    run(scenario())


def test_what_retention_deleted_is_not_waited_for(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap)

    async def scenario() -> None:
        await publish(kafka, topic, [b"%d" % n for n in range(10)])
        before = await find(kafka, topic)
        await trim(kafka.bootstrap, topic, 6)
        assert (await find(kafka, topic))[TopicPartition(topic, 0)] == range(6, 10)
        assert (await read(kafka, before))[0] == [b"6", b"7", b"8", b"9"], "deleted after the window was found"
        await trim(kafka.bootstrap, topic, 10)
        seen = [each async for each in read_windows({"bootstrap_servers": kafka.bootstrap}, before)]
        assert seen == []

    run(scenario())


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_batches_that_hold_nothing_of_interest_are_skipped(kafka: Broker, codec: str | None) -> None:
    """Whole batches, so that their other records come along; aborted ones too, though they hold it."""
    topic = create_topic(kafka.bootstrap)

    async def scenario() -> None:
        await publish(kafka, topic, [b"needle 1", b"beside it"], compression_type=codec)
        await publish(kafka, topic, [b"hay %d" % n for n in range(3000)], compression_type=codec)
        await publish(kafka, topic, [b"needle 2"], compression_type=codec)
        aborted = Writer(kafka, topic)
        await asyncio.to_thread(aborted.begin, 2)
        await asyncio.to_thread(aborted.abort)
        await publish(kafka, topic, [b"hay"], compression_type=codec)
        windows, values, end = await find(kafka, topic), [], 0
        parts = read_windows({"bootstrap_servers": kafka.bootstrap}, windows, may_hold=lambda held: b"needle" in held)
        async for _, fetched in parts:
            assert fetched.begin == end
            end = fetched.end
            values += [record.value for record in fetched.records]
        assert [value for value in values if value.startswith(b"needle")] == [b"needle 1", b"needle 2"]
        assert b"hay" not in values
        assert len(values) < 100, "the batches between were skipped"
        assert [range(end)] == list(windows.values())

    run(scenario())


def test_a_caller_that_takes_long_is_no_stall(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay with a rate, a full disk: the last part too."""
    topic = create_topic(kafka.bootstrap)

    async def scenario() -> None:
        await publish(kafka, topic, [b"%d" % n for n in range(6)])
        windows, seen = await find(kafka, topic), 0
        monkeypatch.setattr(log_reader, "STALL_SECONDS", 0.5)
        async for _, fetched in read_windows({"bootstrap_servers": kafka.bootstrap}, windows, at_once=2):
            seen += len(fetched.records)
            await asyncio.sleep(0.7)
        assert seen == 6

    run(scenario())


def test_one_partition_out_of_range_costs_no_other_a_record(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap, partitions=4)

    async def scenario() -> None:
        for partition in range(4):
            await publish(kafka, topic, [b"%d" % n for n in range(3000)], partition)
        windows = await find(kafka, topic, count=4)
        for partition in (1, 2):
            await trim(kafka.bootstrap, topic, 1000, partition)
        values = await read(kafka, windows)
        assert [len(values[partition]) for partition in range(4)] == [3000, 2000, 2000, 3000]

    run(scenario())


def test_a_log_that_became_shorter_is_not_begun_again(kafka: Broker) -> None:
    topic = create_topic(kafka.bootstrap)

    async def scenario() -> None:
        await publish(kafka, topic, [b"1", b"2"])
        with pytest.raises(LogUnreadable, match="no longer reaches offset 5"):
            await read(kafka, {TopicPartition(topic, 0): range(5, 9)})

    run(scenario())
