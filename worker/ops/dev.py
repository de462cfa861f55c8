"""`attendance dev`: broker, Redis, one worker and the API as one process tree; optionally the demo, with live counts."""

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack
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
from worker.kafka import create_producer
from worker.ops import demo, doctor, publish, scenarios, simulate, topics
from worker.ops.children import Child, ChildFailed, is_listening, usable_port
from worker.ops.embedded import DEFAULT_BROKER_PORT, DEFAULT_REDIS_PORT, broker_command, redis_command
from worker.ops.running_dev import ADDRESSES, FOLDER_PREFIX, announced
from worker.read_model.reader import AttendanceReader, NotServing
from worker.redis.client import create_redis
from worker.settings import ENV_PREFIX, Settings
from worker.tasks import cancel_all, uncancelled
from worker.topics import TopicNames

#: With an embedded broker, a worker joins its group after half of this time.
_SESSION_TIMEOUT = "6s"
_DEV_PARTITIONS = 4
_START_SECONDS = 30.0
_WATCH_SECONDS = 0.2
_DEFAULTS = {
    "ATTENDANCE_BROKER": f"kafka://127.0.0.1:{DEFAULT_BROKER_PORT}",
    "ATTENDANCE_REDIS": f"redis://127.0.0.1:{DEFAULT_REDIS_PORT}/0",
    "ATTENDANCE_PARTITIONS": str(_DEV_PARTITIONS),
}
_GRACE_SECONDS = {"worker": 3.5, "api": 2.0}
_REFRESHES_PER_SECOND = 4
#: The demo takes about 15 s, so that one can watch it.
_DEMO_EVENTS_PER_TICK = 400
_TICK_SECONDS = 0.25


class Dev:
    """The process tree. Leaving it ends every child."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self._console = console
        self._children: list[Child] = []
        self._folder = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX)
        self._announcement = ExitStack()

    async def __aenter__(self) -> "Dev":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._announcement.close()
        # the API and the worker first: they finish their work in progress, which needs Kafka and Redis
        for child in reversed(self._children):
            await child.stop(_GRACE_SECONDS.get(child.name, 1.0))
        self._folder.cleanup()

    async def watch(self) -> None:
        """Raises ChildFailed as soon as a child ends."""
        while True:
            for child in self._children:
                child.check()
            await asyncio.sleep(_WATCH_SECONDS)

    async def watch_briefly(self) -> None:
        """Raises ChildFailed if a child has ended, or ends within a moment."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.watch(), 2 * _WATCH_SECONDS)

    async def start(self) -> None:
        """Starts the services that the settings do not name, the worker and the API; returns when they serve."""
        configured = self.settings.model_fields_set
        overrides: dict[str, Any] = {}
        # first of all lines, since this is what people open
        port = self._port("screen and API", self.settings.api_address[1], "http://")
        if "redis" not in configured:
            redis_port = await self._launch_redis()
            overrides["redis"] = f"redis://127.0.0.1:{redis_port}/0"
        if "broker" not in configured:
            broker_port = await self._launch_broker()
            # stored rows would have offsets of an earlier broker
            overrides |= {
                "broker": f"kafka://127.0.0.1:{broker_port}",
                "session_timeout": _SESSION_TIMEOUT,
                "store": "memory://",
            }
            overrides |= {} if "partitions" in configured else {"partitions": _DEV_PARTITIONS}
            if "redis" in configured:
                # this Redis may hold offsets of an earlier broker, and the new one begins empty
                overrides["namespace"] = f"{self.settings.redis_namespace}-dev-{uuid4().hex[:8]}"
        unchanged = {name: getattr(self.settings, name) for name in configured - overrides.keys()}
        self.settings = Settings(**(unchanged | overrides))
        await self._create_topics()
        environment = {ENV_PREFIX + name.upper(): str(value) for name, value in overrides.items()}
        self._launch("worker", (sys.executable, "-m", "worker", "worker"), environment)
        # the API listens on loopback, so it needs no tokens
        bind = {f"{ENV_PREFIX}API_BIND": f"127.0.0.1:{port}"}
        api = self._launch("api", (sys.executable, "-m", "worker", "api"), environment | bind)
        shown = {name: value for name, value in environment.items() if not name.endswith(("TIMEOUT", "STORE"))}
        if any(_DEFAULTS.get(name) != value for name, value in shown.items()):
            variables = " ".join(f"{n}={v}" for n, v in shown.items())
            self._console.print(f"other commands find it; for other programs: export {variables}", soft_wrap=True)
        await self._until_serving()
        await self._until_listening(api, port)
        started = set(overrides).intersection(ADDRESSES)
        self._announcement.enter_context(announced(self.settings, Path(self._folder.name), started))

    async def _launch_redis(self) -> int:
        port = self._port("Redis", DEFAULT_REDIS_PORT)
        child = self._launch("redis", redis_command(port, self._folder.name))
        await self._until_listening(child, port)
        return port

    async def _launch_broker(self) -> int:
        port = self._port("broker", DEFAULT_BROKER_PORT)
        child = self._launch("broker", broker_command(port))
        await self._until_listening(child, port)
        return port

    def _launch(self, name: str, command: Any, environment: dict[str, str] | None = None) -> Child:
        child = Child(name, command, Path(self._folder.name) / f"{name}.log", environment)
        self._children.append(child)
        return child

    def _port(self, what: str, default: int, scheme: str = "") -> int:
        port = usable_port(default)
        taken = "" if port == default else f" (port {default} is in use)"
        self._console.print(f"{what} on {scheme}127.0.0.1:{port}{taken}")
        return port

    async def _until_listening(self, child: Child, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not await is_listening(port):
            child.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{child.name} does not answer after {_START_SECONDS:.0f} s")
            await asyncio.sleep(0.05)

    async def _create_topics(self) -> None:
        # a broker that has just started may answer with errors for a moment
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(KafkaError), stop=stop_after_delay(10), wait=wait_fixed(0.2), reraise=True
        ):
            with attempt:
                await topics.create(self.settings)
        findings = await doctor.examine_broker(self.settings)
        if problems := [finding.detail for finding in findings if not finding.ok]:
            raise topics.TopicsError(problems[0])

    async def _until_serving(self) -> None:
        client = create_redis(self.settings)
        reader, deadline = AttendanceReader(client, self.settings.redis_namespace), time.monotonic() + _START_SECONDS
        try:
            while True:
                try:
                    if all(p.lag is not None and p.state == "live" for p in await reader.status()):
                        return
                except NotServing:
                    pass
                for child in self._children:
                    child.check()
                if time.monotonic() > deadline:
                    raise ChildFailed(f"the read models are not served after {_START_SECONDS:.0f} s")
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
            # a client may notice the end of a child before `watch` does
            await dev.watch_briefly()
            raise
        return await totals(reader) if once and not stop.is_set() else None


async def _first_of(work: list[Coroutine[Any, Any, object]]) -> None:
    """Waits until one of them ends, cancels the others, and raises the exception of the first."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel_all(tasks)


async def totals(reader: AttendanceReader) -> dict[str, int]:
    """Totals of everything in Redis."""
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
    """Publishes the demo's events; with ``once`` returns when all of them are applied, else never, and plays rushes too."""
    producer = create_producer(settings, linger_ms=5)
    await uncancelled(producer.start())
    try:
        outgoing = demo.outgoing(TopicNames.of(settings.topic_prefix), time.time_ns() // 1000)
        if once:
            await publish.send(producer, outgoing)
        else:
            await asyncio.gather(_play(producer, outgoing), _play_rushes(producer, settings))
    finally:
        await producer.stop()
    expected = demo.expected() if once else None
    while await _served_totals(reader) != expected:  # noqa: ASYNC110 - Redis sends no notification
        await asyncio.sleep(0.1 if once else 60)


async def _served_totals(reader: AttendanceReader) -> dict[str, int]:
    """The totals; waits while readers are not served."""
    while True:
        try:
            return await totals(reader)
        except NotServing:
            await asyncio.sleep(0.1)


async def _play(producer: Any, outgoing: Iterator[publish.Outgoing]) -> None:
    while batch := list(islice(outgoing, _DEMO_EVENTS_PER_TICK)):
        await publish.send(producer, batch)
        await asyncio.sleep(_TICK_SECONDS)


async def _play_rushes(producer: Any, settings: Settings) -> None:
    """Sessions that are running now, beside the term of the data set, which is past: rushes, one after the other for ever."""
    for seed in itertools.count(1):
        made = scenarios.make(scenarios.ScenarioName.RUSH, seed)
        await simulate.play(producer, settings, made, 1, lambda _: None, asyncio.Event())


async def _show(reader: AttendanceReader, console: Console) -> None:
    """Shows live counts: a table on a terminal, elsewhere a line every 2 s."""
    if not console.is_terminal:
        while True:
            counts = await _served_totals(reader)
            console.print(" ".join(f"{name}={count}" for name, count in counts.items()))
            await asyncio.sleep(2)
    with Live(console=console, refresh_per_second=_REFRESHES_PER_SECOND) as live:
        while True:
            live.update(_table(await _served_totals(reader)))
            await asyncio.sleep(1 / _REFRESHES_PER_SECOND)


def _table(counts: dict[str, int]) -> Table:
    table = Table(title="live attendance (Ctrl-C to stop)")
    for name in counts:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{count:,}" for count in counts.values()))
    return table
