"""A million attendances of one worker in one Redis: what an insert and an update cost Redis there, what an attendance takes,
how fast their changelogs are recovered and how large the worker is then.

All is done by real workers, with 16 partitions and the bookings loaded, a third worker after two others:

1. one applies the bookings, four listed sessions each;
2. one applies an event of every attendance: Redis's CPU by events is the cost of an insert, with the summaries and alerts
   that come with it, and Redis's growth since it was empty, bookings and all, is what an attendance takes;
3. one with an empty store recovers everything, then applies a newer event of 200,000 attendances: Redis's CPU by events is
   the cost of an update. Its recovery is measured by its own log, from `assigned` to `recovered`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis

from tests.bench import against, workload
from tests.bench import floor as lowest
from tests.bench.floor import Floor
from tests.bench.loading import end_offsets, load
from tests.bench.peers import Workplace
from tests.bench.running import Ground, Span, Watch, clean_redis, used_memory
from tests.bench.workload import Million
from worker.ops import topics
from worker.settings import Settings
from worker.topics import TopicNames

ATTENDANCES = 1_000_000
UPDATES = 200_000
PARTITIONS = 16
_READ_S = 120.0
_LINE = re.compile(r"^timestamp=(\S+) .*event=(assigned|recovered)\b(.*)", re.MULTILINE)


class Held(NamedTuple):
    """What was found. CPU is microseconds."""

    insert: Span
    update: Span
    bytes_per_attendance: float
    recovered_records: int
    recovery_seconds: float
    getmany_records_per_s: float
    """Of aiokafka alone, reading the same changelogs."""
    floor: Floor | None
    """None of more than a million."""
    rss_bytes: int
    """Of the worker that recovered, at its end."""
    peak_rss_bytes: int

    @property
    def recovery_records_per_s(self) -> float:
        return self.recovered_records / self.recovery_seconds


class Portions:
    """The attendances in portions of at most a million, each made when it is needed: all at once would take gigabytes."""

    def __init__(self, attendances: int, now: int, seed: int) -> None:
        self._each, self._now, self._seed = min(attendances, ATTENDANCES), now, seed
        self.count = attendances // self._each
        self.updates = min(UPDATES, self._each)

    def make(self, number: int) -> Million:
        """The portion of that number, the same each time."""
        first = number * self._each // workload.SESSIONS_OF_A_BOOKING
        return workload.million(self._each, self.updates, PARTITIONS, self._now, self._seed + number, first=first)


async def measure(ground: Ground, prefix: str, now: int, seed: int, attendances: int = ATTENDANCES) -> Held:
    """Makes so many attendances and measures on them.

    Raises:
        BenchFailed: a worker ended, made no progress, or did not log its recovery.
    """
    settings = ground.under(prefix, PARTITIONS)
    names, loads = TopicNames.of(prefix), Portions(attendances, now, seed)
    await topics.create(settings)
    async with clean_redis(settings) as redis:
        empty = await used_memory(redis)
        insert = await _fill(ground, settings, redis, loads)
        bytes_each = (await used_memory(redis) - empty) / attendances
        starts = await end_offsets(settings, names.events, PARTITIONS)
        ends = await load(settings, names.events, loads.make(0).updates)
        changelogs = (names.attendance_changelog, names.bookings_changelog)
        records = sum([sum(await end_offsets(settings, topic, PARTITIONS)) for topic in changelogs])
        with ground.worker(f"{prefix}-updates", settings, f"{prefix}-fresh") as child:
            update = await Watch(ground, settings, redis, child).span(starts, ends)
            now_rss, peak_rss = child.rss_bytes(), child.peak_rss_bytes()
        seconds = recovery_seconds(child.log)
        if seconds is None:
            raise child.failure("did not log `assigned` and `recovered`")
        raw = await _read(ground, settings, changelogs)
        floor = None
        if attendances <= ATTENDANCES:
            floor = await lowest.measure(redis, await lowest.documents(redis), loads.updates, seed)
    return Held(insert, update, bytes_each, records, seconds, raw, floor, now_rss, peak_rss)


async def _fill(ground: Ground, settings: Settings, redis: Redis, loads: Portions) -> Span:
    """The first two workers; what the second one's events cost."""
    prefix, names = settings.topic_prefix, TopicNames.of(settings.topic_prefix)
    for number in range(loads.count):
        ends = await load(settings, names.bookings, loads.make(number).bookings)
    with ground.worker(f"{prefix}-bookings", settings, prefix) as child:
        await Watch(ground, settings, redis, child).reach("bookings", ends)
    for number in range(loads.count):
        ends = await load(settings, names.events, loads.make(number).inserts)
    with ground.worker(f"{prefix}-inserts", settings, prefix) as child:
        return await Watch(ground, settings, redis, child).span([0] * PARTITIONS, ends)


async def _read(ground: Ground, settings: Settings, changelogs: Sequence[str]) -> float:
    """Records per second of `raw_getmany`."""
    place = Workplace(settings.bootstrap_servers[0], "", ",".join(changelogs), settings.partitions, 0, _READ_S)
    return (await asyncio.to_thread(against.measure, "raw_getmany", place, ground.folder)).events_per_s


def recovery_seconds(log: Path) -> float | None:
    """From the last `assigned` with partitions to the `recovered` after it, by a worker's log; None: not there."""
    begun = None
    for time, what, rest in _LINE.findall(log.read_text(errors="replace")):
        if what == "assigned":
            begun = None if "[]" in rest else datetime.fromisoformat(time)
        elif begun is not None:
            return (datetime.fromisoformat(time) - begun).total_seconds()
    return None
