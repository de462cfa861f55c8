# ruff: noqa: N815 - wire names are the contract's
"""The job in stock Faust, as its documentation teaches: typed records, a table, an agent that takes one event at a time.

The newest event of a booking and session wins; its state is in a table with a changelog, and a document and two index
entries are in Redis. No law of order, no alerts, no tallies, no fence: less than the worker does.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from time import perf_counter, process_time, time
from typing import Any

import faust
from redis.asyncio import Redis

from tests.bench.peers import Result, Workplace, peak_rss_bytes, report, workplace

_FIRST_EVENT_S = 60.0
_STOP_S = 10.0


class Data(faust.Record):
    bookingId: str
    sessionId: str
    numberOfAttendees: int = 1


class Event(faust.Record, serializer="json"):
    id: str
    source: str
    type: str
    time: str
    data: Data


class Attendance(faust.Record):
    bookingId: str
    sessionId: str
    status: str
    numberOfAttendees: int
    updatedDate: str


class Progress:
    """How far the agent is."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._done = 0
        self._start = (0.0, 0.0)
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    def begin(self) -> None:
        """Called with each event, before the work on it."""
        if not self.begun.is_set():
            self._start = (perf_counter(), process_time())
            self.begun.set()

    def end(self) -> None:
        """Called with each event, after the work on it."""
        self._done += 1
        if self._done == self._wanted:
            self.ended.set()

    def result(self) -> Result:
        start, cpu = self._start
        return Result(self._done, start, perf_counter() - start, process_time() - cpu, peak_rss_bytes())


def create_app(place: Workplace, redis: Redis, progress: Progress, datadir: str) -> faust.App:
    """The app, with the settings that its documentation leaves alone left alone, but for a quick start."""
    app = faust.App(
        f"stock-faust-{int(time())}",
        broker=f"kafka://{place.broker}",
        store="memory://",
        datadir=datadir,
        web_enabled=False,
        topic_partitions=place.partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=10.0,
        broker_rebalance_timeout=10.0,
        broker_heartbeat_interval=2.0,
    )
    topic = app.topic(place.topic, key_type=str, value_type=Event)
    table = app.Table("attendance", partitions=place.partitions, value_type=Attendance)

    async def fold(events: Any) -> None:
        async for event in events:
            progress.begin()
            await _apply(event, table, redis)
            progress.end()

    app.agent(topic, name="fold")(fold)
    return app


async def _apply(event: Event, table: Any, redis: Redis) -> None:
    data = event.data
    key = f"{data.bookingId}|{data.sessionId}"
    known = table.get(key)
    if known is not None and event.time < known.updatedDate:
        return
    attended = event.type == "attendance.check_in"
    status, number = ("ATTENDED", data.numberOfAttendees) if attended else ("NOT_ATTENDED", 0)
    attendance = Attendance(data.bookingId, data.sessionId, status, number, event.time)
    table[key] = attendance
    async with redis.pipeline(transaction=False) as pipe:
        pipe.set(f"attendance:{key}", attendance.dumps(serializer="json"))
        pipe.sadd(f"booking:{data.bookingId}", key)
        pipe.sadd(f"session:{data.sessionId}", key)
        await pipe.execute()


async def run(place: Workplace) -> None:
    """Reports before it stops the app, whose end is bounded and tells nothing."""
    with tempfile.TemporaryDirectory() as datadir:
        async with Redis.from_url(place.redis) as redis:
            progress = Progress(place.events)
            app = create_app(place, redis, progress, datadir)
            await app.start()
            await asyncio.wait_for(progress.begun.wait(), _FIRST_EVENT_S)
            await asyncio.wait([asyncio.create_task(progress.ended.wait())], timeout=place.seconds)
            report(progress.result())
            await asyncio.wait([asyncio.create_task(app.stop())], timeout=_STOP_S)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(run(workplace(__doc__)))
