"""Archives of topics on real services: what is written is what the topics hold, once, whatever interrupts it."""

import asyncio
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from subprocess import PIPE, Popen, run
from typing import Any, NamedTuple

import pytest

from tests.engine.test_log_ends import Writer
from tests.support.services import Broker, Redis
from tests.support.station import trim
from tests.support.system import ROOT, Record, System
from worker.cli.long_commands import get_operation
from worker.ops import archive as archive_ops
from worker.ops import archive_plan, archive_verify
from worker.ops.archive_format import (
    ArchivedRecord,
    ArchiveError,
    ArchiveFile,
    Gap,
    encode_line,
    locked,
    read_manifest,
    write_manifest,
)
from worker.ops.archive_plan import Bound, Compression, Plan
from worker.ops.archive_reader import find_sources, read_records
from worker.ops.archive_verify import Verified
from worker.ops.topics import TopicsError
from worker.read_model import operations
from worker.read_model.operations import OperationError, Operations
from worker.redis.client import create_redis

#: File operations that `kill_at` counts.
FILE_EVENTS = {"open", "os.rename", "os.remove"}


@pytest.fixture(scope="module")
def tenant(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """Two partitions: 3,000 events each, and a few odd records of both topics."""
    with System(kafka, redis_server, partitions=2) as system:
        events, bookings = system.topics[:2]
        system.publish(Record(events, b"k%d" % n, b'{"number": %d}' % n, [("h", b"%d" % n)], n % 2) for n in range(6000))
        odd = (b"", b"\xff\0\n", 'é\u2028😀"\\'.encode(), None)
        pairs = [(key, value) for key in odd for value in odd if (key, value) != (None, None)] + [(b"large", b"x" * 700_000)]
        system.publish(Record(events, key, value, [("", key or b""), ("é", b"\xff")], 0) for key, value in pairs)
        system.publish(Record(bookings, key, value, [], 0) for key, value in pairs if key is not None)
        yield system


def planned(system: System, folder: Path, *bounds: Bound | None, **options: Any) -> Plan:
    return asyncio.run(archive_plan.make_plan(system.settings, folder, system.topics[:2], *bounds, **options))


class Written(NamedTuple):
    """What an archive has written; the counts are of the whole operation."""

    operation_id: str
    counts: Mapping[str, int]
    gaps: list[Gap]
    is_stopped: bool


def written(system: System, plan: Plan, operation_id: str | None = None, stop_after: int | None = None) -> Written:
    """Writes what is planned; ``stop_after`` interrupts it after that many offsets."""

    async def writing() -> Written:
        stop = asyncio.Event()

        def progress(done: int) -> None:
            if stop_after is not None and done >= stop_after:
                stop.set()

        client = create_redis(system.settings)
        try:
            known = Operations(client, system.settings.redis_namespace)
            running = await (archive_ops.begin(known, plan) if operation_id is None else known.resume(operation_id, "archive"))
            is_done = await running.run_until(stop, archive_ops.write(system.settings, plan, running, progress, stop))
            return Written(running.operation.id, running.operation.counts, archive_plan.gaps_of(plan), not is_done)
        finally:
            await client.aclose()

    with locked(plan.folder):
        return asyncio.run(asyncio.wait_for(writing(), 60))


def verified(system: System, folder: Path, **options: Any) -> Verified:
    return asyncio.run(archive_verify.verify(system.settings, folder, lambda _: None, asyncio.Event(), **options))


def operation(system: System, operation_id: str) -> dict[str, Any]:
    return get_operation(system.settings, operation_id).document()


def left_of(system: System, operation_id: str) -> Plan:
    """What is left of the plan of an operation."""
    return archive_plan.plan_of(get_operation(system.settings, operation_id))


def fields(record: Any) -> tuple[Any, ...]:
    headers = tuple(map(tuple, record.headers))
    return (record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)


def held(system: System) -> list[tuple[Any, ...]]:
    """Every record of both topics, by partition and offset."""
    return sorted((fields(each) for topic in system.topics[:2] for each in system.consume(topic)), key=lambda each: each[:3])


def archived(folder: Path) -> list[tuple[Any, ...]]:
    return [fields(each) for each in read_records(find_sources([folder]))]


def files_of(folder: Path) -> list[ArchiveFile]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest.in_order()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock", "manifest.json"}


@pytest.mark.parametrize("compression", Compression)
def test_an_archive_is_what_the_topics_hold(compression: Compression, tenant: System, tmp_path: Path) -> None:
    result = written(tenant, planned(tenant, tmp_path, compression=compression))
    expected = held(tenant)
    assert archived(tmp_path) == expected
    assert (result.counts["records"], result.gaps, result.is_stopped) == (len(expected), [], False)
    assert names(tmp_path) == {file.name for file in files_of(tmp_path)}
    assert sum((tmp_path / name).stat().st_size for name in names(tmp_path)) == result.counts["bytes"]
    checked = verified(tenant, tmp_path)
    assert (checked.records, checked.compared, checked.problems) == (len(expected), len(expected), [])
    shown = operation(tenant, result.operation_id)
    assert (shown["state"], shown["counts"]["records"], shown["position"]) == ("DONE", len(expected), shown["end"])


def test_the_next_archive_goes_on_where_it_ended(tenant: System, tmp_path: Path) -> None:
    written(tenant, planned(tenant, tmp_path))
    before = files_of(tmp_path)
    tenant.publish([Record(tenant.topics.events, b"k", b"new", [], 1)] * 3)
    plan = planned(tenant, tmp_path, compression=Compression.GZIP)
    assert plan.total == 3
    assert written(tenant, plan).counts["records"] == 3
    assert archived(tmp_path) == held(tenant)
    assert next(file for file in files_of(tmp_path) if file not in before).name.endswith(".jsonl.gz")
    assert written(tenant, planned(tenant, tmp_path)).counts["files"] == 0
    assert verified(tenant, tmp_path).problems == []


def test_a_window_is_archived_once(tenant: System, tmp_path: Path) -> None:
    def offsets() -> list[int]:
        return [
            offset for topic, partition, offset, *_ in archived(tmp_path) if (topic, partition) == (tenant.topics.events, 1)
        ]

    first, last = Bound(100, is_time=False), Bound(200, is_time=False)
    written(tenant, planned(tenant, tmp_path, first, last))
    assert offsets() == [*range(100, 200)]
    written(tenant, planned(tenant, tmp_path, Bound(150, is_time=False), Bound(250, is_time=False)))
    assert offsets() == [*range(100, 250)]
    assert written(tenant, planned(tenant, tmp_path, Bound(2**52, is_time=True))).counts["records"] == 0
    written(tenant, planned(tenant, tmp_path, Bound(0, is_time=True), last))
    assert offsets() == [*range(250)]
    written(tenant, planned(tenant, tmp_path))
    assert archived(tmp_path) == held(tenant)
    assert verified(tenant, tmp_path).problems == []


def test_a_file_ends_at_its_size(tenant: System, tmp_path: Path) -> None:
    plan = planned(tenant, tmp_path, compression=Compression.NONE, rotate_bytes=64 * 1024)
    written(tenant, plan)
    files = [file for file in files_of(tmp_path) if (file.topic, file.partition) == (tenant.topics.events, 1)]
    assert len(files) >= 3
    assert files[0].begin == 0
    assert [file.begin for file in files[1:]] == [file.end for file in files[:-1]]
    assert all(file.size >= 64 * 1024 for file in files[:-1])
    assert archived(tmp_path) == held(tenant)


def test_what_was_interrupted_goes_on(tenant: System, tmp_path: Path) -> None:
    expected = held(tenant)
    result = written(tenant, planned(tenant, tmp_path), stop_after=1)
    assert result.is_stopped
    assert operation(tenant, result.operation_id)["state"] == "PAUSED"
    assert 0 < len(archived(tmp_path)) < len(expected)
    plan = left_of(tenant, result.operation_id)
    written(tenant, plan, result.operation_id)
    assert archived(tmp_path) == expected
    shown = operation(tenant, result.operation_id)
    assert (shown["state"], shown["counts"]["records"]) == ("DONE", len(expected))
    with pytest.raises(OperationError, match="nothing to resume"):
        left_of(tenant, result.operation_id)


def test_killed_after_a_resume_it_keeps_its_position(tenant: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(sys.modules[__name__], "FILE_EVENTS", {"os.rename"})
    result = written(tenant, planned(tenant, tmp_path), stop_after=1)
    before = operation(tenant, result.operation_id)["position"]
    assert before
    plan = left_of(tenant, result.operation_id)
    # the first rename is that of the manifest as it was
    assert kill_at(tmp_path, 2, lambda: written(tenant, plan, result.operation_id)) == 0
    assert operation(tenant, result.operation_id)["position"] == before


def test_the_next_archive_takes_over_what_was_interrupted(tenant: System, tmp_path: Path) -> None:
    paused = written(tenant, planned(tenant, tmp_path), stop_after=1)
    window = written(tenant, planned(tenant, tmp_path / "other"), stop_after=1)
    written(tenant, planned(tenant, tmp_path))
    assert archived(tmp_path) == held(tenant)
    assert operation(tenant, paused.operation_id)["state"] == "ABORTED"
    assert operation(tenant, window.operation_id)["state"] == "PAUSED"
    assert tenant.run_cli("archive", "--abort", window.operation_id).returncode == 0
    assert operation(tenant, window.operation_id)["state"] == "ABORTED"


def kill_at(folder: Path, moment: int, work: Callable[[], object]) -> int:
    """Runs work in a process that is killed before its file operation of this number in the folder; their number if it ends."""

    def working(done: Any) -> None:
        numbers = count(1)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in FILE_EVENTS and str(arguments[0]).startswith(str(folder)) and next(numbers) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        done.value = next(numbers) - 1

    context = get_context("fork")
    done = context.Value("i", 0)
    process = context.Process(target=working, args=(done,))
    process.start()
    process.join(60)
    assert process.exitcode == (0 if done.value else -signal.SIGKILL)
    return int(done.value)


def test_killed_at_any_moment_each_record_is_there_once(
    tenant: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what was killed may be resumed at once
    monkeypatch.setattr(operations, "STALE_SECONDS", 0.0)
    expected, seeded = held(tenant), random.Random(15)
    options = {"compression": Compression.NONE, "rotate_bytes": 64 * 1024}
    moments = kill_at(tmp_path / "whole", 0, lambda: written(tenant, planned(tenant, tmp_path / "whole", **options)))
    assert moments > 30
    for moment in seeded.sample(range(5, moments), 10):
        folder = tmp_path / str(moment)
        assert kill_at(folder, moment, lambda folder=folder: written(tenant, planned(tenant, folder, **options))) == 0  # type: ignore[misc]
        if seeded.random() < 0.5:
            written(tenant, planned(tenant, folder, **options))
        else:
            (left,) = [each for each in all_operations(tenant) if each["target"].endswith(str(folder))]
            assert left["state"] == "PAUSED"
            written(tenant, left_of(tenant, left["id"]), left["id"])
        assert archived(folder) == expected
        assert verified(tenant, folder, with_topics=False).problems == [], "nothing is left behind"
        assert names(folder) == {file.name for file in files_of(folder)}


@pytest.mark.slow
def test_killed_before_any_rename_it_verifies(tenant: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is complete belongs to the archive at once, also if the next run compresses in another way."""
    monkeypatch.setattr(operations, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(sys.modules[__name__], "FILE_EVENTS", {"os.rename"})
    expected, ended = held(tenant), 0
    # the first one is that of the first manifest
    for moment in count(2):
        folder = tmp_path / str(moment)
        ended = kill_at(folder, moment, lambda folder=folder: written(tenant, planned(tenant, folder)))  # type: ignore[misc]
        assert verified(tenant, folder, with_topics=False).problems == [], moment
        if ended:
            break
        written(tenant, planned(tenant, folder, compression=Compression.GZIP))
        assert archived(folder) == expected, moment
        assert names(folder) == {file.name for file in files_of(folder)}, moment
    assert ended > 6


def all_operations(system: System) -> list[dict[str, Any]]:
    async def asking() -> list[dict[str, Any]]:
        client = create_redis(system.settings)
        try:
            return [each.document() for each in await Operations(client, system.settings.redis_namespace).all()]
        finally:
            await client.aclose()

    return asyncio.run(asking())


def test_two_archives_to_one_folder_are_refused(tenant: System, tmp_path: Path) -> None:
    plan = planned(tenant, tmp_path)
    with locked(tmp_path), pytest.raises(ArchiveError, match="another process archives to it"), locked(tmp_path):
        raise AssertionError

    async def elsewhere() -> None:
        """Somebody who holds the operation, but not the lock, as on a file system without locks."""
        client = create_redis(tenant.settings)
        try:
            known = Operations(client, tenant.settings.redis_namespace)
            held_by = await known.begin("archive", plan.target, plan.request(), {})
            with pytest.raises(OperationError, match=held_by.operation.id):
                await archive_ops.begin(known, plan)
            await held_by.finish()
        finally:
            await client.aclose()

    asyncio.run(elsewhere())
    assert names(tmp_path) == set()


def test_a_full_disk_is_one_line_and_harms_nothing(tenant: System, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker",
        "archive",
        str(tmp_path),
        "--compress",
        "none",
        "--rotate-size",
        "1GiB",
        "--yes",
        "--json",
    ]
    environment = {**os.environ, **tenant.environment}
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # noqa: E731
    done = run(command, capture_output=True, env=environment, cwd=ROOT, timeout=60, check=False, preexec_fn=limit)
    last = done.stderr.decode().splitlines()[-1]
    assert (done.returncode, done.stdout) == (1, b"")
    assert last.startswith(f"{tmp_path}: File too large: make room, then run the command again")
    assert names(tmp_path) == {file.name for file in files_of(tmp_path)}
    assert verified(tenant, tmp_path).problems == []
    written(tenant, planned(tenant, tmp_path))
    assert archived(tmp_path) == held(tenant)


def test_ctrl_c_pauses_and_says_how_to_resume(tenant: System, tmp_path: Path) -> None:
    program = (
        "import os, signal, worker.ops.archive_writer as ops\n"
        "append = ops.FileWriter.append\n"
        "ops.FileWriter.append = lambda *args: (append(*args), os.kill(os.getpid(), signal.SIGINT))\n"
        "from worker.cli.commands import main; main()\n"
    )
    environment = {**os.environ, **tenant.environment}
    command = [sys.executable, "-c", program, "archive", str(tmp_path), "--yes", "--json"]
    with Popen(command, stdout=PIPE, stderr=PIPE, env=environment, cwd=ROOT) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    summary = json.loads(out)
    assert summary["state"] == "PAUSED"
    assert err.decode().splitlines()[-1] == f"{summary['id']} is paused: `attendance archive --resume {summary['id']}` goes on"
    done = tenant.run_cli("archive", "--resume", summary["id"], "--json")
    assert done.returncode == 0, done.stderr
    assert archived(tmp_path) == held(tenant)


def test_a_gap_is_named_recorded_and_passed(kafka: Broker, redis_server: Redis, tmp_path: Path) -> None:
    with System(kafka, redis_server, partitions=2) as system:
        events = system.topics.events

        def publish(number: int) -> None:
            system.publish([Record(events, b"k", b"v", [], partition) for partition in (0, 1)] * number)

        publish(10)
        written(system, planned(system, tmp_path))
        publish(10)
        asyncio.run(trim(kafka.bootstrap, events, 15))
        gap = Gap(events, 0, 10, 15)
        done = system.run_cli("archive", str(tmp_path), "--yes", "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["gaps"] == [{"topic": events, "partition": 0, "begin": 10, "end": 15}]
        assert f"{gap} were deleted from the topic before they were archived" in done.stderr.splitlines()
        assert f"lost before they were archived: {gap}" in done.stderr.splitlines()
        assert [each[2] for each in archived(tmp_path) if each[1] == 0] == [*range(10), *range(15, 20)]
        assert written(system, planned(system, tmp_path)).gaps == []
        # all of partition 0 goes after the plan was made
        publish(5)
        plan, later = planned(system, tmp_path), Gap(events, 0, 20, 25)
        asyncio.run(trim(kafka.bootstrap, events, 25))
        paused = written(system, plan, stop_after=1)
        assert (paused.gaps, paused.is_stopped) == ([later], True)
        plan = left_of(system, paused.operation_id)
        assert written(system, plan, paused.operation_id).gaps == [later], "of the whole operation"
        assert [each[2] for each in archived(tmp_path) if each[1] == 1] == [*range(25)]
        checked = verified(system, tmp_path)
        assert (checked.gaps, checked.problems) == ([gap, later], [])


def test_a_log_of_aborted_records_is_archived_once(kafka: Broker, redis_server: Redis, tmp_path: Path) -> None:
    with System(kafka, redis_server, partitions=1) as system:
        writer = Writer(kafka, system.topics.events)
        writer.begin(2)
        writer.abort()
        end = 0
        while end < 3:  # the marker is written soon after the call
            plan = planned(system, tmp_path)
            end = plan.total
        assert written(system, plan).counts["records"] == 0
        assert archived(tmp_path) == []
        assert planned(system, tmp_path).total == 0
        assert verified(system, tmp_path).problems == []


def test_a_topic_or_manifest_that_is_another_is_refused(tenant: System, tmp_path: Path) -> None:
    with pytest.raises(TopicsError, match="ATTENDANCE_TOPIC_PREFIX"):
        asyncio.run(archive_plan.make_plan(tenant.settings, tmp_path, ["nowhere.events"]))
    written(tenant, planned(tenant, tmp_path))
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ArchiveError, match=r"has files, but no manifest\.json"):
        planned(tenant, tmp_path)
    manifest.gaps.append(Gap(tenant.topics.events, 0, 10**6, 10**6 + 1))
    write_manifest(tmp_path, manifest)
    with pytest.raises(ArchiveError, match="the topic was created again"):
        planned(tenant, tmp_path)


Damage = Callable[[Path, ArchiveFile], object]


def _flip(path: Path, _: ArchiveFile) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _remove(path: Path, _: ArchiveFile) -> None:
    path.unlink()


def _surplus(path: Path, _: ArchiveFile) -> None:
    path.with_name("t.events-0-00000000000000000099.jsonl").write_bytes(b"")


def _rewrite(change: Callable[[list[ArchivedRecord]], object], **counts: int) -> Damage:
    """A file of other content, described by the manifest as if it had been written so."""

    def damage(path: Path, file: ArchiveFile) -> None:
        records = list(read_records(find_sources([path])))
        change(records)
        content = b"".join(map(encode_line, records))
        path.write_bytes(content)
        manifest = read_manifest(path.parent)
        assert manifest is not None
        index = manifest.files.index(file)
        sizes = {"size": len(content), "sha256": sha256(content).hexdigest(), "count": len(records)}
        manifest.files[index] = ArchiveFile(**{name: getattr(file, name) for name in file.__struct_fields__} | sizes | counts)
        write_manifest(path.parent, manifest)

    return damage


def _change(**changes: Any) -> Damage:
    """The sixth record has other content."""

    def change(records: list[ArchivedRecord]) -> None:
        records[5] = records[5]._replace(**changes)

    return _rewrite(change)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "flip": (_flip, "differs from its manifest"),
    "remove": (_remove, "No such file or directory"),
    "surplus": (_surplus, "the manifest does not name it"),
    "value": (_change(value=b"!"), "offset 5: value differs"),
    "key": (_change(key=None, headers=[]), "offset 5: key, headers differ"),
    "lack": (_rewrite(lambda records: records.pop(5)), "offset 5: the archive lacks this record"),
    "order": (_rewrite(lambda records: records.append(records.pop(5))), "does not belong here"),
    "other partition": (_rewrite(lambda records: records.append(records[-1]._replace(partition=0))), "does not belong here"),
    "count": (_rewrite(lambda _: None, count=7), "unlike its manifest"),
    "time": (_rewrite(lambda _: None, first_timestamp=7), "unlike its manifest"),
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGES.values(), ids=DAMAGES)
def test_verify_finds_what_is_wrong(damage: Damage, problem: str, tenant: System, small: Path) -> None:
    file = next(each for each in files_of(small) if each.topic == tenant.topics.events and each.partition == 1)
    damage(small / file.name, file)
    found = verified(tenant, small)
    assert found.problem_count == len(found.problems) >= 1
    assert any(problem in each for each in found.problems), found.problems


@pytest.fixture
def small(tenant: System, tmp_path: Path) -> Path:
    """An archive of a few records."""
    written(tenant, planned(tenant, tmp_path, None, Bound(20, is_time=False), compression=Compression.NONE))
    assert verified(tenant, tmp_path).problems == []
    return tmp_path


def test_verify_is_one_line_for_each_problem(tenant: System, small: Path) -> None:
    done = tenant.run_cli("archive", str(small), "--verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (0, 0)
    next(small.glob("*.jsonl")).unlink()
    done = tenant.run_cli("archive", str(small), "--verify", "--no-topic")
    assert done.returncode == 1
    assert "problems: 1" in done.stdout.splitlines()
    (line,) = done.stderr.splitlines()
    assert line.startswith(str(small))


def test_a_compacted_topic_may_lack_what_is_archived(tenant: System, tmp_path: Path) -> None:
    written(tenant, planned(tenant, tmp_path))
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    for topic, problems in ((tenant.topics.bookings, 0), (tenant.topics.events, 1)):
        found, files = Verified(), [file for file in manifest.in_order() if (file.topic, file.partition) == (topic, 0)]
        check = archive_verify._PartitionCheck(tmp_path, files, found, bool, may_lack=not problems)
        records = [each for each in tenant.consume(topic) if each.partition == 0]
        check.compare(0, [*records[:2], *records[3:]], records[-1].offset + 1)
        assert found.problem_count == problems
