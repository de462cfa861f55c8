"""`python -m tests.bench.rebuild`: a million attendances are rebuilt from the tables while a thousand events come a second.

One worker fills the build and goes on with the live events; a reader asks one question after the other, and every answer is
compared with what is known of it. After the switch, a rollback and a switch back all tallies are compared with those that the
events come to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Any, NamedTuple

from redis.asyncio import Redis

from schemas.times import format_time
from tests.bench import workload
from tests.bench.loading import end_offsets, load
from tests.bench.process import ROOT, BenchFailed, Child
from tests.bench.query.report import share
from tests.bench.running import Ground, Watch, clean_redis, used_memory
from tests.bench.workload import Million, event
from tests.support.services import RedisServer, ServiceError, chosen_broker
from worker.kafka import create_producer
from worker.ops import topics
from worker.read_model.reader import AttendanceReader
from worker.settings import Settings, load_settings
from worker.topics import TopicNames, partition_of

PARTITIONS = 16
#: Sessions of the live events, each of a booking of its own.
SESSIONS = [f"live-{number}" for number in range(50)]
_FIELDS = ("bookings", "attended", "notAttended", "notSet", "attendees")
_LINE = re.compile(r"^timestamp=(\S+) .*event=(filling|filled)\b", re.MULTILINE)


class Measured(NamedTuple):
    """What was found. Seconds and bytes."""

    attendances: int
    fill_seconds: float
    """From the first partition that was filled to the last."""
    command_seconds: float
    """Of the whole command: fill, comparison and switch."""
    worker_peak: int
    command_peak: int
    redis_before: int
    redis_both: int
    events: int
    """Live ones, in all."""
    asked: int
    errors: list[str]
    wrong: int
    delays: list[float]
    """Of the questions, ms."""
    rollback_seconds: float
    drop_seconds: float
    sessions: int
    wrong_tallies: int
    check: dict[str, Any]


def main() -> int:
    """Exit code: 0, 1 where something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rebuild", description=__doc__)
    parser.add_argument("--attendances", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=1_000, help="live events a second")
    options = parser.parse_args()
    try:
        with closing(chosen_broker({})) as kafka, RedisServer() as redis, TemporaryDirectory() as folder:
            kafka.start()
            settings = load_settings(_env_file=None, broker=kafka.url, redis=redis.url, store=f"rocksdb://{folder}/rows")
            ground = Ground(settings, [], Path(folder))
            measured = asyncio.run(_Bench(ground, options.attendances, options.rate).run())
    except (ServiceError, BenchFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _print(measured)
    return 0


class _Bench:
    def __init__(self, ground: Ground, attendances: int, rate: int) -> None:
        self._ground = ground
        self._settings: Settings = ground.under("bench-rebuild", PARTITIONS)
        self._rate = rate
        self._load: Million = workload.million(attendances, 0, PARTITIONS, time_micros())
        self._expected = expected_tallies(self._load)
        self._live: Counter[str] = Counter()
        """Events that were sent, by session."""
        self._stopped = asyncio.Event()
        self._asked, self._wrong = 0, 0
        self._errors: list[str] = []
        self._delays: list[float] = []

    async def run(self) -> Measured:
        settings, names = self._settings, TopicNames.of(self._settings.topic_prefix)
        await topics.create(settings)
        _say("loading")
        async with clean_redis(settings) as redis:
            ends = {name: await load(settings, name, some) for name, some in _to_load(names, self._load)}
            with self._ground.worker("worker", settings, "rows") as child:
                watch = Watch(self._ground, settings, redis, child)
                await watch.reach("bookings", ends[names.bookings])
                await watch.reach("events", ends[names.events])
                _say("applied")
                sending, asking = asyncio.create_task(self._send()), asyncio.create_task(self._ask(redis))
                try:
                    return await self._measure(redis, child, watch, names)
                finally:
                    self._stopped.set()
                    await asyncio.gather(sending, asking)

    async def _measure(self, redis: Redis, child: Child, watch: Watch, names: TopicNames) -> Measured:
        before = await used_memory(redis)
        seconds, peak, summary = await self._command()
        both, worker_peak = await used_memory(redis), child.peak_rss_bytes()
        rollback, _, _ = await self._command("--rollback")
        await self._command("--rollback")
        drop, _, _ = await self._command("--drop-old")
        self._stopped.set()
        await self._applied(watch, names)
        wrong = await self._wrong_tallies(redis)
        times = [(datetime.fromisoformat(at).timestamp(), what) for at, what in _LINE.findall(child.log.read_text())]
        begun, ended = (pick(at for at, what in times if what == name) for pick, name in ((min, "filling"), (max, "filled")))
        return Measured(
            sum(map(len, self._load.inserts)),
            ended - begun,
            seconds,
            worker_peak,
            peak,
            before,
            both,
            sum(self._live.values()),
            self._asked,
            self._errors,
            self._wrong,
            self._delays,
            rollback,
            drop,
            len(self._expected) + len(SESSIONS),
            wrong,
            summary["check"],
        )

    async def _command(self, *arguments: str) -> tuple[float, int, dict[str, Any]]:
        """How long ``attendance rebuild`` took, its peak memory, and what it printed."""
        environment = {**self._ground.environment(self._settings, "rows"), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        command = (sys.executable, "-m", "worker", "rebuild", "--yes", "--json", *arguments)
        _say(" ".join(("rebuild", *arguments)))
        began, peak = perf_counter(), 0
        process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=ROOT, stdout=PIPE, stderr=PIPE)
        reading = asyncio.create_task(process.communicate())
        while not reading.done():
            peak = max(peak, _peak_of(process.pid))
            await asyncio.wait([reading], timeout=0.1)
        out, err = reading.result()
        if process.returncode:
            raise BenchFailed(f"attendance rebuild {' '.join(arguments)} ended with {process.returncode}:\n{err.decode()}")
        return perf_counter() - began, peak, json.loads(out)

    async def _send(self) -> None:
        """Check-ins at a steady rate, each of a booking that has no other."""
        topic, chance, number, start = TopicNames.of(self._settings.topic_prefix).events, random.Random(5), 0, perf_counter()
        async with create_producer(self._settings, linger_ms=5) as producer:
            await producer.partitions_for(topic)
            while not self._stopped.is_set():
                while number < (perf_counter() - start) * self._rate:
                    booking, session, now = f"L{number}", chance.choice(SESSIONS), format_time(time_micros())
                    value = event(f"l{number}", "/devices/kiosk-1", "check_in", now, booking, session)
                    await producer.send(topic, value, key=booking.encode(), partition=partition_of(booking, PARTITIONS))
                    self._live[session] += 1
                    number += 1
                await asyncio.sleep(0.01)

    async def _ask(self, redis: Redis) -> None:
        """Pages and tallies of the sessions that rest, and tallies of the live ones, which only grow."""
        reader, chance = AttendanceReader(redis, self._settings.redis_namespace), random.Random(6)
        sessions, seen = list(self._expected), Counter[str]()
        while not self._stopped.is_set():
            session, live = chance.choice(sessions), chance.choice(SESSIONS)
            began = perf_counter()
            try:
                found, page = (
                    await reader.session(session),
                    await reader.query({"filter": {"sessionId": session}, "cursorPaging": {"limit": 100}}),
                )
                moving = await reader.session(live)
            except Exception as error:  # noqa: BLE001 - any error of a reader counts
                self._errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
                continue
            self._delays.append((perf_counter() - began) / 3 * 1e3)
            self._asked += 3
            rows = page.attendances
            statuses = Counter(each["status"] for each in rows)
            expected = self._expected[session]
            self._wrong += _shown(found) != expected
            self._wrong += {each["sessionId"] for each in rows} != {session} or len(rows) != min(100, expected["bookings"])
            self._wrong += statuses["ATTENDED"] > expected["attended"] or statuses["NOT_ATTENDED"] > expected["notAttended"]
            attended = moving["attended"] if moving else 0
            self._wrong += not seen[live] <= attended <= self._live[live]
            seen[live] = attended
            await asyncio.sleep(0.01)

    async def _applied(self, watch: Watch, names: TopicNames) -> None:
        await asyncio.sleep(1)
        await watch.reach("events", await end_offsets(self._settings, names.events, PARTITIONS))

    async def _wrong_tallies(self, redis: Redis) -> int:
        reader, wrong = AttendanceReader(redis, self._settings.redis_namespace), 0
        for session, expected in self._expected.items():
            wrong += _shown(await reader.session(session)) != expected
        for session in SESSIONS:
            tally = await reader.session(session)
            wrong += (tally["attended"] if tally else 0) != self._live[session]
        return wrong


def expected_tallies(load_of: Million) -> dict[str, dict[str, int]]:
    """By session, what the events come to: each attendance has one event."""
    tallies: dict[str, Counter[str]] = {}
    for records in load_of.inserts:
        for _, value in records:
            document = json.loads(value)
            tally = tallies.setdefault(document["data"]["sessionId"], Counter(dict.fromkeys(_FIELDS, 0)))
            is_attended = document["type"] == "attendance.check_in"
            tally["bookings"] += 1
            tally["attended" if is_attended else "notAttended"] += 1
            tally["attendees"] += is_attended
    return {session: dict(tally) for session, tally in tallies.items()}


def _say(step: str) -> None:
    print(f"{format_time(time_micros())} {step}", file=sys.stderr, flush=True)


def time_micros() -> int:
    """Now, in microseconds since the epoch."""
    return int(time() * 1e6)


def _to_load(names: TopicNames, load_of: Million) -> list[tuple[str, Any]]:
    return [(names.bookings, load_of.bookings), (names.events, load_of.inserts)]


def _shown(tally: Any) -> dict[str, int]:
    return {name: tally[name] for name in _FIELDS} if tally else {}


def _peak_of(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _print(found: Measured) -> None:
    mega = 1024 * 1024
    print(f"attendances                {found.attendances:,}, live events meanwhile {found.events:,}")
    print(f"fill                       {found.fill_seconds:.1f} s, {found.attendances / found.fill_seconds:,.0f} attendances/s")
    print(f"fill, check and switch     {found.command_seconds:.1f} s")
    print(f"compared                   {found.check['compared']}, differences {found.check['differences']}")
    print(f"peak memory                worker {found.worker_peak / mega:.0f} MB, command {found.command_peak / mega:.0f} MB")
    print(f"Redis                      {found.redis_before / mega:.0f} MB before, {found.redis_both / mega:.0f} MB with both")
    print(f"questions                  {found.asked:,}: {len(found.errors)} errors, {found.wrong} wrong answers")
    print(f"a question                 p50 {share(found.delays, 0.5):.1f} ms, p99 {share(found.delays, 0.99):.1f} ms")
    print(f"rollback; drop             {found.rollback_seconds:.1f} s; {found.drop_seconds:.1f} s")
    print(f"tallies after it           {found.sessions:,} sessions, {found.wrong_tallies} other than the events come to")
    for line, count in Counter(found.errors).most_common(5):
        print(f"error                      {count} x {line}")


if __name__ == "__main__":
    sys.exit(main())
