"""New tables beside the live ones: loaded from topics and archives, and continued by workers, they are what the oracle has."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from aiokafka import TopicPartition

from tests.integration.test_main_job import World
from tests.support import oracle
from tests.support.services import Broker, Redis
from tests.support.station import trim
from tests.support.system import Record, System, running
from worker.domain.erasures import ERASED_PREFIX
from worker.engine.table import Table
from worker.ops import load_partitions, topics
from worker.ops.archive_format import Gap, read_manifest, write_manifest
from worker.ops.coverage import LoadError, Part
from worker.ops.load_messages import Share
from worker.ops.load_sources import read_part
from worker.ops.table_loader import load
from worker.read_model import builds, operations
from worker.read_model.build_keys import open_partitions
from worker.read_model.builds import Build, BuildState, Namespace
from worker.read_model.operations import Operations, Running, State
from worker.read_model.writer import PartitionWriter
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.topics import TopicNames

T = TypeVar("T")
PARTITIONS = 2


@pytest.fixture
def hall(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A running system in which half of a world has happened."""
    # in memory: workers, and those that they start for other tables, end with no file open
    with running(System(kafka, redis_server, partitions=PARTITIONS, store="memory://")) as system:
        yield system


class Loading:
    """The build of an operation, and the tables 2 from which its namespace is filled."""

    def __init__(self, system: System, folder: Path, *, archives: bool = False, **settings: Any) -> None:
        self.system = system
        self.archives = [folder / "archive"] if archives else []
        self.settings = settings_with(system, **{"tables": "2", "store": f"rocksdb://{folder}/rows", **settings})
        self.reached = 0
        self.operation, self.name = with_redis(system, self._begin)

    async def _begin(self, client: Any) -> tuple[str, str]:
        """The operation, and the namespace of its build."""
        base = self.settings.redis_namespace
        running = await Operations(client, base).begin("rebuild", f"{base} read models", {}, {})
        operation, name = running.operation.id, await builds.reserve(client, base)
        build = Namespace(name, PARTITIONS, "2")
        await open_partitions(client, build, operation)
        await builds.begin(client, base, Build(build, operation, BuildState.LOADING, self.settings.shaping()))
        await running.pause()
        return operation, name

    def run(self, *, refold: bool = True, is_stopped: bool = False) -> bool:
        """Loads, or goes on with it; in vain if it is stopped as it begins."""
        return with_redis(self.system, lambda client: self._run(client, refold, is_stopped))

    async def _run(self, client: Any, refold: bool, is_stopped: bool) -> bool:
        running = await Operations(client, self.settings.redis_namespace).resume(self.operation, "rebuild")
        stop = asyncio.Event()
        if is_stopped:
            stop.set()

        def progress(reached: int) -> None:
            self.reached = reached

        async def work() -> bool | State:
            is_loaded = await load(
                self.settings,
                self.system.settings,
                client,
                running,
                Namespace(self.name, PARTITIONS, "2"),
                self.archives,
                refold=refold,
                stop=stop,
                progress=progress,
            )
            return State.READY if is_loaded else False

        return await running.run_until(stop, work())

    def run_share(self, *, refold: bool = True, stop_after: int | None = None) -> int:
        """All partitions in this process, as in one of a load; stops after so many offsets. Returns how many are loaded."""
        archives, live = [str(each) for each in self.archives], self.system.settings.tables
        share = Share([*range(PARTITIONS)], self.name, self.operation, live, archives, refold)
        reached, loaded, stop = dict[TopicPartition, int](), list[int](), asyncio.Event()

        def on_reached(tp: TopicPartition, count: int) -> None:
            reached[tp] = count
            self.reached = sum(reached.values())
            if stop_after is not None and self.reached >= stop_after:
                stop.set()

        async def work(client: Any) -> None:
            await topics.create(self.settings)
            await load_partitions.load_partitions(self.settings, client, share, stop, on_reached, loaded.append)

        with_redis(self.system, work)
        return len(loaded)

    def take_over(self) -> None:
        """Workers of the new tables go on from there, and readers are switched to the build."""
        with_redis(self.system, self._register)
        environment = {f"ATTENDANCE_{name.upper()}": f"{value}" for name, value in changes(self.settings, self.system).items()}
        self.system.environment |= environment
        self.system.start_worker()
        with_redis(self.system, self._switch)
        self.system.settings = self.settings
        self.system.until_serving()

    async def _register(self, client: Any) -> None:
        build = Build(Namespace(self.name, PARTITIONS, "2"), self.operation, BuildState.FILLING, self.settings.shaping(), "r")
        await builds.update(client, self.settings.redis_namespace, build)

    async def _switch(self, client: Any) -> None:
        base, shaping = self.settings.redis_namespace, self.system.settings.shaping()
        await builds.switch(client, base, self.name, self.operation, "r", shaping)


def settings_with(system: System, **changed: Any) -> Settings:
    given = {name[11:].lower(): value for name, value in system.environment.items()} | changed
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


def changes(settings: Settings, system: System) -> dict[str, str]:
    """The settings that workers of new tables have otherwise than those of the live ones."""
    other = system.settings.shaping()
    changed = {name: f"{value // 1_000_000}s" for name, value in settings.shaping().items() if value != other[name]}
    return changed | {"tables": settings.tables}


def with_redis(system: System, work: Callable[[Any], Awaitable[T]]) -> T:
    async def working() -> T:
        client = create_redis(system.settings)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(working())


async def read_builds(client: Any, system: System) -> tuple[Build, ...]:
    return (await builds.read_registry(client, system.settings.redis_namespace)).builds


def publish_half(system: System, world: World, half: int) -> None:
    """The first half of what happens in a world, or the second one."""
    records = world.records(system, random.Random(7))
    system.publish(records[: len(records) // 2] if half == 0 else records[len(records) // 2 :])
    system.until_settled()


def archive(system: System, folder: Path, *arguments: str) -> None:
    done = system.run_cli("archive", str(folder), "--yes", "--json", *arguments)
    assert done.returncode == 0, done.stderr


def delete_events(system: System) -> None:
    """Retention deletes all events that there are."""
    for partition, end in enumerate(system.ends()[system.topics.events]):
        asyncio.run(trim(system.settings.kafka_address, system.topics.events, end, partition))


def verified(system: System, *arguments: str) -> dict[str, Any]:
    done = system.run_cli("verify", "--json", *arguments)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_rows_are_copied_into_tables_that_workers_continue(hall: System, tmp_path: Path) -> None:
    world = World(seed=12, events=900, strays=True)
    publish_half(hall, world, 0)
    loading = Loading(hall, tmp_path)
    assert loading.run(refold=False)
    publish_half(hall, world, 1)
    loading.take_over()
    assert hall.outcome() == world.outcome()
    assert hall.open_alerts_of_topic() == world.outcome().alerts
    assert verified(hall)["differences"] == []


@pytest.mark.slow
def test_what_another_tolerance_makes_of_all_events(hall: System, tmp_path: Path) -> None:
    world = World(seed=13, events=900)
    publish_half(hall, world, 0)
    loading = Loading(hall, tmp_path, clock_tolerance="0s")
    assert loading.run()
    publish_half(hall, world, 1)
    assert hall.outcome() == world.outcome(), "what is live stays as it is"
    loading.take_over()
    expected = oracle.outcome(world.deliveries, world.bookings, oracle.Rules(clock_tolerance=0))
    assert hall.outcome() == expected != world.outcome()
    # what was published of the old tables is not what the new ones say
    assert {each["key"] for each in verified(hall)["differences"]} == {"alerts topic"}
    verified(hall, "--repair", "--yes")
    assert hall.open_alerts_of_topic() == expected.alerts
    assert verified(hall)["differences"] == []


@pytest.mark.slow
def test_an_erased_booking_stays_erased_without_its_events(hall: System, tmp_path: Path) -> None:
    """Its marker is in the live tables alone: topic and archive have the events before, and not the erasure."""
    world = World(seed=16, events=300)
    publish_half(hall, world, 0)
    publish_half(hall, world, 1)
    done = hall.run_cli("erase", "--booking", "BK-3", "--yes")
    assert done.returncode == 0, done.stderr
    hall.until_settled()
    before = hall.outcome()
    archive(hall, tmp_path / "archive", "--compress", "none")
    forget_erasures(tmp_path / "archive")
    delete_events(hall)
    loading = Loading(hall, tmp_path, archives=True)
    assert loading.run()
    loading.take_over()
    after = hall.outcome()
    # where the events of the erasures came from is no part of a booking
    assert after._replace(devices={}) == before._replace(devices={})
    assert verified(hall)["differences"] == []
    names = TopicNames.of(hall.settings.topic_prefix, "2")
    last = {record.key: record.value for record in hall.consume(names.attendance_changelog)}
    assert [key for key, value in last.items() if b"BK-3" in key and value is not None] == []
    assert any(ERASED_PREFIX in key for key in last)


def forget_erasures(folder: Path) -> None:
    """Takes the events booking.erased out of an archive."""
    manifest = read_manifest(folder)
    assert manifest is not None
    for index, file in enumerate(manifest.files):
        path = folder / file.name
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if b"booking.erased" not in line]
        path.write_bytes(b"".join(lines))
        changed = {"size": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest(), "count": len(lines)}
        manifest.files[index] = msgspec.structs.replace(file, **changed)
    write_manifest(folder, manifest)


def test_what_neither_topic_nor_archive_has_is_refused(hall: System, tmp_path: Path) -> None:
    events = hall.topics.events
    hall.publish(Record(events, b"k", b"v", [], partition) for partition in range(PARTITIONS) for _ in range(30))
    hall.until_settled()
    archive(hall, tmp_path)
    hall.publish(Record(events, b"k", b"v", [], 1) for _ in range(30))
    hall.until_settled()
    for partition, offset in ((0, 20), (1, 45)):
        asyncio.run(trim(hall.settings.kafka_address, events, offset, partition))
    for archives, missing in (([], [(0, 0, 20), (1, 0, 45)]), (["--archives", str(tmp_path)], [(1, 30, 45)])):
        done = hall.run_cli("rebuild", "--refold", "--yes", *archives)
        assert (done.returncode, done.stdout) == (1, "")
        named = [line for line in done.stderr.splitlines() if "neither in the topic nor in an archive" in line]
        assert named == [f"{Gap(events, *each)} are neither in the topic nor in an archive" for each in missing]
    assert with_redis(hall, lambda client: read_builds(client, hall)) == ()


def test_records_that_are_deleted_meanwhile_end_a_load(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server, partitions=1) as system:
        tp = TopicPartition(system.topics.events, 0)
        system.publish([Record(tp.topic, b"k", b"v", [], 0)] * 10)
        asyncio.run(trim(kafka.bootstrap, tp.topic, 4))

        async def reading() -> list[int]:
            client = system.settings.kafka_client()
            return [record.offset async for each in read_part(client, tp, Part(0, 10, []), 0) for record in each.records]

        with pytest.raises(LoadError, match="records from offset 0 on were deleted meanwhile"):
            asyncio.run(reading())


@pytest.mark.slow
def test_a_load_that_was_stopped_goes_on(hall: System, tmp_path: Path) -> None:
    world = World(seed=14, events=600)
    publish_half(hall, world, 0)
    archive(hall, tmp_path / "archive")
    delete_events(hall)
    publish_half(hall, world, 1)
    loading = Loading(hall, tmp_path, archives=True)
    assert not loading.run(is_stopped=True)
    assert loading.run_share(stop_after=1) == 0
    first = loading.reached
    assert loading.run_share(stop_after=first + 1) < PARTITIONS
    assert loading.reached > first
    assert loading.run()
    total = sum(hall.ends()[topic][number] for topic in hall.topics[:2] for number in range(PARTITIONS))
    assert loading.reached == total
    loading.take_over()
    assert hall.outcome() == world.outcome()
    assert verified(hall)["differences"] == []


def kill_at(moment: int, work: Callable[[], object]) -> int:
    """Runs work in a process that is killed before its write of this number; how many there are, if it ends."""
    context = get_context("fork")
    done = context.Value("i", 0)

    def working() -> None:
        numbers = count(1)

        def counted(write: Any) -> Any:
            async def before(*given: Any, **named: Any) -> Any:
                if next(numbers) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return await write(*given, **named)

            return before

        for owner, name in ((Table, "flush"), (PartitionWriter, "apply"), (PartitionWriter, "end_repair"), (Running, "save")):
            setattr(owner, name, counted(getattr(owner, name)))
        load_partitions.commit = counted(load_partitions.commit)
        work()
        done.value = next(numbers) - 1

    process = context.Process(target=working)
    process.start()
    process.join(60)
    assert process.exitcode == (0 if done.value else -signal.SIGKILL)
    return int(done.value)


@pytest.mark.slow
@pytest.mark.parametrize("refold", [True, False], ids=["refold", "copy"])
def test_killed_at_any_moment_a_load_goes_on(
    refold: bool, hall: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what was killed may be resumed at once
    monkeypatch.setattr(operations, "STALE_SECONDS", 0.0)
    world, seeded = World(seed=15, events=300), random.Random(15)
    publish_half(hall, world, 0)
    loading = Loading(hall, tmp_path, store="memory://")
    for run in (loading.run_share, loading.run):
        # later each time, since what is done may be done again
        moment = 1
        while not kill_at(moment, lambda: run(refold=refold)):  # noqa: B023 - it is called at once
            moment += seeded.randrange(1, 4)
    publish_half(hall, world, 1)
    loading.take_over()
    assert hall.outcome() == world.outcome()
    assert verified(hall)["differences"] == []


def test_archives_and_topics_become_tables_that_workers_continue(hall: System, tmp_path: Path) -> None:
    world = World(seed=11, events=1500, strays=True)
    publish_half(hall, world, 0)
    archive(hall, tmp_path / "archive")
    delete_events(hall)
    publish_half(hall, world, 1)
    alerts = hall.open_alerts_of_topic()
    ends = hall.ends()
    loading = Loading(hall, tmp_path, archives=True)
    assert loading.run()
    assert hall.ends() == ends, "nothing is published"
    loading.take_over()
    assert hall.outcome() == world.outcome()
    assert hall.open_alerts_of_topic() == alerts
    assert verified(hall)["differences"] == []
