"""`attendance replay`: it changes nothing that was applied, does what its dry run shows, and goes on where it ended."""

import asyncio
import gzip
import json
import os
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from schemas.events import Event
from tests.integration.test_main_job import MINUTE, World, envelope
from tests.support.oracle import Outcome
from tests.support.services import Broker, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import ROOT, Record, System, running
from worker.domain.differences import Differences
from worker.kafka import create_producer
from worker.ops import preview as preview_module
from worker.ops import publish
from worker.ops import replay as ops
from worker.ops.archive_format import ArchiveError
from worker.ops.replay import Bound, Control
from worker.ops.replay_sources import Files, Item, ReplayError, Selection, Source, TopicWindow, sizes_of
from worker.read_model import operations as operations_module
from worker.read_model.operations import Operation, Operations, State
from worker.redis.client import create_redis

SEED = 20_261_126


@pytest.fixture(scope="module")
def served(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A worker, and random events with stray and bad ones among them, all applied."""
    with running(System(kafka, redis_server)) as system:
        world = World(SEED, 300)
        records = world.records(system, random.Random(SEED))
        stray = [Record(r.topic, b"another", r.value, r.headers, 0) for r in records[:20] if r.topic == system.topics.events]
        bad = [Record(system.topics.events, b"x", value, partition=1) for value in (b"{", b"[]", b'{"specversion":"1.0"}')]
        system.publish([*records, *stray, *bad])
        system.until_settled()
        yield system


def jsons(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def alert_ends(system: System) -> list[int]:
    return system.ends()[system.topics.alerts]


def records_of(system: System) -> int:
    return len(system.consume(system.topics.events))


def test_a_replay_of_the_whole_topic_changes_nothing(served: System) -> None:
    before, alerts = served.outcome(), alert_ends(served)
    for _ in range(2):
        count = records_of(served)
        done = served.run_cli("replay", "--all", "--expect-no-change", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        totals, summary = jsons(done.stdout)
        assert (summary["state"], summary["read"], totals["totals"]["read"]) == ("DONE", count, count)
        bad = sum(each for name, each in summary.items() if name.startswith("dead "))
        assert bad == 3
        assert summary["published"] == count - bad == records_of(served) - count
        served.until_settled()
    assert served.outcome() == before
    assert alert_ends(served) == alerts


def planted(system: System) -> list[dict[str, Any]]:
    """Events that open an alert, count a participant, change a number, and are too old, covered or known."""
    now = 1_795_000_000_000_000 + 700 * MINUTE
    decade_ago = now - 10 * 365 * 86_400_000_000

    def event(kind: str, time: int, number: int, booking: str, session: str = "planted", **data: Any) -> dict[str, Any]:
        return envelope(f"planted-{number}", "archive", kind, time, {"bookingId": booking, "sessionId": session, **data})

    return [
        event("attendance.check_in", decade_ago, 1, "old", numberOfAttendees=2),
        event("attendance.check_in", now, 2, "odd", numberOfAttendees=0),
        event("attendance.check_in", now, 3, "BK-1", "s1", numberOfAttendees=4),
        *(event("attendance.no_show", now + each, 4, "lazy", f"s{each}") for each in range(3)),
        event("attendance.check_in", decade_ago - MINUTE, 5, "old"),
        event("attendance.check_in", now, 2, "odd", numberOfAttendees=0),
        event("attendance.deleted", now, 6, "gone"),
        event("attendance.check_in", now - 1, 7, "gone"),
    ]


def test_the_real_run_does_what_the_dry_run_shows(served: System, tmp_path: Path) -> None:
    lines = [json.dumps(each).encode() for each in planted(served)]
    plain, packed = tmp_path / "plain.jsonl", tmp_path / "packed.jsonl.gz"
    plain.write_bytes(b"\n".join(lines[:4]))
    packed.write_bytes(gzip.compress(b"\n".join([*lines[4:], b""])))
    before, count, alerts = served.outcome(), records_of(served), alert_ends(served)

    shown = served.run_cli("replay", str(plain), str(packed), "--expect-no-change", "--yes", "--json")
    assert shown.returncode == 1
    assert "nothing was published" in shown.stderr
    *changes, totals = jsons(shown.stdout)
    counted = {name: totals["totals"].get(name) for name in ("read", "selected", "applied", "stale", "duplicate", "horizon")}
    assert counted == {"read": 10, "selected": 10, "applied": 7, "stale": 1, "duplicate": 1, "horizon": 1}
    assert (served.outcome(), records_of(served)) == (before, count)

    done = served.run_cli("replay", str(plain), str(packed), "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (summary,) = jsons(done.stdout)
    served.until_settled()
    after = served.outcome()
    assert shown_attendances(changes) == differing(before, after)
    records = served.consume(served.topics.alerts)
    published = [json.loads(each.value) for each in records if each.offset >= alerts[each.partition]]
    assert shown_alerts(changes) == {(each["type"].rpartition(".")[2], each["data"]["alertId"]) for each in published}
    assert {each["backfill"] for each in published} == {summary["id"]}
    kinds = {each["data"]["kind"] for each in published}
    assert {"STATUS_COUNT_MISMATCH", "FREQUENT_NO_SHOWS"} <= kinds
    again = served.run_cli("replay", str(plain), str(packed), "--dry-run", "--expect-no-change")
    assert again.returncode == 0, again.stdout


def shown_attendances(changes: list[Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {
        (each["bookingId"], each["sessionId"]): (without_id(each["before"]), without_id(each["after"]))
        for each in changes
        if each["change"] == "attendance"
    }


def without_id(attendance: dict[str, Any] | None) -> dict[str, Any] | None:
    return attendance and {name: value for name, value in attendance.items() if name != "id"}


def differing(before: Outcome, after: Outcome) -> dict[tuple[str, str], tuple[Any, Any]]:
    pairs = before.attendances.keys() | after.attendances.keys()
    both = {pair: (before.attendances.get(pair), after.attendances.get(pair)) for pair in pairs}
    return {pair: (then, now) for pair, (then, now) in both.items() if then != now}


def shown_alerts(changes: list[Any]) -> set[tuple[str, str]]:
    """(opened or resolved, alertId); an alert that changes is published as opened."""
    return {
        ("opened" if each["after"] else "resolved", (each["after"] or each["before"])["alertId"])
        for each in changes
        if each["change"] == "alert"
    }


def window_of(system: System, selection: Selection = Selection(), **bounds: Bound | None) -> tuple[TopicWindow, int]:
    return asyncio.run(ops.find_topic_window(system.settings, bounds.get("begin"), bounds.get("end"), selection))


def read_all(source: Source) -> list[Item]:
    async def reading() -> list[Item]:
        return [item for part in [part async for part in source.read(source.start)] for item in part.items]

    return asyncio.run(reading())


def test_filters_and_bounds_choose_what_is_replayed(served: System) -> None:
    records = served.consume(served.topics.events)
    whole = read_all(window_of(served)[0])
    assert len(whole) == len(records)
    events = [item.decoded for item in whole if isinstance(item.decoded, Event)]
    for name, value in (("bookings", "BK-1"), ("sessions", "s1"), ("sources", "kiosk-2"), ("types", "booking.erased")):
        field = {"bookings": 1, "sessions": 2, "sources": 4, "types": 0}[name]
        source, _ = window_of(served, Selection(**{name: frozenset([value])}))
        chosen = [item.decoded for item in read_all(source) if item.decoded]
        wanted = [event for event in events if event[field] == value]
        assert chosen
        # a booking's partition alone is read: what was sent elsewhere was forwarded into it
        assert (len(chosen) <= len(wanted)) if name == "bookings" else (sorted(chosen) == sorted(wanted)), name
        assert {*chosen} == {*wanted}, name
    between = window_of(served, begin=Bound(5, is_time=False), end=Bound(9, is_time=False))[0]
    assert set(between.windows.values()) == {range(5, 9)}
    moment = sorted(record.timestamp for record in records)[len(records) // 2]
    for bound, is_in in (("begin", lambda at: at >= moment), ("end", lambda at: at < moment)):
        source, _ = window_of(served, **{bound: Bound(moment * 1000, is_time=True)})
        assert len(read_all(source)) == sum(is_in(record.timestamp) for record in records)


def test_slices_of_bookings_find_the_same(served: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "events.jsonl"
    world = World(SEED + 1, 200)
    file.write_text("".join(json.dumps(each.event) + "\n" for each in world.deliveries))

    def found() -> tuple[dict[str, Differences], Any]:
        changed: dict[str, Differences] = {}
        source = Files(served.settings, sizes_of([str(file)]), Selection())
        control = Control(asyncio.Event(), lambda _: None)
        preview = asyncio.run(preview_module.preview(served.settings, source, control, changed.__setitem__))
        return changed, preview

    at_once = found()
    monkeypatch.setattr(preview_module, "MOST_BOOKINGS", 3)
    assert found() == at_once
    assert len(at_once[0]) > 3


class Killed(Exception):
    """In place of SIGKILL: nothing more is done."""


def test_killed_at_any_moment_it_resumes(served: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_module, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(ops, "_AT_ONCE", 4)
    monkeypatch.setattr(ops, "_SAVE_SECONDS", 0.0)
    chance, real_send = random.Random(SEED), publish.send
    before, count, alerts = served.outcome(), records_of(served), alert_ends(served)

    def dying(calls: int) -> Any:
        left, is_sent = calls, chance.random() < 0.5

        async def send(producer: Any, outgoing: Any) -> int:
            nonlocal left
            left -= 1
            if left == 0 and not is_sent:
                raise Killed
            sent = await real_send(producer, outgoing)
            if left == 0:
                raise Killed
            return sent

        return send

    async def run() -> dict[str, int]:
        client, producer = create_redis(served.settings), create_producer(served.settings)
        operations, control = Operations(client, served.settings.redis_namespace), Control(asyncio.Event(), lambda _: None)
        window, _ = await ops.find_topic_window(served.settings, None, None, Selection())
        await producer.start()
        try:
            operation = (await operations.begin("replay", served.topics.events, {}, window.end)).operation
            for _ in range(10):
                running = await operations.resume(operation.id, "replay")
                monkeypatch.setattr(ops, "send", dying(chance.randint(1, 6)))
                with pytest.raises(Killed):
                    await ops.publish_again(window, running, producer, control)
            running = await operations.resume(operation.id, "replay")
            monkeypatch.setattr(ops, "send", real_send)
            assert await ops.publish_again(window, running, producer, control)
            await running.finish()
            assert (await operations.get(operation.id)).state is State.DONE
            return dict(running.operation.counts)
        finally:
            await producer.stop()
            await client.aclose()

    counts = asyncio.run(run())
    assert counts["read"] == count
    assert 0 <= records_of(served) - count - counts["published"] <= 10 * 4
    served.until_settled()
    assert served.outcome() == before
    assert alert_ends(served) == alerts


def test_ctrl_c_pauses_and_resume_goes_on(served: System) -> None:
    command = [sys.executable, "-m", "worker", "replay", "--booking", "BK-2", "--rate", "10", "--yes"]
    environment = {**os.environ, **served.environment}
    with Popen(command, stdout=PIPE, stderr=PIPE, env=environment, cwd=ROOT) as replaying:
        try:
            assert wait_until(lambda: any(each.counts.get("published") for each in running_of(served)), 30)
            replaying.send_signal(signal.SIGINT)
            assert replaying.wait(30) == 130
            assert replaying.stderr is not None
            said = replaying.stderr.read().decode()
        finally:
            replaying.kill()
    (paused, *_) = operations_of(served)
    assert f"attendance replay --resume {paused.id}" in said
    assert paused.state is State.PAUSED
    done = served.run_cli("replay", "--resume", paused.id, "--rate", "0", "--json")
    assert done.returncode == 0, done.stderr
    (summary,) = jsons(done.stdout)
    assert (summary["id"], summary["state"]) == (paused.id, "DONE")
    assert summary["published"] > paused.counts["published"]
    served.until_settled()


def running_of(system: System) -> list[Operation]:
    return [each for each in operations_of(system) if each.state is State.RUNNING]


def operations_of(system: System) -> list[Operation]:
    async def reading() -> list[Operation]:
        client = create_redis(system.settings)
        try:
            return await Operations(client, system.settings.redis_namespace).all()
        finally:
            await client.aclose()

    return asyncio.run(reading())


def test_bad_lines_are_named_and_the_rest_is_done(served: System, tmp_path: Path) -> None:
    file, torn = tmp_path / "events.jsonl", tmp_path / "torn.jsonl.gz"
    good = json.dumps(planted(served)[0])
    file.write_text(f"{good}\n\n{{\n[1]\n" + "{\n" * 30)
    torn.write_bytes(gzip.compress(good.encode() * 100)[:60])
    done = served.run_cli("replay", str(file), "--yes", "--json")
    assert done.returncode == 1
    assert f"{file}:3: " in done.stderr
    assert f"{file}:4: " in done.stderr
    (summary,) = jsons(done.stdout)
    assert (summary["published"], summary["dead invalid-json"], summary["bad lines"]) == (1, 32, 32)
    assert done.stderr.splitlines()[-1] == "and 12 more lines that cannot be used"
    source = Files(served.settings, sizes_of([str(torn)]), Selection())
    with pytest.raises(ReplayError, match=re.escape(str(torn))):
        read_all(source)
    torn.write_bytes(b"")
    for files in (["none"], [str(tmp_path)]):
        with pytest.raises((ReplayError, ArchiveError), match=files[0]):
            sizes_of(files)
    with pytest.raises(ReplayError, match="any more"):
        Files(served.settings, {str(torn): 60}, Selection())
    served.until_settled()


def test_a_reset_waits_for_the_workers_and_changes_nothing(served: System) -> None:
    before = served.outcome()
    refused = served.run_cli("replay", "--all", "--reset", "--yes")
    assert refused.returncode == 1
    assert "stop all workers" in refused.stderr
    for worker in served.workers:
        worker.terminate()
    done = served.run_cli("replay", "--all", "--reset", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert jsons(done.stdout)[0]["offsets"] == dict.fromkeys(map(str, range(4)), 0)
    window, unread = window_of(served)
    assert (window.end, unread) == (window.start, records_of(served))
    served.start_worker()
    served.until_settled()
    assert served.outcome() == before


@pytest.mark.parametrize("compress", ["zstd", "gzip", "none"])
def test_an_archive_is_restored_into_another_system(
    served: System, kafka: Broker, own_redis: RedisServer, tmp_path: Path, compress: str
) -> None:
    """Another prefix, another Redis: all that readers see is the same, times of reception included."""
    folder = str(tmp_path / "archive")
    done = served.run_cli("archive", folder, "--compress", compress, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    with running(System(kafka, own_redis)) as restored:
        replayed = restored.run_cli("replay", folder, "--yes", "--json")
        (summary,) = jsons(replayed.stdout)
        dead = sum(count for name, count in summary.items() if name.startswith("dead "))
        assert dead > 0
        assert replayed.returncode == 0, "dead letters are no news"
        assert summary["published"] == summary["read"] - dead
        restored.until_settled()
        assert restored.outcome() == served.outcome()


def test_nothing_of_a_damaged_archive_is_published(served: System, tmp_path: Path) -> None:
    done = served.run_cli("archive", str(tmp_path), "--yes", "--compress", "none")
    assert done.returncode == 0, done.stderr
    largest = max(tmp_path.glob("*.jsonl"), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content.replace(b"attendance.check_in", b"attendance.no_show ", 1))
    source = Files(served.settings, sizes_of([str(largest)]), Selection())
    with pytest.raises(ReplayError, match=re.escape(str(largest))):
        read_all(source)
