"""The limit in Python: aiokafka's `getmany`, and orjson on each value; nothing is kept."""

from __future__ import annotations

import asyncio
from time import perf_counter, process_time

import orjson
from aiokafka import AIOKafkaConsumer

from tests.bench.peers import Result, Workplace, peak_rss_bytes, report, workplace

_AT_ONCE = 5000


async def run(place: Workplace) -> Result:
    """Reads the topic from its beginning, without a group."""
    consumer = AIOKafkaConsumer(place.topic, bootstrap_servers=place.broker, auto_offset_reset="earliest", group_id=None)
    async with consumer:
        start, cpu, done = perf_counter(), process_time(), 0
        while done < place.events and perf_counter() - start < place.seconds:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=_AT_ONCE)).values():
                done += len(records)
                for record in records:
                    orjson.loads(record.value)
        return Result(done, start, perf_counter() - start, process_time() - cpu, peak_rss_bytes())


if __name__ == "__main__":
    report(asyncio.run(run(workplace(__doc__))))
