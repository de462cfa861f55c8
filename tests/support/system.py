"""A tenant of its own on given services: topics, worker processes, publishing, and what Redis and Kafka then say."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.commands import Command, shared_commands
from tests.support.held import arrivals_of, devices_of
from tests.support.oracle import Outcome
from tests.support.services import Broker, Redis
from tests.support.services.processes import spawn, tail_of_file, wait_until
from worker.cli.ask import Question, ask
from worker.kafka import create_producer
from worker.ops import topics as topic_ops
from worker.read_model.reader import AttendanceReader, ReaderError
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.topics import TopicNames, partition_of

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PYTHON = (sys.executable, "-m")
WORKER = (*PYTHON, "worker", "worker")


class WorkerProcess:
    """One `attendance worker`, or another program that serves, ended by its pid."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._process: Command | subprocess.Popen[bytes]
        if tuple(command[:2]) == PYTHON:
            module, *arguments = command[2:]
            self._process = shared_commands().start(*arguments, module=module, log=log, **environment)
        else:
            variables = [f"{name}={value}" for name, value in environment.items()]
            self._process = spawn(["env", *variables, *command], log=log, cwd=ROOT)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a machine that dies."""
        self._end(signal.SIGKILL)

    def terminate(self, timeout: float = 20) -> int:
        """SIGTERM; its exit code."""
        return self._end(signal.SIGTERM, timeout)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Its exit code, once it ended by itself."""
        return self._process.wait(timeout)

    @property
    def monitoring(self) -> str:
        """The address of its metrics and health, once it has logged that; empty before."""
        found = re.search(r"event=starting .*?metrics=(\S+)", self.log.read_text())
        return found[1] if found else ""

    def said(self) -> str:
        return tail_of_file(self.log, 200)

    def _end(self, number: int, timeout: float = 10) -> int:
        if self.running:
            self._process.send_signal(number)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
            raise


class System:
    """One tenant: its settings, its topics, its workers. Use as a context manager; leaving it kills every worker."""

    def __init__(self, kafka: Broker, redis: Redis, *, partitions: int = 4, **settings: Any) -> None:
        prefix = f"t{uuid4().hex[:10]}"
        given = {"broker": kafka.url, "redis": redis.url, "topic_prefix": prefix, "partitions": partitions, **settings}
        self.environment = {f"ATTENDANCE_{name.upper()}": str(value) for name, value in given.items()}
        self.environment.setdefault("ATTENDANCE_SESSION_TIMEOUT", "6s")
        self.environment.setdefault("ATTENDANCE_METRICS_BIND", "127.0.0.1:0")
        self._folder = tempfile.TemporaryDirectory(prefix="attendance-test-")
        self.environment.setdefault("ATTENDANCE_STORE", f"rocksdb://{self._folder.name}/rows")
        self.settings = Settings(_env_file=None, **{k[11:].lower(): v for k, v in self.environment.items()})  # type: ignore[call-arg]
        self.topics = TopicNames.of(prefix)
        self.workers: list[WorkerProcess] = []
        shared_commands()  # here, in the main thread

    def __enter__(self) -> "System":
        asyncio.run(topic_ops.create(self.settings))
        assert wait_until(self._topics_are_there, 20), "the broker does not show the topics it created"
        return self

    def _topics_are_there(self) -> bool:
        with contextlib.suppress(Exception):  # a broker that has just created them may refuse for a moment
            return asyncio.run(topic_ops.check(self.settings)) == []
        return False

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        self._folder.cleanup()

    def start_worker(self, command: Sequence[str] = WORKER, **environment: str) -> WorkerProcess:
        """Starts one worker; ``command`` another program that runs one."""
        log = Path(self._folder.name) / f"worker-{len(self.workers)}.log"
        worker = WorkerProcess(command, {**os.environ, **self.environment, **environment}, log)
        self.workers.append(worker)
        return worker

    def run_cli(self, *arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        """``attendance ARGUMENTS…`` with this tenant's settings."""
        command = shared_commands().start(*arguments, stdin=stdin, **{**self.environment, **environment})
        return subprocess.CompletedProcess(arguments, command.wait(120), command.out, command.err)

    def run_process(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """As `run_cli`, with an interpreter of its own: for variables that Python reads as it starts."""
        command = [sys.executable, "-m", "worker", *arguments]
        variables = {**os.environ, **self.environment, **environment}
        return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=120, check=False)

    def until_serving(self, timeout: float = 60) -> None:
        """Until every partition is live and fresh."""
        self.until(_serves, timeout, "serving")

    def until_applied(self, timeout: float = 60) -> None:
        """Until the watermark of every partition has reached the end of both topics."""
        ends = self.ends()

        async def applied(reader: AttendanceReader) -> bool:
            return await _serves(reader) and all(
                int(each.mark.get(f"{name}.offset", 0)) >= ends[topic][each.number]
                for each in await reader.status()
                for name, topic in (("events", self.topics.events), ("bookings", self.topics.bookings))
            )

        self.until(applied, timeout, "applied")

    def until_settled(self, timeout: float = 60) -> None:
        """Until all is applied, with what the workers themselves forwarded and appended again."""
        read = (self.topics.events, self.topics.bookings)
        deadline, ends = time.monotonic() + timeout, self.ends()
        while True:
            self.until_applied(timeout)
            # a batch is committed when all that came of it is sent
            assert wait_until(lambda: self._has_committed(read, ends), timeout), "the group does not commit"  # noqa: B023
            before, ends = ends, self.ends()
            if all(ends[topic] == before[topic] for topic in read):
                return
            assert time.monotonic() < deadline, "records are forwarded for ever"

    def _has_committed(self, topics: Sequence[str], ends: dict[str, list[int]]) -> bool:
        async def asking() -> dict[TopicPartition, Any]:
            admin = AIOKafkaAdminClient(**self.settings.kafka_client())
            await admin.start()
            try:
                return dict(await admin.list_consumer_group_offsets(self.settings.group))
            finally:
                await admin.close()

        found = {(tp.topic, tp.partition): at.offset for tp, at in asyncio.run(asking()).items()}
        return all(found.get((topic, n), 0) >= end for topic in topics for n, end in enumerate(ends[topic]))

    def until(self, condition: Callable[[AttendanceReader], Awaitable[bool]], timeout: float, what: str) -> None:
        """Asks the reader until the condition holds; fails with the workers' logs."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(ReaderError):
                if self.read(condition):
                    return
            time.sleep(0.1)
        try:
            status: Any = self.read(lambda reader: reader.status())
        except ReaderError as error:
            status = error
        raise AssertionError(f"not {what} after {timeout} s\n{status}\n{self.said()}")

    def said(self) -> str:
        """The ends of the logs of all workers."""
        return "\n---\n".join(worker.said() for worker in self.workers)

    def read(self, ask: Callable[[AttendanceReader], Awaitable[T]]) -> T:
        """What the reader answers."""

        async def reading() -> T:
            client = create_redis(self.settings)
            try:
                return await ask(AttendanceReader(client, self.settings.redis_namespace))
            finally:
                await client.aclose()

        return asyncio.run(reading())

    def publish(self, records: Iterable["Record"]) -> None:
        """Sends raw records, in order per partition."""

        async def sending() -> None:
            producer = create_producer(self.settings, linger_ms=5)
            await producer.start()
            try:
                sent = [
                    await producer.send(r.topic, key=r.key, value=r.value, headers=r.headers, partition=r.partition)
                    for r in records
                ]
                await asyncio.gather(*sent)
            finally:
                await producer.stop()

        asyncio.run(sending())

    def event(self, document: dict[str, Any], headers: Sequence[tuple[str, bytes]] = ()) -> "Record":
        """A structured event, keyed and in its partition as a device would send it."""
        return self._record(self.topics.events, document, headers)

    def booking(self, document: dict[str, Any]) -> "Record":
        """A booking record, keyed and in its partition."""
        return self._record(self.topics.bookings, document, ())

    def _record(self, topic: str, document: dict[str, Any], headers: Sequence[tuple[str, bytes]]) -> "Record":
        booking_id = document["data"]["bookingId"]
        partition = partition_of(booking_id, self.settings.partitions)
        return Record(topic, booking_id.encode(), json.dumps(document).encode(), list(headers), partition)

    def ends(self) -> dict[str, list[int]]:
        """End offset of each partition, by topic."""

        async def asking() -> dict[str, list[int]]:
            consumer = AIOKafkaConsumer(**self.settings.kafka_client())
            await consumer.start()
            try:
                wanted = [TopicPartition(t, p) for t in self.topics for p in range(self.settings.partitions)]
                ends = await consumer.end_offsets(wanted)
                return {t: [ends[TopicPartition(t, p)] for p in range(self.settings.partitions)] for t in self.topics}
            finally:
                await consumer.stop()

        return asyncio.run(asking())

    def consume(self, topic: str, partitions: int | None = None) -> list[Any]:
        """Every record of a topic, in the order of each partition; it has as many as the tenant, unless told otherwise."""

        async def reading() -> list[Any]:
            consumer = AIOKafkaConsumer(**self.settings.kafka_client(), auto_offset_reset="earliest")
            await consumer.start()
            try:
                tps = [TopicPartition(topic, p) for p in range(partitions or self.settings.partitions)]
                consumer.assign(tps)
                ends = await consumer.end_offsets(tps)
                await consumer.seek_to_beginning(*tps)
                records: list[Any] = []
                while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                    for found in (await consumer.getmany(timeout_ms=500)).values():
                        records += found
                return records
            finally:
                await consumer.stop()

        return asyncio.run(reading())

    def open_alerts_of_topic(self) -> dict[tuple[str, str, str | None], dict[str, Any]]:
        """The alerts topic as its compaction would leave it: the last record of each alert, where that says opened."""
        last = {record.key: record.value for record in self.consume(self.topics.alerts)}
        return {
            (data["kind"], data["bookingId"], data.get("sessionId")): _alert(data)
            for event in (json.loads(value) for value in last.values() if value is not None)
            if event["type"] == "attendance.mismatch.opened"
            for data in (event["data"],)
        }

    def outcome(self) -> Outcome:
        """Everything that Redis serves, in the oracle's shape."""
        return self.read(_outcome)


class Record:
    """One raw record."""

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]] | None = None,
        partition: int | None = None,
    ) -> None:
        self.topic, self.key, self.value, self.headers, self.partition = topic, key, value, headers or [], partition


async def attendances_of(reader: AttendanceReader, **fields: str) -> list[dict[str, Any]]:
    """All attendances that have these values, by id."""
    given = {"$and": [{name: value} for name, value in fields.items()]}
    return (await ask(reader, Question(filter=json.dumps(given)))).attendances


async def _serves(reader: AttendanceReader) -> bool:
    return all(each.state == "live" and each.lag is not None for each in await reader.status())


async def _outcome(reader: AttendanceReader) -> Outcome:
    sessions = await reader.sessions(100_000)
    attendances = {}
    tallies = {}
    for session in sessions:
        for each in await attendances_of(reader, sessionId=session):
            attendances[each["bookingId"], each["sessionId"]] = {k: v for k, v in each.items() if k != "id"}
            assert await reader.get(each["id"]) == each
        tally = await reader.session(session)
        assert tally is not None
        tallies[session] = {k: v for k, v in tally.items() if k not in ("sessionId", "freshness")}
    summaries = {}
    for booking in await reader.bookings():
        summary = await reader.booking(booking)
        assert summary is not None
        summaries[booking] = {k: v for k, v in summary.items() if k not in ("bookingId", "freshness")}
        assert {(booking, a["sessionId"]) for a in await attendances_of(reader, bookingId=booking)} == {
            pair for pair in attendances if pair[0] == booking
        }
    ranked = [(-each["noShowRate"], each["bookingId"]) for each in (await reader.no_shows(100_000))["bookings"]]
    assert ranked == sorted((-each["noShowRate"], name) for name, each in summaries.items() if each["noShowRate"] > 0)
    alerts = {(a["kind"], a["bookingId"], a.get("sessionId")): _alert(a) for a in await reader.alerts(limit=1_000_000)}
    return Outcome(attendances, tallies, summaries, alerts, await arrivals_of(reader, sessions), await devices_of(reader))


def _alert(data: Any) -> dict[str, Any]:
    attendance = data["attendance"]
    return {
        "openedAt": data["openedAt"],
        "attendance": attendance and {k: v for k, v in attendance.items() if k != "id"},
    }


@contextlib.contextmanager
def running(system: System, workers: int = 1) -> Iterator[System]:
    """A system with workers that serve."""
    with system:
        for _ in range(workers):
            system.start_worker()
        system.until_serving()
        yield system
