"""The limit of a recovery in Python: aiokafka's `getmany` reads topics to their ends; nothing is parsed or kept."""

from __future__ import annotations

import asyncio
from time import perf_counter, process_time

from aiokafka import AIOKafkaConsumer

from tests.bench.peers import Result, Workplace, peak_rss_bytes, report, workplace

_AT_ONCE = 5000


async def run(place: Workplace) -> Result:
    """Reads the topics, which are joined by commas. Ends are offsets: compaction may have removed records before them."""
    topics = place.topic.split(",")
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=place.broker, auto_offset_reset="earliest", group_id=None)
    async with consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        left = {partition: end for partition, end in ends.items() if end > 0}
        start, cpu, done = perf_counter(), process_time(), 0
        while left and perf_counter() - start < place.seconds:
            for partition, records in (await consumer.getmany(timeout_ms=1000, max_records=_AT_ONCE)).items():
                done += len(records)
                if records[-1].offset + 1 >= left.get(partition, 0):
                    left.pop(partition, None)
        return Result(done, start, perf_counter() - start, process_time() - cpu, peak_rss_bytes())


if __name__ == "__main__":
    report(asyncio.run(run(workplace(__doc__))))
