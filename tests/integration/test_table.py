"""The engine's table and recovery on a real Kafka: what was flushed is what is recovered, whoever else wrote meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer

from tests.services import Broker
from tests.services.records import create_topic
from worker.engine.recovery import recover
from worker.engine.table import Table

BATCH_BYTES = 64 * 1024
Scenario = Callable[["Bench"], Awaitable[None]]


def largest(_suffix: bytes, one: bytes, other: bytes) -> bytes:
    return max(one, other)


class Bench:
    """A changelog of two partitions, and a producer."""

    def __init__(self, kafka: Broker) -> None:
        self.client = {"bootstrap_servers": kafka.bootstrap}
        self.changelog = create_topic(kafka.bootstrap, partitions=2)
        self.producer: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        self.producer = AIOKafkaProducer(**self.client, acks="all", max_batch_size=BATCH_BYTES)
        await self.producer.start()
        try:
            yield self
        finally:
            await self.producer.stop()

    def table(self, *partitions: int) -> Table:
        table = Table(self.changelog, largest, BATCH_BYTES)
        for partition in partitions:
            table.open(partition)
        return table

    async def recovered(self, table: Table, *partitions: int) -> Table:
        done = [partition async for partition in recover([table], partitions, self.client)]
        assert sorted(done) == sorted(partitions)
        return table

    async def end(self, partition: int) -> int:
        return (await self.recovered(self.table(), partition)).open(partition)


def run(kafka: Broker, scenario: Scenario) -> None:
    bench = Bench(kafka)

    async def running() -> None:
        async with bench.running():
            await scenario(bench)

    asyncio.run(running())


def held(table: Table, partition: int) -> dict[bytes, dict[bytes, bytes]]:
    return {group: dict(table.rows(partition, group)) for group in table.groups(partition)}


def test_flushed_rows_are_recovered_per_partition(kafka: Broker) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0, 1)
        await table.flush(bench.producer, 0, {b"a": {b"": b"1", b"s": b"2"}, b"b": {b"s": b"3"}})
        await table.flush(bench.producer, 1, {b"c": {b"s": b"4"}})
        await table.flush(bench.producer, 0, {b"a": {b"s": b"5"}})
        again = await bench.recovered(bench.table(), 0, 1)
        assert held(again, 0) == held(table, 0) == {b"a": {b"": b"1", b"s": b"5"}, b"b": {b"s": b"3"}}
        assert held(again, 1) == {b"c": {b"s": b"4"}}

    run(kafka, scenario)


def test_an_old_row_appended_late_by_another_changes_nothing(kafka: Broker) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = bench.table(0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9"}})
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3"}})
        assert held(await bench.recovered(bench.table(), 0), 0) == {b"a": {b"s": b"9"}}

    run(kafka, scenario)


def test_a_kept_partition_reads_on_where_it_was(kafka: Broker) -> None:
    async def scenario(bench: Bench) -> None:
        kept, other = bench.table(0), bench.table(0)
        await kept.flush(bench.producer, 0, {b"a": {b"s": b"1"}})
        await other.flush(bench.producer, 0, {b"b": {b"s": b"2"}})
        position = kept.open(0)
        assert held(await bench.recovered(kept, 0), 0) == {b"a": {b"s": b"1"}, b"b": {b"s": b"2"}}
        assert kept.open(0) == await bench.end(0) > position

    run(kafka, scenario)


def test_a_deleted_row_is_gone_here_and_void_elsewhere(kafka: Broker) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        await table.flush(bench.producer, 0, {b"a": {b"s": b"1", b"t": b"2"}})
        await table.flush(bench.producer, 0, {b"a": {b"s": None, b"t": b"3"}})
        assert held(table, 0) == {b"a": {b"t": b"3"}}
        recovered = await bench.recovered(bench.table(), 0)
        assert dict(recovered.rows(0, b"a"))[b"t"] == b"3"

    run(kafka, scenario)


def test_many_and_large_groups_go_into_several_batches(kafka: Broker) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        many = {b"g%d" % i: {b"s%d" % j: b"v" * 200 for j in range(20)} for i in range(100)}
        large = {b"large": {b"s%d" % i: b"x" * 1000 for i in range(300)}}
        await table.flush(bench.producer, 0, {**many, **large})
        assert held(await bench.recovered(bench.table(), 0), 0) == {**many, **large}
        assert table.open(0) == await bench.end(0)

    run(kafka, scenario)


def test_an_empty_changelog_is_recovered_at_once(kafka: Broker) -> None:
    async def scenario(bench: Bench) -> None:
        assert held(await bench.recovered(bench.table(), 0), 0) == {}

    run(kafka, scenario)
