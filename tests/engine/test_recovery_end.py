"""The engine's recovery goes to the end of a changelog, whatever is there; and what others wrote to it is read the same way."""

import asyncio
from pathlib import Path

import pytest
import structlog
from aiokafka import AIOKafkaProducer

from tests.engine.test_log_ends import Writer
from tests.integration.test_table import Bench, held, last
from tests.support.services import Broker
from tests.support.station import trim, until
from worker.engine import recovery
from worker.engine.partition_appender import BehindOpenTransaction, read
from worker.engine.recovery import recover


def test_a_changelog_that_ends_in_a_marker_is_recovered(kafka: Broker, tmp_path: Path) -> None:
    """Stock Faust waits for a record at the last offset, which is a transaction's marker here, and never ends."""
    bench = Bench(kafka, "memory", tmp_path)

    async def scenario() -> None:
        producer = AIOKafkaProducer(**bench.client, transactional_id=bench.changelog)
        async with producer, producer.transaction():
            await producer.send_and_wait(bench.changelog, b"1", key=b"a\0s", partition=0)
        table = bench.table()
        async with asyncio.timeout(30):
            done = [partition async for partition in recover([table], [0, 1], bench.client)]
        assert sorted(done) == [0, 1]
        assert held(table, 0) == {b"a": {b"s": b"1"}}

    asyncio.run(scenario())


def test_an_aborted_transaction_in_a_changelog_is_ignored(kafka: Broker, tmp_path: Path) -> None:
    bench = Bench(kafka, "memory", tmp_path)
    writer = Writer(kafka, bench.changelog)
    writer.begin(3)
    writer.abort()

    async def scenario() -> None:
        async with asyncio.timeout(30):
            table = await bench.recovered(bench.table(), 0, 1)
        assert held(table, 0) == {}

    asyncio.run(scenario())


def test_rows_behind_an_open_transaction_are_waited_for(kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting: the owner goes on without its own row `b`, which lies behind what somebody else has not committed."""
    monkeypatch.setattr(recovery, "STALL_SECONDS", 0.5)
    bench = Bench(kafka, "memory", tmp_path)
    writer = Writer(kafka, bench.changelog)

    async def scenario() -> None:
        async with bench.running():
            owner = bench.table(0)
            await owner.flush(bench.producer, 0, {b"a": {b"s": b"1"}})
            await asyncio.to_thread(writer.begin, 1, 0, b"2")
            await owner.flush(bench.producer, 0, {b"b": {b"s": b"3"}})
            with structlog.testing.capture_logs() as logs:
                table = bench.table()
                recovering = asyncio.create_task(bench.recovered(table, 0, 1))
                await until(lambda: 1 in table.partitions and any("open transaction" in each["event"] for each in logs))
                await asyncio.sleep(3 * recovery.STALL_SECONDS)  # longer than what is a stall
                assert not recovering.done()
                await asyncio.to_thread(writer.commit)
                async with asyncio.timeout(30):
                    await recovering
                assert len([each for each in logs if "open transaction" in each["event"]]) == 1
            assert held(table, 0) == {b"a": {b"s": b"1"}, b"k0": {b"s": b"2"}, b"b": {b"s": b"3"}}

    asyncio.run(scenario())


@pytest.mark.parametrize(("deleted", "lost"), [(2, False), (3, True), (4, True)])
def test_a_truncated_changelog_is_recovered_from_its_beginning(
    kafka: Broker, tmp_path: Path, *, deleted: int, lost: bool
) -> None:
    """The store has the rows of the first two records: what it lacks is lost, and that is said once."""
    bench = Bench(kafka, "rocksdb", tmp_path)

    async def scenario() -> None:
        async with bench.running():
            store = bench.store("kept")
            owner = bench.table(0, store=store)
            for key in (b"a", b"b"):
                await owner.flush(bench.producer, 0, {key: {b"s": b"1"}})
            other = bench.table(0)
            for key in (b"c", b"d"):
                await other.flush(bench.producer, 0, {key: {b"s": b"1"}})
            await trim(kafka.bootstrap, bench.changelog, deleted)
            with structlog.testing.capture_logs() as logs:
                async with asyncio.timeout(30):
                    await bench.recovered(owner, 0)
            assert sorted(held(owner, 0)) == sorted([b"a", b"b", b"c", b"d"][:2] + [b"c", b"d"][deleted - 2 :])
            said = [(each["first"], each["end"], each["count"]) for each in logs if "deleted" in each["event"]]
            assert said == ([(2, deleted, deleted - 2)] if lost else [])

    asyncio.run(scenario())


def test_a_foreign_row_is_rewritten_once_its_transaction_ends(kafka: Broker, tmp_path: Path) -> None:
    """With what is held taken for cut off: compaction keeps the foreign row, since ours is never written again."""
    bench = Bench(kafka, "memory", tmp_path)
    writer = Writer(kafka, bench.changelog)

    async def scenario() -> None:
        async with bench.running():
            owner = bench.table(0)
            await owner.flush(bench.producer, 0, {b"k0": {b"s": b"9"}})
            await asyncio.to_thread(writer.begin, 1, 0, b"2")
            await owner.flush(bench.producer, 0, {b"b": {b"s": b"3"}})
            assert owner.foreign_writes(0)
            with pytest.raises(BehindOpenTransaction):
                await owner.rewrite(bench.producer, 0, bench.client)
            assert owner.foreign_writes(0), "it is looked at again"
            await owner.flush(bench.producer, 0, {b"b": {b"s": b"4"}})
            await asyncio.to_thread(writer.commit)
            await until(lambda: _mended(bench, owner))
            assert last(await bench.log(0), b"k0\0s") == b"9"

    asyncio.run(scenario())


async def _mended(bench: Bench, owner: object) -> bool:
    try:
        await owner.rewrite(bench.producer, 0, bench.client)  # type: ignore[attr-defined]
    except BehindOpenTransaction:  # the broker has not written the marker yet
        return False
    return not owner.foreign_writes(0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("foreign_writes", [range(2), range(1, 9), range(7, 9)])
def test_foreign_offsets_that_are_gone_are_read_to_their_end(kafka: Broker, tmp_path: Path, foreign_writes: range) -> None:
    """Deleted before, or cut off behind the end: neither comes any more, and nothing else is read in their place."""
    bench = Bench(kafka, "memory", tmp_path)

    async def scenario() -> None:
        async with bench.running():
            owner = bench.table(0)
            for number in range(5):
                await owner.flush(bench.producer, 0, {b"a%d" % number: {b"s": b"1"}})
            await trim(kafka.bootstrap, bench.changelog, 2)
            async with asyncio.timeout(10):
                found = await read(bench.client, bench.changelog, 0, foreign_writes)
            assert [record.offset for record in found] == [offset for offset in foreign_writes if 2 <= offset < 5]

    asyncio.run(scenario())
