"""The engine's table and recovery on a real Kafka, over both stores: what was flushed is what is recovered."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from tests.support.services import Broker
from tests.support.services.records import create_topic
from worker.engine.gathering import Gathering
from worker.engine.partition_appender import read
from worker.engine.recovery import RecoveryProgress, recover
from worker.engine.stores import open_store
from worker.engine.stores.base import Store
from worker.engine.table import Table

BATCH_BYTES = 64 * 1024
Scenario = Callable[["Bench"], Awaitable[None]]
Log = list[tuple[bytes, bytes | None]]


def largest(_suffix: bytes, one: bytes, other: bytes) -> bytes:
    return max(one, other)


class Bench:
    """A changelog of two partitions, a producer, and tables on stores of their own."""

    def __init__(self, kafka: Broker, kind: str, folder: Path) -> None:
        self.client = {"bootstrap_servers": kafka.bootstrap}
        self._bootstrap = kafka.bootstrap
        self.changelog = create_topic(kafka.bootstrap, partitions=2)
        self.kind = kind
        self.producer: Any = None
        self._folder = folder
        self._stores: list[Store] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        self.producer = AIOKafkaProducer(**self.client, acks="all", max_batch_size=BATCH_BYTES)
        await self.producer.start()
        try:
            yield self
        finally:
            await self.producer.stop()
            for store in self._stores:
                store.close()

    def store(self, name: str | None = None) -> Store:
        """A store that nobody else has, or the one that was closed under this name."""
        folder = self._folder / (name or f"store-{len(self._stores)}")
        self._stores.append(open_store(f"rocksdb://{folder}" if self.kind == "rocksdb" else "memory://", "test"))
        return self._stores[-1]

    def table(self, *partitions: int, store: Store | None = None, changelog: str | None = None) -> Table:
        table = Table(changelog or self.changelog, largest, BATCH_BYTES, store or self.store(), 0)
        for partition in partitions:
            table.open(partition)
        return table

    async def another_changelog(self) -> str:
        return await asyncio.to_thread(create_topic, self._bootstrap, partitions=2)

    async def recovered(self, table: Table, *partitions: int, progress: RecoveryProgress | None = None) -> Table:
        done = [partition async for partition in recover([table], partitions, self.client, progress)]
        assert sorted(done) == sorted(partitions)
        return table

    async def log(self, partition: int) -> Log:
        found = await read(self.client, self.changelog, partition, range(1_000_000))
        return [(record.key, record.value) for record in found]

    async def end(self, partition: int) -> int:
        return (await self.recovered(self.table(), partition)).open(partition)


@pytest.fixture(params=["memory", "rocksdb"])
def bench(kafka: Broker, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(kafka, request.param, tmp_path)


def run(bench: Bench, scenario: Scenario) -> None:
    async def running() -> None:
        async with bench.running():
            await asyncio.wait_for(scenario(bench), 60)

    asyncio.run(running())


def held(table: Table, partition: int) -> dict[bytes, dict[bytes, bytes]]:
    groups = list(table.groups(partition))
    return dict(zip(groups, map(dict, table.rows(partition, groups)), strict=True))


def last(log: Log, key: bytes) -> bytes | None:
    """What compaction would leave of a key."""
    return dict(log)[key]


def test_flushed_rows_are_recovered_per_partition(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0, 1)
        await table.flush(bench.producer, 0, {b"a": {b"": b"1", b"s": b"2"}, b"b": {b"s": b"3"}})
        await table.flush(bench.producer, 1, {b"c": {b"s": b"4"}})
        await table.flush(bench.producer, 0, {b"a": {b"s": b"5"}})
        again = await bench.recovered(bench.table(), 0, 1)
        assert held(again, 0) == held(table, 0) == {b"a": {b"": b"1", b"s": b"5"}, b"b": {b"s": b"3"}}
        assert held(again, 1) == {b"c": {b"s": b"4"}}

    run(bench, scenario)


def test_an_old_row_appended_late_by_another_changes_nothing(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = bench.table(0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9"}})
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3"}})
        assert held(await bench.recovered(bench.table(), 0), 0) == {b"a": {b"s": b"9"}}

    run(bench, scenario)


def test_a_kept_partition_reads_on_where_it_was(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        kept, other = bench.table(0), bench.table(0)
        await kept.flush(bench.producer, 0, {b"a": {b"s": b"1"}})
        await other.flush(bench.producer, 0, {b"b": {b"s": b"2"}})
        position = kept.open(0)
        assert held(await bench.recovered(kept, 0), 0) == {b"a": {b"s": b"1"}, b"b": {b"s": b"2"}}
        assert kept.open(0) == await bench.end(0) > position

    run(bench, scenario)


def test_a_partition_given_away_is_recovered_when_it_is_back(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        await table.flush(bench.producer, 0, {b"a": {b"s": b"1"}})
        table.close(0)
        assert table.partitions == frozenset()
        other = await bench.recovered(bench.table(), 0)
        await other.flush(bench.producer, 0, {b"a": {b"s": b"2"}, b"b": {b"s": b"3"}})
        assert table.open(0) == {"memory": 0, "rocksdb": 1}[bench.kind]
        assert held(await bench.recovered(table, 0), 0) == {b"a": {b"s": b"2"}, b"b": {b"s": b"3"}}
        assert await table.rewrite_recovered(bench.producer, 0) == 0

    run(bench, scenario)


def test_a_deleted_row_is_gone_here_and_void_elsewhere(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        await table.flush(bench.producer, 0, {b"a": {b"s": b"1", b"t": b"2"}})
        await table.flush(bench.producer, 0, {b"a": {b"s": None, b"t": b"3"}})
        assert held(table, 0) == {b"a": {b"t": b"3"}}
        assert await bench.log(0) == [(b"a\0s", b"1"), (b"a\0t", b"2"), (b"a\0t", b"3"), (b"a\0s", None)]
        recovered = await bench.recovered(bench.table(), 0)
        assert recovered.rows(0, [b"a"])[0][b"t"] == b"3"

    run(bench, scenario)


def test_many_and_large_groups_go_into_several_batches(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        many = {b"g%d" % i: {b"s%d" % j: b"v" * 200 for j in range(20)} for i in range(100)}
        large = {b"large": {b"s%d" % i: b"x" * 1000 for i in range(300)}}
        await table.flush(bench.producer, 0, {**many, **large})
        assert held(await bench.recovered(bench.table(), 0), 0) == {**many, **large}
        assert table.open(0) == await bench.end(0)

    run(bench, scenario)


def test_an_empty_changelog_is_recovered_at_once(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        assert held(await bench.recovered(bench.table(), 0), 0) == {}

    run(bench, scenario)


def test_a_key_written_often_is_recovered_merged(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        for value in (b"1", b"4", b"2", b"3"):
            await table.flush(bench.producer, 0, {b"a": {b"s": value}, b"b": {b"s": value}})
        recovered = await bench.recovered(bench.table(), 0)
        assert held(recovered, 0) == {b"a": {b"s": b"4"}, b"b": {b"s": b"4"}}

    run(bench, scenario)


def test_rows_whose_last_record_is_not_merged_are_rewritten_once(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = bench.table(0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9", b"t": b"9"}, b"b": {b"s": b"9"}})
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3", b"t": b"9"}, b"c": {b"s": b"1"}})
        successor = await bench.recovered(bench.table(), 0)
        assert await successor.rewrite_recovered(bench.producer, 0) == 1
        assert last(await bench.log(0), b"a\0s") == b"9"
        assert await successor.rewrite_recovered(bench.producer, 0) == 0
        assert not successor.foreign_writes(0)
        assert successor.open(0) == await bench.end(0)

    run(bench, scenario)


def test_what_was_not_written_back_is_met_again(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = bench.table(0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9"}})
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3"}})
        store = bench.store("kept")
        died = await bench.recovered(bench.table(store=store), 0)
        await died.flush(bench.producer, 0, {b"b": {b"s": b"1"}})
        store.close()
        successor = await bench.recovered(bench.table(store=bench.store("kept")), 0)
        assert await successor.rewrite_recovered(bench.producer, 0) == 1
        assert last(await bench.log(0), b"a\0s") == b"9"

    run(bench, scenario)


def test_a_foreign_record_is_rewritten_at_the_next_flush(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = await bench.recovered(bench.table(), 0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9"}, b"b": {b"s": b"9"}})
        assert not owner.foreign_writes(0)
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3"}, b"new": {b"s": b"1"}})
        await owner.flush(bench.producer, 0, {b"b": {b"s": b"99"}})
        assert owner.foreign_writes(0)
        assert await owner.rewrite(bench.producer, 0, bench.client) == 2
        assert not owner.foreign_writes(0)
        log = await bench.log(0)
        assert held(owner, 0) == {b"a": {b"s": b"9"}, b"b": {b"s": b"99"}}, "what the other made is to come to this one too"
        assert {key: last(log, key) for key, _ in log} == {b"a\0s": b"9", b"b\0s": b"99", b"new\0s": b"1"}
        await owner.flush(bench.producer, 0, {b"b": {b"s": b"999"}})
        assert not owner.foreign_writes(0)
        assert owner.open(0) == await bench.end(0)

    run(bench, scenario)


def test_a_deletion_by_another_is_mended(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = await bench.recovered(bench.table(), 0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9"}})
        await zombie.flush(bench.producer, 0, {b"a": {b"s": None, b"t": None}})
        await owner.check(bench.client)
        assert await owner.rewrite(bench.producer, 0, bench.client) == 2
        assert last(await bench.log(0), b"a\0s") == b"9"
        assert held(owner, 0) == {b"a": {b"s": b"9"}}

    run(bench, scenario)


def test_an_idle_owner_notices_by_the_end_of_the_log(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        owner, zombie = await bench.recovered(bench.table(), 0, 1), bench.table(0)
        await owner.check(bench.client)
        assert not owner.foreign_writes(0)
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3"}})
        await owner.check(bench.client)
        assert (owner.foreign_writes(0), owner.foreign_writes(1)) == (True, False)
        assert await owner.rewrite(bench.producer, 0, bench.client) == 1
        await owner.check(bench.client)
        assert not owner.foreign_writes(0)
        assert held(owner, 0) == {}
        assert owner.open(0) == await bench.end(0)

    run(bench, scenario)


def test_what_was_not_mended_is_met_again(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        store = bench.store("kept")
        owner, zombie = await bench.recovered(bench.table(store=store), 0), bench.table(0)
        await owner.flush(bench.producer, 0, {b"a": {b"s": b"9"}})
        await zombie.flush(bench.producer, 0, {b"a": {b"s": b"3"}})
        await owner.flush(bench.producer, 0, {b"b": {b"s": b"1"}})
        assert owner.foreign_writes(0)
        store.close()
        successor = await bench.recovered(bench.table(store=bench.store("kept")), 0)
        assert await successor.rewrite_recovered(bench.producer, 0) == 1
        assert last(await bench.log(0), b"a\0s") == b"9"

    run(bench, scenario)


@pytest.mark.parametrize("length", [0, 1, 3], ids=["empty", "shorter", "longer"])
def test_rows_of_a_topic_that_was_made_again_are_dropped(bench: Bench, length: int) -> None:
    async def scenario(bench: Bench) -> None:
        store = bench.store()
        table = bench.table(0, store=store)
        await table.flush(bench.producer, 0, {b"a": {b"s": b"1", b"t": b"1"}})
        changelog = await bench.another_changelog()
        writer = bench.table(0, changelog=changelog)
        for number in range(length):
            await writer.flush(bench.producer, 0, {b"b%d" % number: {b"s": b"2"}})
        progress = RecoveryProgress()
        again = await bench.recovered(bench.table(store=store, changelog=changelog), 0, progress=progress)
        assert progress == RecoveryProgress(total=length, remaining=0, is_known=True)
        assert held(again, 0) == {b"b%d" % number: {b"s": b"2"} for number in range(length)}
        assert again.open(0) == length

    run(bench, scenario)


def test_a_folder_that_was_wiped_is_filled_again(bench: Bench, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        store = bench.store("wiped")
        table = bench.table(0, store=store)
        rows = {b"g%d" % number: {b"s": b"%d" % number} for number in range(50)}
        await table.flush(bench.producer, 0, rows)
        store.close()
        shutil.rmtree(tmp_path / "wiped", ignore_errors=True)
        again = bench.table(store=bench.store("wiped"))
        assert again.open(0) == 0
        assert held(await bench.recovered(again, 0), 0) == rows

    run(bench, scenario)


def test_a_flush_that_ends_after_the_close_writes_nothing(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        table = bench.table(0)
        flush = asyncio.create_task(table.flush(bench.producer, 0, {b"a": {b"s": b"1"}}))
        await asyncio.sleep(0)
        table.close(0)
        await flush
        assert table.open(0) == 0
        assert held(await bench.recovered(table, 0), 0) == {b"a": {b"s": b"1"}}

    run(bench, scenario)


def test_small_flushes_of_one_poll_leave_in_one_request(bench: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        gathering, requests = Gathering(), Counter[str]()
        table = Table(bench.changelog, largest, BATCH_BYTES, bench.store(), 0, gathering)
        for partition in (0, 1):
            table.open(partition)
            # answered once the broker leads the partition: of a new topic it may refuse the first request
            await table.flush(bench.producer, partition, {b"before": {b"a": b"1"}})
        send = bench.producer.client.send

        async def count(node: Any, request: Any, **options: Any) -> Any:
            requests[type(request).__name__] += 1
            return await send(node, request, **options)

        bench.producer.client.send = count
        rows = {partition: {b"g%d" % number: {b"a": b"1"} for number in range(partition + 1)} for partition in (0, 1)}
        gathering.begin(rows)
        await asyncio.gather(*(table.flush(bench.producer, partition, changes) for partition, changes in rows.items()))
        assert requests["ProduceRequest"] == 1
        for partition in (0, 1):
            assert await bench.end(partition) == partition + 2

    run(bench, scenario)
