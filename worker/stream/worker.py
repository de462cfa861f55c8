"""One worker: the Faust app with its one agent, the partitions it was given, and their life."""

import asyncio
import gc
import os
import ssl
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import faust
import structlog
from aiokafka import AIOKafkaProducer
from faust.types import TP
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.domain.rows import merge_attendance_rows, merge_booking_rows
from worker.ending import end
from worker.engine import transport
from worker.engine.effort import Effort, known_wait
from worker.engine.rebalance import SafeTableManager
from worker.engine.recovery import recover
from worker.engine.table import Table
from worker.engine.watchdog import Stalled, Watchdog, end_anyway, ends_of
from worker.read_model.client import create_redis
from worker.read_model.keys import namespace
from worker.read_model.writer import announce
from worker.settings import Settings
from worker.stream.errors import SettingsConflict, WorkerCrashed
from worker.stream.partition import Partition, Shared
from worker.stream.retry import until_done
from worker.topics import BATCH_BYTES, TopicNames, create_producer

log = structlog.get_logger(__name__)

MAX_POLL_RECORDS = 2000
_BEAT_SECONDS = 1.0
#: Young objects are looked at seldom, old ones practically never; see `_spare_the_collector`.
_COLLECT_AT = (50_000, 50, 1_000)
_COMMIT_SECONDS = 0.5
#: Without progress for so long, and at least four session timeouts, a worker ends itself.
_STALL_SECONDS = 30.0


def create_app(settings: Settings, consume: Callable[[Any], Coroutine[Any, Any, None]]) -> faust.App:
    """The Faust app: topics, group and assignment are Faust's; ``consume`` is its one agent."""
    transport.register()
    topics = TopicNames.of(settings.topic_prefix)
    timeout = settings.session_timeout.total_seconds()
    app = faust.App(
        settings.topic_prefix,
        broker=";".join(f"{transport.SCHEME}://{server}" for server in settings.bootstrap_servers),
        broker_credentials=_credentials(settings),
        # Faust prefers an environment variable to an argument; none has this prefix
        env_prefix="ATTENDANCE_FAUST_INTERNAL_",
        TableManager=SafeTableManager,
        store="memory://",
        # Faust makes the folder but, without tables of its own, writes nothing there: all workers share one
        datadir=str(Path(tempfile.gettempdir()) / f"attendance-worker-{os.getuid()}"),
        web_enabled=False,
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=MAX_POLL_RECORDS,
        broker_max_poll_interval=86_400,
        broker_commit_interval=_COMMIT_SECONDS,
        broker_session_timeout=timeout,
        broker_rebalance_timeout=timeout + transport.DRAIN_SECONDS,
        broker_heartbeat_interval=1.0,
    )
    schema = transport.RawSchema(key_type=bytes, value_type=bytes)
    app.agent(app.topic(topics.events, topics.bookings, schema=schema), name="attendance")(consume)
    return app


class Worker:
    """Folds what its partitions receive, until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topics = TopicNames.of(settings.topic_prefix)
        self._partitions: dict[int, Partition] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until ``stop`` is set; then ends its batches, commits and leaves the group.

        Raises:
            SettingsConflict: the tables or Redis were made with other settings.
            WorkerCrashed: something that cannot be waited out.
        """
        _spare_the_collector()
        producer, redis = create_producer(self.settings), create_redis(self.settings)
        try:
            await until_done("kafka", producer.start)
            await self._run(stop, producer, redis)
        finally:
            await producer.stop()
            await redis.aclose()

    async def _run(self, stop: asyncio.Event, producer: AIOKafkaProducer, redis: Redis) -> None:
        live = await self._announce(redis)
        attendance = Table(self.topics.attendance_changelog, merge_attendance_rows, BATCH_BYTES)
        bookings = Table(self.topics.bookings_changelog, merge_booking_rows, BATCH_BYTES)
        self._shared = Shared(self.settings, producer, redis, attendance, bookings, live)
        self._app = create_app(self.settings, self._consume)
        self._app.on_partitions_assigned.connect(self._on_assigned)
        self._app.on_partitions_revoked.connect(self._on_revoked)
        self._watchdog = self._new_watchdog()
        started = asyncio.create_task(self._app.start())
        started.add_done_callback(self._on_done)
        waits = [asyncio.create_task(wait) for wait in (stop.wait(), self._app._crashed.wait())]  # noqa: SLF001
        beat = asyncio.create_task(self._beat())
        lease = asyncio.create_task(self._shared.lease.keep())
        watch = asyncio.create_task(self._watchdog.run())
        try:
            awaited: list[asyncio.Future[Any]] = [*waits, self._failed, beat, watch]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._failed, beat, watch):
                if ended.done():
                    await ended
            if waits[1].done():
                raise WorkerCrashed(f"the worker crashed: {self._app.crash_reason!r}")
        except Stalled as stalled:
            end_anyway(str(stalled))
            raise WorkerCrashed(str(stalled)) from None
        finally:
            await self._stop(started)
            await end((*waits, beat, lease, watch, started))

    def _new_watchdog(self) -> Watchdog:
        limit = max(_STALL_SECONDS, 4 * self.settings.session_timeout.total_seconds())
        seeking = limit + self._app.conf.broker_request_timeout
        return Watchdog(lambda: self._consumer, ends_of(self.settings.kafka_client()), limit, seeking)

    async def _stop(self, started: asyncio.Task[None]) -> None:
        if started.done() and not self._app.crashed and not self._failed.done():
            await self._consumer.drain()
        await self._cancel()
        await self._app.stop()

    async def _announce(self, redis: Redis) -> str:
        base, count = self.settings.redis_namespace, self.settings.partitions
        live, found = await until_done("redis", lambda: announce(redis, base, namespace(base), count))
        if found != count:
            raise SettingsConflict(
                f"ATTENDANCE_PARTITIONS: the read models in Redis have {found} partitions, this worker has {count}; "
                "set the number they were made with, or another ATTENDANCE_NAMESPACE"
            )
        return live

    async def _consume(self, stream: Any) -> None:
        """The agent: hands each batch to its partition, which acknowledges it when its effects are out."""
        async for event in stream.noack().events():
            message = event.message
            if message.generation_id == self._app.consumer_generation_id:
                self._partition(message.partition).deliver(event)

    @property
    def _consumer(self) -> transport.Consumer:
        return cast(transport.Consumer, self._app.consumer)

    def _partition(self, number: int) -> Partition:
        if number not in self._partitions:
            self._partitions[number] = Partition(number, self._shared)
        return self._partitions[number]

    async def _on_assigned(self, *signaled: Any, **_: Any) -> None:
        _sender, assigned = signaled
        numbers = {tp.partition for tp in assigned}
        for table in (self._shared.attendance, self._shared.bookings):
            for number in table.partitions - numbers:
                table.close(number)
        log.info("assigned", partitions=sorted(numbers))
        recovery = Effort()
        self._watchdog.efforts = dict.fromkeys(numbers, recovery)
        self._spawn(recovery.follow(self._recover(numbers)))

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        await self._cancel()

    async def _cancel(self) -> None:
        tasks, self._tasks = self._tasks, set()
        self._partitions.clear()
        await end(tasks)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or WorkerCrashed())

    async def _recover(self, numbers: set[int]) -> None:
        shared = self._shared
        tables = (shared.attendance, shared.bookings)
        await self._consumer.positioned.wait()
        committed = self._consumer.committed
        waiting = set(numbers)

        async def attempt() -> None:
            async for number in recover(tables, set(waiting), self.settings.kafka_client()):
                waiting.discard(number)
                ours = {tp.topic: offset for tp, offset in committed.items() if tp.partition == number}
                effort = self._watchdog.efforts[number] = Effort()
                self._spawn(effort.follow(self._partition(number).run(ours)))

        if waiting:
            with known_wait():  # it has a guard of its own against standing still
                await until_done("recovery", attempt)
        log.info("recovered", partitions=sorted(numbers))

    async def _beat(self) -> None:
        """Each second: the live namespace, and each partition's heartbeat."""
        away = False
        while True:
            try:
                await announce(
                    self._shared.redis, self.settings.redis_namespace, self._shared.namespace, self.settings.partitions
                )
                for partition in list(self._partitions.values()):
                    await partition.beat(self._ends(partition.number))
                away = False
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("waiting", what="redis", error=repr(error))
                away = True
            await asyncio.sleep(_BEAT_SECONDS)

    def _ends(self, number: int) -> dict[str, int]:
        topics = {"events": self.topics.events, "bookings": self.topics.bookings}
        ends = {name: self._consumer.highwater(TP(topic, number)) for name, topic in topics.items()}
        return {name: end for name, end in ends.items() if end is not None}


def _spare_the_collector() -> None:
    """Rows and bookings hold no cycles, but a full collection walks them all: 37 % of a worker's CPU at 50,000 bookings."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AT)


def _credentials(settings: Settings) -> Any:
    if settings.broker_security == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=settings.broker_ca_file) if "SSL" in settings.broker_security else None
    if settings.broker_security == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=settings.broker_username,
        password=settings.broker_password.get_secret_value(),
        mechanism=settings.broker_sasl_mechanism,
        ssl_context=context,
    )
