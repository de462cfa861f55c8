"""The job in Quix Streams, as its documentation teaches: state in a StreamingDataFrame, and a batching sink for Redis.

Its settings are the defaults, commits every five seconds included: a commit writes one changelog record per changed key,
so that a shorter interval makes it slower. The sink is its own RedisSink with index entries beside the document.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import orjson
from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch
from redis import Redis

from tests.bench.peers import Result, Workplace, peak_rss_bytes, report, workplace

_AT_ONCE = 1000

Document = dict[str, Any]


class Progress:
    """Counts events; over when all are done or the time is up."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._done = 0
        self._start = (0.0, 0.0)

    def count(self) -> bool:
        """One more has come; whether it is the last."""
        if self._done == 0:
            self._start = (perf_counter(), process_time())
        self._done += 1
        return self._done >= self._place.events or perf_counter() - self._start[0] > self._place.seconds

    def result(self) -> Result:
        start, cpu = self._start
        return Result(self._done, start, perf_counter() - start, process_time() - cpu, peak_rss_bytes())


class AttendanceSink(BatchingSink):
    """Writes documents and indexes to Redis, pipelined, when Quix Streams commits."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self._redis = redis

    def write(self, batch: SinkBatch) -> None:
        for some in batch.iter_chunks(_AT_ONCE):
            with self._redis.pipeline(transaction=False) as pipe:
                for item in some:
                    document = item.value
                    key = f"{document['bookingId']}|{document['sessionId']}"
                    pipe.set(f"attendance:{key}", orjson.dumps(document))
                    pipe.sadd(f"booking:{document['bookingId']}", key)
                    pipe.sadd(f"session:{document['sessionId']}", key)
                pipe.execute()


def fold(event: Document, state: State) -> Document | None:
    """The attendance, where the event is the newest of its booking (the message key) and session."""
    data = event["data"]
    known = state.get(data["sessionId"])
    if known is not None and event["time"] < known["updatedDate"]:
        return None
    attended = event["type"] == "attendance.check_in"
    attendance = {
        "bookingId": data["bookingId"],
        "sessionId": data["sessionId"],
        "status": "ATTENDED" if attended else "NOT_ATTENDED",
        "numberOfAttendees": data.get("numberOfAttendees", 1) if attended else 0,
        "updatedDate": event["time"],
    }
    state.set(data["sessionId"], attendance)
    return attendance


def create_app(place: Workplace, folder: str, sink: AttendanceSink, count: Callable[[], bool]) -> Application:
    """The application; it stops itself after the last event."""
    app = Application(
        broker_address=place.broker,
        consumer_group=f"quix-streams-{os.getpid()}",
        auto_offset_reset="earliest",
        auto_create_topics=True,
        state_dir=folder,
        loglevel="WARNING",
    )

    def counted(event: Document, state: State) -> Document | None:
        if count():
            app.stop()
        return fold(event, state)

    frame = app.dataframe(app.topic(place.topic, key_deserializer="str", value_deserializer="json"))
    frame = frame.apply(counted, stateful=True).filter(lambda attendance: attendance is not None)
    frame.sink(sink)
    return app


def run(place: Workplace) -> None:
    """Works on the events; the measurement ends with the commit after the last one."""
    progress = Progress(place)
    with tempfile.TemporaryDirectory() as folder, Redis.from_url(place.redis) as redis:
        create_app(place, folder, AttendanceSink(redis), progress.count).run()
        report(progress.result())


if __name__ == "__main__":
    run(workplace(__doc__))
