"""One worker: the Faust app with its agent, and the partitions from assignment to revocation."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from logging import INFO, WARNING
from time import monotonic, time
from typing import Any, cast

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidSessionTimeoutError, KafkaError
from faust.types import TP
from redis.exceptions import RedisError

from worker.engine import faust_consumer, faust_thread
from worker.engine.gathering import Gathering
from worker.engine.partition_appender import check_ends
from worker.engine.progress import Progress, waiting
from worker.engine.recovery import recover
from worker.engine.stores.base import Store
from worker.engine.watchdog import Stalled, Watchdog, ends_of
from worker.kafka import create_producer
from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.server import MonitoringServer
from worker.redis.client import Client, create_redis
from worker.settings import Settings, SettingsError, changed, installed_version
from worker.stream.app import create_app
from worker.stream.errors import WorkerCrashed
from worker.stream.garbage import tune_garbage_collector
from worker.stream.group import Group
from worker.stream.group_topic import ensure_erase_key
from worker.stream.partition import Partition
from worker.stream.resources import Resources, open_row_store, open_tables
from worker.stream.retry import SILENCE_SECONDS, until_done, waiting_calls
from worker.stream.state_reporter import REPORT_SECONDS, UNCONFIRMED_SECONDS, StateReporter
from worker.stream.stopping import Stopping
from worker.stream.targets import Target, read_targets
from worker.tasks import cancel_all, run_until, uncancelled
from worker.topics import TopicNames

log = structlog.get_logger(__name__)

_HEARTBEAT_SECONDS = 1.0
_CONFIRM_SECONDS = 0.5
_CHECK_LOGS_SECONDS = 50.0
#: A worker ends itself after no progress for so long and at least four session timeouts, seconds.
_STALL_SECONDS = 30.0
#: How long the steps of a stop may take, seconds. Together with the exit of the process: less than `stopping.STOP_SECONDS`.
_DRAIN_SECONDS = faust_consumer.LAST_DRAIN_SECONDS + faust_thread.COMMIT_SECONDS
_CANCEL_SECONDS, _LEAVE_SECONDS, _CLOSE_SECONDS = 1.0, 4.0, 0.5


class Worker:
    """Processes its partitions until it is stopped."""

    def __init__(self, settings: Settings, stopping: Stopping | None = None) -> None:
        """
        Args:
            stopping: the stop of the process, if that may begin before the worker does.
        """
        self.settings = settings
        self._stopping = stopping or Stopping()
        self.topics = TopicNames.of(settings.topic_prefix, settings.tables)
        self._partitions: dict[int, Partition] = {}
        self._targets: tuple[Target, ...] = ()
        """The namespaces that are written, the live one first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._metrics = WorkerMetrics(installed_version(), time)
        self._reporter = StateReporter(self._metrics, self.topics)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event, check: Callable[[], Coroutine[Any, Any, Settings]]) -> None:
        """Works until ``stop`` is set; then completes the batches in flight, commits and leaves the group.

        Args:
            stop: ends it.
            check: returns the settings, with the tables to use, once topics and settings are right; the port answers meanwhile.
                What it raises is raised.

        Raises:
            SettingsConflict: the tables or Redis were made with other settings, or the group writes to another Redis.
            TablesDropped: other tables are live, and these are not kept any more.
            SettingsError: the store for table rows cannot be used, or Kafka refuses the group or the session timeout.
            WorkerCrashed: an error that waiting does not cure.
        """
        with MonitoringServer(self.settings, self._metrics) as port:
            reports = asyncio.create_task(self._report())
            reports.add_done_callback(self._on_done)
            try:
                settings = await run_until(stop, check())
                if settings is not None and not stop.is_set():
                    self.settings = settings
                    self.topics = TopicNames.of(settings.topic_prefix, settings.tables)
                    await self._run_with(stop, port.address)
                    self._stopping.finish()
            finally:
                await cancel_all((reports,))

    async def _run_with(self, stop: asyncio.Event, address: str) -> None:
        """As `run`, once the check is done; its port answers at an address."""
        tune_garbage_collector()
        store = open_row_store(self.settings)
        producer, redis = create_producer(self.settings), create_redis(self.settings)
        try:
            targets = await run_until(stop, self._reach(producer, redis))
            if targets is not None:
                log.info("starting", version=installed_version(), metrics=address, **changed(self.settings))
                self._targets = targets
                await self._run(stop, producer, redis, store)
        except BaseException as error:
            self._stopping.begin(1, str(error) or repr(error))
            raise
        finally:
            self._stopping.begin(0)
            store.close()
            await self._stopping.step("the producer", producer.stop(), _CLOSE_SECONDS)
            await self._stopping.step("the connections to Redis", redis.aclose(), _CLOSE_SECONDS)

    async def _report(self) -> None:
        """Publishes the state of this worker for its port."""
        while True:
            if self._reporter.has_consumer:
                self._reporter.report(self._consumer, self._partitions, self._watchdog)
            else:
                self._reporter.report_start()
            await asyncio.sleep(REPORT_SECONDS)

    async def _reach(self, producer: AIOKafkaProducer, redis: Client) -> tuple[Target, ...]:
        """Waits until Kafka and Redis answer and the group accepts this worker; returns the namespaces to write."""
        address = self.settings.kafka_address
        await until_done("kafka", lambda: uncancelled(producer.start()), silence=SILENCE_SECONDS, address=address)
        self._group = Group(self.settings, producer, redis)
        await self._group.agree()
        self._erase_key = await until_done("kafka", lambda: ensure_erase_key(self.settings, producer))
        return await until_done("redis", lambda: read_targets(self.settings, redis))

    async def _run(self, stop: asyncio.Event, producer: AIOKafkaProducer, redis: Client, store: Store) -> None:
        gathering = Gathering()
        tables = open_tables(self.settings, store, gathering)
        resources = Resources(self.settings, producer, redis, *tables, self._metrics, self._erase_key, gathering)
        self._resources = resources
        self._app = create_app(self.settings, self._consume)
        self._app.on_partitions_assigned.connect(self._on_assigned)
        self._app.on_partitions_revoked.connect(self._cancel)
        self._watchdog = self._new_watchdog()
        started = asyncio.create_task(self._app.start())
        started.add_done_callback(self._on_done)
        stopped, crashed = asyncio.create_task(stop.wait()), asyncio.create_task(self._app._crashed.wait())  # noqa: SLF001
        works = (self._heartbeats(), self._confirm_ends(), self._check_logs(), resources.lease.keep(), self._watchdog.run())
        endless = [asyncio.create_task(work) for work in works]
        failures: list[asyncio.Future[Any]] = [self._failed, *endless]
        try:
            await asyncio.wait((stopped, crashed, *failures), return_when=asyncio.FIRST_COMPLETED)
            for task in failures:
                if task.done():
                    await task
            if crashed.done():
                raise WorkerCrashed(f"the worker crashed: {self._app.crash_reason!r}")
            self._stopping.begin(0)
        except Stalled as stalled:
            self._stopping.begin(1, str(stalled))
            raise WorkerCrashed(str(stalled)) from None
        except BaseException as error:
            self._stopping.begin(1, str(error) or repr(error))
            raise
        finally:
            self._reporter.stopping()
            await self._stop(started)
            self._resources.dead_letters.flush()
            await self._stopping.step("background tasks", cancel_all((stopped, crashed, started, *endless)), _CANCEL_SECONDS)

    def _new_watchdog(self) -> Watchdog:
        limit = max(_STALL_SECONDS, 4 * self.settings.session_timeout.total_seconds())
        seeking = limit + self._app.conf.broker_request_timeout
        return Watchdog(lambda: self._consumer, ends_of(self.settings.kafka_client()), limit, seeking)

    async def _stop(self, started: asyncio.Task[None]) -> None:
        if started.done() and not self._app.crashed and not self._failed.done():
            await self._stopping.step("batches in flight and their commit", self._consumer.drain_for_good(), _DRAIN_SECONDS)
        await self._stopping.step("the partitions' tasks", self._cancel(), _CANCEL_SECONDS)
        await self._stopping.step("the consumer, which leaves its group", self._app.stop(), _LEAVE_SECONDS)

    async def _consume(self, stream: Any) -> None:
        """The agent: delivers each batch to its partition, which acknowledges it after its effects."""
        async for event in stream.noack().events():
            for batch in self._consumer.batches(event):
                if batch.message.generation_id == self._app.consumer_generation_id:
                    self._partition(batch.message.partition).deliver(batch)

    @property
    def _consumer(self) -> faust_consumer.Consumer:
        return cast(faust_consumer.Consumer, self._app.consumer)

    def _partition(self, number: int) -> Partition:
        if number not in self._partitions:
            self._partitions[number] = Partition(number, self._resources, self._targets)
        return self._partitions[number]

    async def _on_assigned(self, *signaled: Any, **_: Any) -> None:
        _sender, assigned = signaled
        numbers = {tp.partition for tp in assigned}
        for table in self._resources.tables:
            for number in table.partitions - numbers:
                table.close(number)
        log.info("assigned", partitions=sorted(numbers))
        self._reporter.assigned(numbers)
        self._consumer.on_poll = self._resources.gathering.begin
        recovery = Progress()
        self._watchdog.progress = dict.fromkeys(numbers, recovery)
        self._spawn(recovery.follow(self._recover(numbers)))
        self._spawn(self._group.check())

    async def _cancel(self, *_: Any, **__: Any) -> None:
        """Cancels the work on all partitions, when they are revoked or the worker stops."""
        self._reporter.revoked()
        tasks, self._tasks = self._tasks, set()
        self._partitions.clear()
        await cancel_all(tasks)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or WorkerCrashed())

    async def _recover(self, numbers: set[int]) -> None:
        resources = self._resources
        await self._consumer.positioned.wait()
        start_offsets = self._consumer.start_offsets
        pending, appenders, client = set(numbers), resources.create_alert_appenders(numbers), self.settings.kafka_client()

        async def attempt() -> None:
            await check_ends(appenders, client)
            async with aclosing(recover(resources.tables, set(pending), client, self._reporter.recovery)) as recovered:
                async for number in recovered:
                    pending.discard(number)
                    committed = {tp.topic: offset for tp, offset in start_offsets.items() if tp.partition == number}
                    progress = self._watchdog.progress[number] = Progress()
                    self._spawn(progress.follow(self._partition(number).run(committed)))

        if pending:
            with waiting():  # a recovery detects stalls by itself
                await until_done("recovery", attempt)
        log.info("recovered", partitions=sorted(numbers))

    async def _heartbeats(self) -> None:
        """Each second: announces the namespace, and writes the heartbeats of the group and of each partition."""
        is_waiting = False
        while True:
            self._check_refusal()
            self._reporter.heartbeat_asked_at = monotonic()
            heartbeats = [partition.heartbeat(*self._topic_ends(number)) for number, partition in self._partitions.items()]
            of_worker = (self._follow_targets(), self._group.heartbeat())
            results = await asyncio.gather(*of_worker, *heartbeats, return_exceptions=True)
            self._reporter.heartbeat_asked_at = None
            error = next((result for result in results if isinstance(result, BaseException)), None)
            if error is not None and not isinstance(error, RedisError | OSError):
                raise error
            if (error is not None) != is_waiting:
                is_waiting = error is not None
                waiting_calls["heartbeat"] = is_waiting
                level, event = (WARNING, "waiting") if is_waiting else (INFO, "resumed")
                log.log(level, event, what="heartbeat", address=self.settings.redis_address, error=repr(error))
            self._resources.dead_letters.report()
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def _follow_targets(self) -> None:
        """Announces the namespace, and has the partitions write those that are registered now."""
        targets = await read_targets(self.settings, self._resources.redis, self._targets)
        if targets != self._targets:
            live = [each.namespace for each in targets if each.is_live]
            builds = [each.namespace for each in targets if not each.is_live]
            log.info("namespaces", live=live, builds=builds)
            self._targets = targets
            for partition in self._partitions.values():
                partition.write_to(targets)

    def _check_refusal(self) -> None:
        error = self._consumer.refusal
        if isinstance(error, InvalidSessionTimeoutError):
            timeout = f"{self.settings.session_timeout.total_seconds():g}s"
            raise SettingsError(
                f"ATTENDANCE_SESSION_TIMEOUT: Kafka refuses {timeout}: set a value that its group.min.session.timeout.ms and "
                "group.max.session.timeout.ms allow"
            )
        if error is not None:
            raise SettingsError(
                f"ATTENDANCE_TOPIC_PREFIX: Kafka refuses this worker as a member of the group {self.settings.group} "
                f"({error!r}): grant it the rights, or set another prefix if another program uses this group"
            )

    async def _confirm_ends(self) -> None:
        """Keeps the known ends of the topics at most about a second old, for the heartbeats; logs when Kafka is unavailable."""
        is_waiting = False
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            if not self._partitions:
                continue
            await self._consumer.confirm_ends()
            ends = [self._consumer.confirmed_end(tp) for tp in self._consumer.assignment()]
            age = max((monotonic() - end.asked_at for end in ends if end is not None), default=0.0)
            if (age > UNCONFIRMED_SECONDS) != is_waiting:
                is_waiting = not is_waiting
                level, event = (WARNING, "waiting") if is_waiting else (INFO, "resumed")
                log.log(level, event, what="kafka", address=self.settings.kafka_address)

    async def _check_logs(self) -> None:
        """Each minute: looks for foreign writes to the changelogs and alerts of this worker's partitions."""
        resources, client = self._resources, self.settings.kafka_client()
        while True:
            await asyncio.sleep(_CHECK_LOGS_SECONDS)
            # if the broker is unavailable, this is repeated in a minute
            with suppress(KafkaError, OSError, TimeoutError):
                await check_ends(list(resources.alerts.values()), client)
                for table in resources.tables:
                    await table.check(client)
                for partition in self._partitions.values():
                    partition.check_logs()

    def _topic_ends(self, number: int) -> tuple[dict[str, Any], dict[str, int]]:
        """Where a partition's topics end, as fields of the watermark; and how long ago Kafka confirmed that, by topic, ms."""
        fields, ages_ms, unreadable = dict[str, Any](), dict[str, int](), self._consumer.unreadable
        for name, topic in (("events", self.topics.events), ("bookings", self.topics.bookings)):
            tp = TP(topic, number)
            if (end := self._consumer.confirmed_end(tp)) is not None:
                fields |= {f"{name}.end": end.stable, f"{name}.held": end.high - end.stable}
                fields[f"{name}.unreadable"] = unreadable[tp].offset if tp in unreadable else ""
                ages_ms[name] = int((monotonic() - end.asked_at) * 1000)
        return fields, ages_ms
