"""`python -m tests.bench.refold`: how fast new tables are loaded, and how large the processes are, beside a worker's.

A worker applies the events from an empty store. Then everything is archived, retention deletes half of the events, and new
tables are filled with the whole: folded from archive and topic, and copied from the worker's. Both fill a namespace of their
own, as `attendance rebuild` does; each runs in processes of its own, while the worker has nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
import tempfile
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from time import perf_counter, time
from typing import Any, NamedTuple

from tests.bench import workload
from tests.bench.loading import load as append
from tests.bench.running import Ground, Watch, clean_redis
from tests.support.services import KafkaCluster, RedisServer
from tests.support.station import trim
from worker.ops import archive, archive_plan, table_loader, topics
from worker.read_model import builds
from worker.read_model.build_keys import open_partitions
from worker.read_model.builds import Namespace
from worker.read_model.operations import Operations
from worker.redis.client import create_redis
from worker.settings import Settings, load_settings
from worker.topics import TopicNames

PARTITIONS = 16


class Loaded(NamedTuple):
    """What a load took."""

    records: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    """Of one process."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.refold", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="default: %(default)s")
    options = parser.parse_args()
    # a topic just made has no leader for a moment; clients warn of each retry
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with KafkaCluster(optimised=True) as kafka, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            _env_file=None, broker=kafka.url, redis=redis.url, topic_prefix="refold", partitions=PARTITIONS
        )
        ground = Ground(settings, [node.pid for node in kafka.nodes], Path(folder))
        show("worker", asyncio.run(_apply(ground, settings, options.events)))
        half = asyncio.run(_archive(settings, Path(folder)))
        with ground.worker("live", settings, "live"):
            for tables, refold in (("2", True), ("3", False)):
                show(
                    f"refold, {half:,} of the events archived" if refold else "copy",
                    _in_process(settings, folder, tables, refold),
                )
    return 0


def show(what: str, found: Loaded) -> None:
    records, seconds, cpu, peak = found
    each = f"{records / seconds:,.0f}/s, {cpu / records * 1e6:.1f} us of CPU each"
    print(f"{what}: {records:,} records in {seconds:.1f} s, {each}, at most {peak / 2**20:,.0f} MiB a process")


async def _apply(ground: Ground, settings: Settings, events: int) -> Loaded:
    """What a worker takes for all bookings and events, once it has recovered its empty tables."""
    names, made = TopicNames.of(settings.topic_prefix), workload.make(events, PARTITIONS, int(time() * 1e6))
    await topics.create(settings)
    async with clean_redis(settings) as redis:
        booked = await append(settings, names.bookings, made.bookings)
        ends = await append(settings, names.events, made.events)
        with ground.worker("live", settings, "live") as child:
            while not child.has_said("event=recovered"):
                child.check()
                await asyncio.sleep(0.01)
            begun, used, watch = perf_counter(), child.cpu_seconds(), Watch(ground, settings, redis, child)
            await watch.reach("bookings", booked)
            await watch.reach("events", ends)
            seconds, cpu = perf_counter() - begun, child.cpu_seconds() - used
            return Loaded(sum(booked) + sum(ends), seconds, cpu, child.peak_rss_bytes())


async def _archive(settings: Settings, folder: Path) -> int:
    """Archives both topics, and has half of the events deleted; how many these are."""
    names, client = TopicNames.of(settings.topic_prefix), create_redis(settings)
    try:
        (folder / "archive").mkdir()
        plan = await archive_plan.make_plan(settings, folder / "archive", names[:2])
        running = await archive.begin(Operations(client, settings.redis_namespace), plan)
        await archive.write(settings, plan, running, lambda _: None, asyncio.Event())
    finally:
        await client.aclose()
    deleted = 0
    for tp, window in plan.windows.items():
        if tp.topic == names.events:
            deleted += window.stop // 2
            await trim(settings.kafka_address, tp.topic, window.stop // 2, tp.partition)
    return deleted


def _in_process(settings: Settings, folder: str, tables: str, refold: bool) -> Loaded:
    """A load in a process of its own."""
    context = get_context("spawn")
    answers = context.SimpleQueue()
    given = json.loads(settings.model_dump_json()) | {"redis": settings.redis.get_secret_value()}
    process = context.Process(target=_measure, args=(given, folder, tables, refold, answers))
    process.start()
    process.join()
    return Loaded(*answers.get())


def _measure(given: dict[str, Any], folder: str, tables: str, refold: bool, answers: SimpleQueue[tuple[Any, ...]]) -> None:
    names = ("broker", "redis", "topic_prefix", "partitions")
    source = load_settings(_env_file=None, **{name: given[name] for name in names})
    own = source.model_copy(update={"tables": tables, "store": f"rocksdb://{folder}/rows-{tables}"})
    begun = perf_counter()
    records = asyncio.run(_load(own, source, Path(folder) / "archive", refold))
    seconds = perf_counter() - begun
    used = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, peak = sum(each.ru_utime + each.ru_stime for each in used), max(each.ru_maxrss for each in used) * 1024
    answers.put((records, seconds, cpu, peak))


async def _load(own: Settings, source: Settings, archived: Path, refold: bool) -> int:
    client, base, done = create_redis(own), own.redis_namespace, 0

    def progress(reached: int) -> None:
        nonlocal done
        done = reached

    try:
        running = await Operations(client, base).begin("rebuild", f"load {own.tables}", {}, {})
        build = Namespace(await builds.reserve(client, base), PARTITIONS, own.tables)
        await open_partitions(client, build, running.operation.id)
        archives = [archived] if refold else []
        work = table_loader.load(
            own, source, client, running, build, archives, refold=refold, stop=asyncio.Event(), progress=progress
        )
        await running.run(work)
        await running.finish()
    finally:
        await client.aclose()
    return done


if __name__ == "__main__":
    sys.exit(main())
