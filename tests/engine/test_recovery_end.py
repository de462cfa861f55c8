"""The engine's recovery goes to the end of a changelog, whatever is there."""

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tests.integration.test_table import Bench, held
from tests.services import Broker
from worker.engine.recovery import recover


def test_a_changelog_that_ends_in_a_marker_is_recovered_to_its_end(kafka: Broker, tmp_path: Path) -> None:
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
