"""A record batch that cannot be read stops its partition alone; and every codec of Kafka can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka.errors import KafkaStorageError
from aiokafka.protocol.fetch import FetchRequest
from confluent_kafka import Producer
from faust.types import TP

from tests.engine.test_log_ends import is_quiet
from tests.integration.test_table import Bench, held
from tests.support.broken_log import (
    bad_checksum,
    damage,
    endless_length,
    no_length,
    old_magic,
    old_magic_compressed,
    old_magic_unknown_codec,
    publish_odd_names,
    undecodable,
    unknown_codec,
)
from tests.support.services import Broker, KafkaCluster, ServiceUnavailable
from tests.support.station import Line, Station, acknowledge, run, trim, until
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


@pytest.mark.parametrize("at_once", [3, 1000])
def test_header_names_that_are_no_utf8_stop_nothing(kafka: Broker, at_once: int) -> None:
    """aiokafka fails at the first one: a single record would stop its partition for ever."""

    async def scenario(line: Line) -> None:
        headers: list[Any] = []

        async def take(event: Any) -> None:
            headers.extend(record.headers for record in event.value.records)
            event.ack()

        for _ in range(2):
            await line.publish(2)
            await publish_odd_names(kafka.bootstrap, line.topic, 10)
        await line.publish(2)
        async with line.station(take, broker_max_poll_records=at_once) as station:
            await until(lambda: len(station.offsets) == 26)
            assert station.offsets == [(0, offset) for offset in range(26)]
            assert station.consumer.unreadable == {}
            assert station.consumer._thread.fetches._kept == {}
        odd = [[("name0", b"x"), ("n", None)], [("n?me1", b"x"), ("n", None)]] * 5
        assert headers == [[], [], *odd, [], [], *odd, [], []]

    run(kafka, scenario)


#: How the batch at which offset of each partition is damaged, and where the partition then stands.
DAMAGES = [
    (bad_checksum, 3),
    (unknown_codec, 3),
    (undecodable, 3),
    (no_length, 3),
    (endless_length, 3),
    (old_magic, 0),
    (old_magic_compressed, 0),
    (old_magic_unknown_codec, 0),
]
LAST, GOOD = len(DAMAGES), len(DAMAGES) + 1


def test_batches_that_cannot_be_read_stop_their_partitions(own_kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without taking each partition by itself: the poll fails for all, and what came before a bad batch never comes."""
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(fetching, "EMPTY_SECONDS", 0.5)

    async def scenario(line: Line) -> None:
        for count in (3, 4, 5):
            for number in range(LAST + 1):
                await asyncio.to_thread(write, own_kafka, line.topic, count, partition=number)
        for number, (how, offset) in enumerate(DAMAGES):
            damage(own_kafka, line.topic, offset, how, number)
        damage(own_kafka, line.topic, 7, bad_checksum, LAST)
        stands = {line.partitions[number]: offset for number, (_, offset) in enumerate(DAMAGES)}
        stands[line.partitions[LAST]] = 7

        async def stops(station: Station) -> None:
            def found() -> dict[TP, int]:
                return {tp: each.offset for tp, each in station.consumer.unreadable.items()}

            try:
                await until(lambda: found() == stands)
            except AssertionError:
                assert found() == stands
            await line.publish(6, partition=GOOD)
            await until(lambda: station.consumer.committed_offsets.get(line.partitions[GOOD], 0) % 6 == 0)
            await is_quiet(station)

        with structlog.testing.capture_logs() as logs:
            async with line.station(acknowledge) as station:
                await stops(station)
                await until(
                    lambda: all(station.consumer.committed_offsets.get(tp, 0) == offset for tp, offset in stands.items())
                )
        said = [(each["partition"], each["offset"]) for each in logs if "cannot be read" in each["event"]]
        assert sorted(said) == sorted((tp.partition, offset) for tp, offset in stands.items()), "one line each"
        async with line.station(acknowledge) as again:
            await stops(again)
            # what an operator does about it; the last is at the end of its log
            for number, end in ((0, 7), (1, 7), (2, 7), (LAST, 12)):
                await line.trim(end, number)
                await until(lambda n=number: again.consumer.committed_offsets.get(line.partitions[n]) == 12)  # type: ignore[misc]
            assert sorted(tp.partition for tp in again.consumer.unreadable) == [3, 4, 5, 6, 7]
        assert [offset for number, offset in station.offsets + again.offsets if number == 0] == [0, 1, 2, *range(7, 12)]

    run(own_kafka, scenario, partitions=GOOD + 1)


@pytest.mark.parametrize("is_long", [False, True])
def test_a_refusal_holds_up_a_partition_until_it_passes(kafka: Broker, is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pause: the client asks again at once, a thousand times a second, each with a log line.

    Without the report: one broken disk looks like a worker that stands still, which then ends, and the next one after it.
    """
    monkeypatch.setattr(fetching, "REFUSED_SECONDS", 0.2)
    monkeypatch.setattr(fetching, "EMPTY_SECONDS", 1.0 if is_long else 60.0)
    refused: list[Any] = []
    passed = False

    async def scenario(line: Line) -> None:
        async with line.station(acknowledge) as station:
            fetches = station.consumer._thread.fetches
            send = fetches._send

            async def refuse(node: Any, request: Any, **options: Any) -> Any:
                response = await send(node, request, **options)
                if isinstance(request, FetchRequest) and not passed:
                    refused.append(request)
                    response.topics = [
                        (topic, [(number, KafkaStorageError.errno, *rest) for number, _, *rest in answered])
                        for topic, answered in response.topics
                    ]
                return response

            fetches._send = refuse
            await until(lambda: len(refused) >= 3 and bool(station.consumer.unreadable) == is_long)
            await line.publish(10)
            nonlocal passed
            passed = True
            await until(lambda: len(station.offsets) == 10)
            assert station.consumer.unreadable == {}

    with structlog.testing.capture_logs() as logs:
        run(kafka, scenario)
    reported = [each["reason"] for each in logs if "a broker returns no records" in each["event"]]
    assert reported == ["KafkaStorageError, error code 56"] * is_long
    assert len([each for each in logs if each["event"] == "fetch refused"]) == 1


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
            await trim(own_kafka.bootstrap, bench.changelog, 2)
            async with asyncio.timeout(30):
                await recovering

    asyncio.run(scenario())
