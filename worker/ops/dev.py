"""Broker, Redis, one worker and the API in one process tree on this machine; optionally the demo's events, and live counts."""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live
from rich.table import Table
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from schemas.alerts import AlertKind
from worker.ops import demo, doctor, publish, topics
from worker.ops.children import Child, ChildFailed, answers, usable_port
from worker.ops.embedded import USUAL_BROKER_PORT, USUAL_REDIS_PORT, broker_command, redis_command
from worker.read_model.reader import AttendanceReader, NotServing
from worker.redis.client import create_redis
from worker.settings import ENV_PREFIX, Settings
from worker.tasks import end
from worker.topics import TopicNames, create_producer

#: A worker that reads an embedded broker joins its group after half of this, seconds.
_SESSION_TIMEOUT = "6s"
_DEV_PARTITIONS = 4
_START_SECONDS = 30.0
_WATCH_SECONDS = 0.2
_USUAL = {
    "ATTENDANCE_BROKER": f"kafka://127.0.0.1:{USUAL_BROKER_PORT}",
    "ATTENDANCE_REDIS": f"redis://127.0.0.1:{USUAL_REDIS_PORT}/0",
    "ATTENDANCE_PARTITIONS": str(_DEV_PARTITIONS),
}
_GRACE_SECONDS = {"worker": 3.5, "api": 2.0}
_SHOWN_PER_SECOND = 4
#: The demo is played over about a quarter of a minute, so that one sees it.
_DEMO_EVENTS_PER_TICK = 400
_TICK_SECONDS = 0.25


class Dev:
    """The process tree. Leaving it ends every child."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self._console = console
        self._children: list[Child] = []
        self._folder = tempfile.TemporaryDirectory(prefix="attendance-dev-")

    async def __aenter__(self) -> "Dev":
        return self

    async def __aexit__(self, *_: object) -> None:
        # the API and the worker first: they finish what is under way, and need the others for it
        for child in reversed(self._children):
            await child.stop(_GRACE_SECONDS.get(child.name, 1.0))
        self._folder.cleanup()

    async def watch(self) -> None:
        """Raises ChildFailed as soon as a child ends."""
        while True:
            for child in self._children:
                child.check()
            await asyncio.sleep(_WATCH_SECONDS)

    async def blame(self) -> None:
        """Raises ChildFailed if a child has ended, or does so at once."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.watch(), 2 * _WATCH_SECONDS)

    async def start(self) -> None:
        """Starts what the settings do not name, the worker and the API; returns when they serve."""
        given = self.settings.model_fields_set
        changes: dict[str, Any] = {}
        if "redis" not in given:
            port = await self._launch_redis()
            changes["redis"] = f"redis://127.0.0.1:{port}/0"
        if "broker" not in given:
            port = await self._launch_broker()
            # rows of an earlier broker would contradict this one's offsets
            changes |= {"broker": f"kafka://127.0.0.1:{port}", "session_timeout": _SESSION_TIMEOUT, "store": "memory://"}
            changes |= {} if "partitions" in given else {"partitions": _DEV_PARTITIONS}
            if "redis" in given:
                # a broker that begins empty contradicts whatever an earlier one left in this Redis
                changes["namespace"] = f"{self.settings.redis_namespace}-dev-{uuid4().hex[:8]}"
        kept = {name: getattr(self.settings, name) for name in given - changes.keys()}
        self.settings = Settings(**(kept | changes))
        await self._create_topics()
        environment = {ENV_PREFIX + name.upper(): str(value) for name, value in changes.items()}
        self._launch("worker", (sys.executable, "-m", "worker", "worker"), environment)
        # the API's address is this machine's own, so it needs no tokens
        port = self._port("API", self.settings.api_address[1], "http://")
        at = {f"{ENV_PREFIX}API_BIND": f"127.0.0.1:{port}"}
        api = self._launch("api", (sys.executable, "-m", "worker", "api"), environment | at)
        shown = {name: value for name, value in environment.items() if not name.endswith(("TIMEOUT", "STORE"))}
        if any(_USUAL.get(name) != value for name, value in shown.items()):
            self._console.print("for other commands: export " + " ".join(f"{n}={v}" for n, v in shown.items()), soft_wrap=True)
        await self._until_serving()
        await self._until_answers(api, port)

    async def _launch_redis(self) -> int:
        port = self._port("Redis", USUAL_REDIS_PORT)
        child = self._launch("redis", redis_command(port, self._folder.name))
        await self._until_answers(child, port)
        return port

    async def _launch_broker(self) -> int:
        port = self._port("broker", USUAL_BROKER_PORT)
        child = self._launch("broker", broker_command(port))
        await self._until_answers(child, port)
        return port

    def _launch(self, name: str, command: Any, environment: dict[str, str] | None = None) -> Child:
        child = Child(name, command, Path(self._folder.name) / f"{name}.log", environment)
        self._children.append(child)
        return child

    def _port(self, what: str, usual: int, scheme: str = "") -> int:
        port = usable_port(usual)
        taken = "" if port == usual else f" (port {usual} is taken)"
        self._console.print(f"{what} on {scheme}127.0.0.1:{port}{taken}")
        return port

    async def _until_answers(self, child: Child, port: int) -> None:
        end = time.monotonic() + _START_SECONDS
        while not await answers(port):
            child.check()
            if time.monotonic() > end:
                raise ChildFailed(f"{child.name} does not answer after {_START_SECONDS:.0f} s")
            await asyncio.sleep(0.05)

    async def _create_topics(self) -> None:
        # a broker that has just started may refuse for a moment
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(KafkaError), stop=stop_after_delay(10), wait=wait_fixed(0.2), reraise=True
        ):
            with attempt:
                await topics.create(self.settings)
        findings = await doctor.examine_broker(self.settings)
        if bad := [finding.detail for finding in findings if not finding.ok]:
            raise topics.TopicsError(bad[0])

    async def _until_serving(self) -> None:
        client = create_redis(self.settings)
        reader, end = AttendanceReader(client, self.settings.redis_namespace), time.monotonic() + _START_SECONDS
        try:
            while True:
                try:
                    if all(p.lag is not None and p.state == "live" for p in await reader.status()):
                        return
                except NotServing:
                    pass
                for child in self._children:
                    child.check()
                if time.monotonic() > end:
                    raise ChildFailed(f"the worker does not serve after {_START_SECONDS:.0f} s")
                await asyncio.sleep(0.1)
        finally:
            await client.aclose()


async def run(settings: Settings, *, play: bool, once: bool, stop: asyncio.Event) -> dict[str, int] | None:
    """Runs the tree until ``stop`` is set or, with ``once``, until the demo is over; the totals then.

    Raises:
        ChildFailed: a child ended by itself, or did not start.
    """
    console = Console(stderr=True)
    began = time.monotonic()
    async with Dev(settings, console) as dev, AsyncExitStack() as stack:
        await _first_of([dev.start(), stop.wait()])
        if stop.is_set():
            return None
        console.print(f"ready after {time.monotonic() - began:.1f} s")
        client = create_redis(dev.settings)
        stack.push_async_callback(client.aclose)
        reader = AttendanceReader(client, dev.settings.redis_namespace)
        work: list[Coroutine[Any, Any, object]] = [dev.watch(), stop.wait()]
        if play:
            work.append(_demo(dev.settings, reader, once=once))
        if not once:
            work.append(_show(reader, console))
        try:
            await _first_of(work)
        except (KafkaError, RedisError, OSError):
            # whoever asked it may notice before the watch does
            await dev.blame()
            raise
        return await totals(reader) if once and not stop.is_set() else None


async def _first_of(work: list[Coroutine[Any, Any, object]]) -> None:
    """Until one of them ends, which ends the others; raises what it raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(tasks)


async def totals(reader: AttendanceReader) -> dict[str, int]:
    """Counts over all that Redis holds."""
    sessions = await reader.sessions()
    tallies = [tally for tally in await asyncio.gather(*map(reader.session, sessions)) if tally]
    return {
        "bookings": await reader.count_bookings(),
        "sessions": len(sessions),
        "attended": sum(tally["attended"] for tally in tallies),
        "not_attended": sum(tally["notAttended"] for tally in tallies),
        "frequent_no_shows": await reader.count_alerts(AlertKind.FREQUENT_NO_SHOWS),
    }


async def _demo(settings: Settings, reader: AttendanceReader, *, once: bool) -> None:
    """Publishes the demo's events; with ``once`` it ends when all of them are applied, else never."""
    producer = create_producer(settings, linger_ms=5)
    await producer.start()
    try:
        outgoing = demo.outgoing(TopicNames.of(settings.topic_prefix), time.time_ns() // 1000)
        if once:
            await publish.send(producer, outgoing)
        else:
            await _play(producer, outgoing)
    finally:
        await producer.stop()
    wanted = demo.expected() if once else None
    while await _served_totals(reader) != wanted:  # noqa: ASYNC110 - Redis says nothing by itself
        await asyncio.sleep(0.1 if once else 60)


async def _served_totals(reader: AttendanceReader) -> dict[str, int]:
    """The totals, as soon as they are served."""
    while True:
        try:
            return await totals(reader)
        except NotServing:
            await asyncio.sleep(0.1)


async def _play(producer: Any, outgoing: Iterator[publish.Outgoing]) -> None:
    while some := list(islice(outgoing, _DEMO_EVENTS_PER_TICK)):
        await publish.send(producer, some)
        await asyncio.sleep(_TICK_SECONDS)


async def _show(reader: AttendanceReader, console: Console) -> None:
    """Live counts, a table on a terminal and a line every other second elsewhere."""
    if not console.is_terminal:
        while True:
            counts = await _served_totals(reader)
            console.print(" ".join(f"{name}={count}" for name, count in counts.items()))
            await asyncio.sleep(2)
    with Live(console=console, refresh_per_second=_SHOWN_PER_SECOND) as live:
        while True:
            live.update(_table(await _served_totals(reader)))
            await asyncio.sleep(1 / _SHOWN_PER_SECOND)


def _table(counts: dict[str, int]) -> Table:
    table = Table(title="attendance, live (Ctrl-C ends it)")
    for name in counts:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{count:,}" for count in counts.values()))
    return table
