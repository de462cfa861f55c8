"""`python -m tests.bench.explain`: time, CPU and memory of `attendance explain` on a partition of ten million events.

A broker, a Redis and a worker of its own; the worker applies the events of one booking and ends, then the partition gets the
events of others. Each row is one run of the command, as a process; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench.explain.segments import CODECS, Record, write_events
from tests.bench.process import cpu_seconds
from tests.support.services import KafkaCluster, Redis, ServiceError, chosen_redis
from tests.support.serving import event, upserted
from tests.support.system import System, running

BOOKINGS = {"guid": "88214716-abcd-4ef0-9012-3456789abcde", "ascii": "BK-PLANTED-1", "accents": "café-1", "cjk": "予約/7"}
_START_SECONDS = 300.0


class Case(NamedTuple):
    """A partition to read."""

    codec: str
    size: int
    """Events of a record batch."""


class Found(NamedTuple):
    """What a run took."""

    megabytes: float
    """Of the log."""
    seconds: float
    cpu: float
    """Seconds, of the command."""
    broker_cpu: float
    peak_mb: float


def main() -> int:
    """Exit code: 0, 1 where a service is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--codecs", default="none,gzip,lz4,zstd", help=f"of {', '.join(CODECS)}")
    parser.add_argument("--batches", default="10,100,1000", help="events of a record batch")
    parser.add_argument("--booking", choices=BOOKINGS, default="guid", help="how the booking is named")
    parser.add_argument("--in-each-batch", action="store_true", help="each record batch holds an event of the booking")
    options = parser.parse_args()
    cases = [Case(codec, int(size)) for codec in options.codecs.split(",") for size in options.batches.split(",")]
    table = Table("codec", "events of a batch", "log, MB", "s", "CPU, s", "CPU of the broker, s", "peak, MB")
    try:
        for case in cases:
            found = _measure(case, options)
            cells = (found.megabytes, found.seconds, found.cpu, found.broker_cpu, found.peak_mb)
            table.add_row(case.codec, str(case.size), *(f"{each:,.1f}" for each in cells))
            print(case, found, file=sys.stderr, flush=True)
    except ServiceError as error:
        print(f"explain: {error}", file=sys.stderr)
        return 1
    Console(width=120).print(table)
    return 0


def _measure(case: Case, options: argparse.Namespace) -> Found:
    booking = BOOKINGS[options.booking]
    with ExitStack() as stack:
        kafka, redis = KafkaCluster(1, optimised=True), chosen_redis(os.environ)
        for service in (kafka, redis):
            stack.enter_context(contextlib.closing(service))
            service.start()
        with _applied(kafka, redis, booking) as (system, other):
            end = system.ends()[system.topics.events][0]
            kafka.stop()
            folder = kafka.nodes[0].folder / "data" / f"{system.topics.events}-0"
            planted = [other] if options.in_each_batch else []
            written = write_events(folder, end, options.events, case.size, case.codec, planted)
            kafka.nodes[0].start_timeout = _START_SECONDS
            kafka.start()
            assert system.ends()[system.topics.events][0] >= options.events
            return _explain(system, kafka.nodes[0].pid, booking, written / 1e6)


@contextlib.contextmanager
def _applied(kafka: KafkaCluster, redis: Redis, booking: str) -> Iterator[tuple[System, Record]]:
    """A tenant of one partition whose worker has applied a booking and ended; and an event of its other session."""
    sessions = [{"sessionId": "s1"}, {"sessionId": "s2"}]
    mine, other = event("check_in", booking, "s1", numberOfAttendees=2), event("check_in", booking, "s2")
    with running(System(kafka, redis, partitions=1)) as system:
        system.publish([system.booking(upserted(booking, 2, sessions)), system.event(mine), system.event(other)])
        system.until_applied()
        for worker in system.workers:
            worker.terminate()
        yield system, Record(booking.encode(), json.dumps(other, ensure_ascii=False).encode())


def _explain(system: System, broker: int, booking: str, megabytes: float) -> Found:
    command = (sys.executable, "-m", "worker", "explain", booking, "s1", "--json")
    cpu, began = cpu_seconds([broker]), time.perf_counter()
    with subprocess.Popen(command, env={**os.environ, **system.environment}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            document = json.loads(process.stdout.read())
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, cpu = time.perf_counter() - began, cpu_seconds([broker]) - cpu
    assert (process.returncode, len(document["events"]), document["redis"]["agrees"]) == (0, 1, True), document
    return Found(megabytes, seconds, used.ru_utime + used.ru_stime, cpu, used.ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
