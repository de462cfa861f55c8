"""A record batch that cannot be read stops its partition alone; and every codec of Kafka can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from confluent_kafka import Producer

from tests.engine.broken_log import bad_checksum, damage, undecodable, unknown_codec
from tests.engine.station import Line, acknowledge, run, until
from tests.engine.test_log_ends import is_quiet
from tests.integration.test_table import Bench, held
from tests.services import Broker, KafkaCluster, ServiceUnavailable
from worker.engine import fetching
from worker.engine.fetching import missing_codecs

CODECS = ["gzip", "snappy", "lz4", "zstd"]


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[KafkaCluster]:
    """A broker of the module's own, whose log it may damage."""
    try:
        with KafkaCluster() as kafka:
            yield kafka
    except ServiceUnavailable as missing:
        pytest.skip(str(missing))


def write(kafka: Broker, topic: str, count: int, codec: str = "none", partition: int = 0) -> None:
    """Records of one batch, by librdkafka."""
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "compression.type": codec, "linger.ms": 500, "batch.num.messages": 100_000}
    )
    for number in range(count):
        producer.produce(topic, b"%07d" % number, b"k%d\0s" % number, partition=partition)
    assert producer.flush(30) == 0


def test_every_codec_has_its_decoder() -> None:
    assert missing_codecs() == []


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_each_codec_are_read(kafka: Broker, codec: str) -> None:
    """Without cramjam: the first batch of lz4, snappy or zstd ends the worker, and every one that takes over."""

    async def scenario(line: Line) -> None:
        for count in (1, 10_000):
            await asyncio.to_thread(write, kafka, line.topic, count, codec)
        async with line.station(acknowledge) as station:
            await until(lambda: len(station.offsets) == 10_001)

    run(kafka, scenario)


@pytest.mark.parametrize("codec", CODECS)
def test_changelogs_of_each_codec_are_recovered(kafka: Broker, codec: str, tmp_path: Path) -> None:
    """Without cramjam: the recovery of a changelog whose topic is compressed waits for ever."""
    bench = Bench(kafka, "memory", tmp_path)

    async def scenario() -> None:
        for count in (1, 10_000):
            await asyncio.to_thread(write, kafka, bench.changelog, count, codec)
        async with bench.running():
            async with asyncio.timeout(30):
                table = await bench.recovered(bench.table(), 0, 1)
            assert len(held(table, 0)) == 10_000

    asyncio.run(scenario())


@pytest.mark.parametrize("how", [bad_checksum, unknown_codec, undecodable], ids=lambda how: how.__name__)
def test_a_batch_that_cannot_be_read_stops_one_partition(
    own_kafka: KafkaCluster, how: Callable[[bytearray], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without taking each partition by itself: the poll fails for both, and what came before the bad batch never comes."""
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.2)

    async def scenario(line: Line) -> None:
        bad, good = line.partitions
        for count in (3, 4, 5):
            await asyncio.to_thread(write, own_kafka, line.topic, count)
        await asyncio.to_thread(damage, own_kafka, line.topic, 3, how)
        with structlog.testing.capture_logs() as logs:
            async with line.station(acknowledge) as station:
                await until(lambda: station.consumer.stored.get(bad) == 3)
                await until(lambda: bad in station.consumer.unreadable)
                await line.publish(6, partition=1)
                await until(lambda: station.consumer.stored.get(good) == 6)
                await is_quiet(station)
                (said,) = [line for line in logs if "cannot be read" in line["event"]]
                assert (said["topic"], said["partition"], said["offset"]) == (line.topic, 0, 3)
                # what an operator does about it
                await line.trim(7)
                await until(lambda: station.consumer.stored.get(bad) == 12)
                assert bad not in station.consumer.unreadable
        assert [offset for number, offset in station.offsets if number == 0] == [0, 1, 2, *range(7, 12)]

    run(own_kafka, scenario, partitions=2)


def test_an_unreadable_changelog_keeps_one_partition_waiting(
    own_kafka: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it: the recovery fails for all partitions, and is tried again for ever."""
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.2)
    bench = Bench(own_kafka, "memory", tmp_path)
    write(own_kafka, bench.changelog, 2)
    write(own_kafka, bench.changelog, 3, partition=1)
    damage(own_kafka, bench.changelog, 0, bad_checksum)

    async def scenario() -> None:
        async with bench.running():
            table = bench.table()
            recovering = asyncio.create_task(bench.recovered(table, 0, 1))
            await until(lambda: 1 in table.partitions and len(held(table, 1)) == 3)
            assert not recovering.done()
            line = Line.__new__(Line)
            line.kafka, line.topic = own_kafka, bench.changelog
            await line.trim(2)
            async with asyncio.timeout(30):
                await recovering

    asyncio.run(scenario())
