"""Dead letters are listed, mended and replayed once; those that fail for ever are parked; killed commands resume."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from schemas.events import Reason
from schemas.times import format_time, parse_time
from tests.support import oracle
from tests.support.bad_records import envelope
from tests.support.oracle import Delivery
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import Record, System, running
from worker.cli.commands import main
from worker.kafka import create_producer
from worker.ops import dead_letter_files, dead_letter_replay, dead_letters
from worker.ops.dead_letters import (
    Checkpoint,
    DeadLetterError,
    DeadLetters,
    Selected,
    Selection,
    State,
    packed_windows,
    remaining_windows,
)
from worker.read_model import operations
from worker.read_model.dead_letter_marks import DeadLetterMarks, Mark
from worker.read_model.freshness import find_problems
from worker.read_model.operations import Operations, Running
from worker.redis.client import create_redis

PLANTED = 10_000
REASONS = [reason.value for reason in Reason]
LARGE = 40


@pytest.fixture(scope="module")
def served(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A worker that serves."""
    with running(System(kafka, redis_server)) as system:
        yield system


def command(system: System, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `attendance dead-letters …`, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, system.environment),
        patch.object(sys, "argv", ["attendance", "dead-letters", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return ended.value.code or 0, out.getvalue(), err.getvalue()  # type: ignore[return-value]


def jsons(system: System, *arguments: str) -> list[Any]:
    code, out, err = command(system, *arguments, "--json")
    assert code == 0, (out, err)
    return [json.loads(line) for line in out.splitlines()]


def good(number: int, now: int) -> dict[str, Any]:
    kind = ["attendance.check_in", "attendance.no_show"][number % 2]
    data: dict[str, Any] = {"bookingId": f"b{number % 500}", "sessionId": f"s{number % 7}", "numberOfAttendees": number % 4}
    if kind == "attendance.no_show":
        del data["numberOfAttendees"]
    return envelope(kind, f"{number}", format_time(now - number * 1000), data, n=number)


def spoiled(document: dict[str, Any], reason: str) -> bytes:
    """The event as it is sent: unusable for this reason."""
    data = document["data"]
    return {
        "too-large": lambda: json.dumps({**document, "pad": "x" * 70_000}).encode(),
        "invalid-json": lambda: json.dumps(document).encode()[:-1],
        "invalid-envelope": lambda: json.dumps({k: v for k, v in document.items() if k != "id"}).encode(),
        "unknown-type": lambda: json.dumps({**document, "type": "attendance.nonsense"}).encode(),
        "invalid-field": lambda: json.dumps({**document, "data": {**data, "sessionId": 5}}).encode(),
        "time-too-old": lambda: json.dumps({**document, "time": "1970-01-01T00:00:00Z"}).encode(),
    }[reason]()


def reason_of(number: int) -> str:
    reason = REASONS[number % len(REASONS)]
    return reason if reason != "too-large" or number < LARGE * len(REASONS) else "invalid-json"


def letters_in(system: System) -> int:
    return sum(system.ends()[system.topics.dead_letters])


def bad_partitions(system: System) -> list[int]:
    """Partitions whose events are mostly bad, as the status shows it."""
    problems = find_problems(system.read(lambda reader: reader.status()))
    return sorted(number for each in problems if each.code == "BAD_EVENTS" for number in each.partitions)


def test_all_reasons_are_mended_and_counted_once(served: System, tmp_path: Path) -> None:
    now, before = time.time_ns() // 1000, letters_in(served)
    documents = [good(number, now) for number in range(PLANTED)]
    records = [served.event(document) for document in documents]
    for number, record in enumerate(records):
        record.value = spoiled(documents[number], reason_of(number))
    served.publish(records)
    assert wait_until(lambda: letters_in(served) == before + PLANTED, 60)

    partitions = list(range(served.settings.partitions))
    assert wait_until(lambda: bad_partitions(served) == partitions, 20)

    (stats,) = jsons(served, "stats")
    assert stats["reasons"] == Counter(map(reason_of, range(PLANTED)))
    assert sum(stats["sources"].values()) == sum(stats["hours"].values()) == stats["count"] == PLANTED
    listed = jsons(served, "list", "--max", str(PLANTED))
    assert len({each["id"] for each in listed}) == PLANTED
    assert {each["state"] for each in listed} == {"open"}
    unreadable = jsons(served, "list", "--source", "(unreadable)", "--max", str(PLANTED))
    assert len(unreadable) == stats["sources"]["(unreadable)"] > 0
    some = jsons(served, "list", "--reason", "unknown-type", "--booking", " b3 ", "--max", str(PLANTED))
    assert [(each["reason"], each["bookingId"]) for each in some] == [("unknown-type", "b3")] * len(some)
    assert len(some) == sum(reason_of(n) == "unknown-type" and n % 500 == 3 for n in range(PLANTED)) > 0
    (shown,) = jsons(served, "show", some[0]["id"])
    assert shown["value"]["type"] == "attendance.nonsense"

    file = tmp_path / "letters.jsonl"
    (exported,) = jsons(served, "export", "--output", str(file))
    assert exported["exported"] == PLANTED
    deliveries = defaultdict[str, list[Delivery]](list)
    with (tmp_path / "mended.jsonl").open("w") as mended:
        for line in file.read_text().splitlines():
            letter = json.loads(line)
            value = letter["value"]
            number = (json.loads(value + "}") if isinstance(value, str) else value)["n"]
            received = parse_time(letter["firstSeen"])
            deliveries[documents[number]["data"]["bookingId"]].append(Delivery(documents[number], received))
            print(json.dumps({"id": letter["id"], "value": documents[number]}), file=mended)
    (replayed,) = jsons(served, "replay", "--edit", mended.name, "--yes")
    assert (replayed["state"], replayed["replayed"]) == ("DONE", PLANTED)
    served.until_settled()
    expected = [oracle.outcome(of_booking, []).attendances for of_booking in deliveries.values()]
    assert served.outcome().attendances == {pair: each for some in expected for pair, each in some.items()}
    assert letters_in(served) == before + PLANTED
    assert wait_until(lambda: bad_partitions(served) == [], 20)
    lines = served.workers[0].log.read_text().splitlines()
    for event in ("most events are unusable", "most events are usable again"):
        assert sum(f'event="{event}"' in line for line in lines) == len(partitions), event

    ends = served.ends()
    (again,) = jsons(served, "replay", "--edit", mended.name, "--yes")
    assert "replayed" not in again
    assert again["notSelected"] == PLANTED
    assert served.ends() == ends
    assert jsons(served, "list") == []
    assert jsons(served, "stats", "--state", "replayed")[0]["count"] == PLANTED


@pytest.mark.slow
def test_one_that_fails_three_times_is_parked(served: System) -> None:
    source = ["--source", "/devices/kiosk-6"]
    record = served.event(envelope("attendance.check_in", "failed", "2026-11-22T10:00:00Z", {"bookingId": "f"}))
    served.publish([record])
    for replays in range(3):
        assert wait_until(lambda r=replays: [each["replays"] for each in jsons(served, "list", *source)] == [r], 30)  # type: ignore[misc]
        (done,) = jsons(served, "replay", *source, "--yes")
        assert (done["replayed"], done["stillUnusable"]) == (1, 1)
    assert wait_until(lambda: [each["replays"] for each in jsons(served, "list", *source)] == [3], 30)
    before = served.ends()
    code, _, err = command(served, "replay", *source, "--yes", "--json")
    assert code == 1
    assert "1 dead letters failed 3 times and are parked" in err
    assert served.ends() == before
    assert jsons(served, "list", *source) == []
    (parked,) = jsons(served, "list", *source, "--state", "parked")
    jsons(served, "unpark", parked["id"], "--yes")
    (done,) = jsons(served, "replay", *source, "--yes")
    assert done["replayed"] == 1
    assert wait_until(lambda: [each["replays"] for each in jsons(served, "list", *source)] == [1], 30)
    (open_,) = jsons(served, "list", *source)
    jsons(served, "park", open_["id"], "--yes")
    assert jsons(served, "list", *source) == []


# --- killed at any moment ------------------------------------------------------------------------

SEEDS = 10
EACH = 120


class Killed(BaseException):
    """The process ends here."""


class Killer:
    """Kills at the so manyth call of what changes Kafka, Redis or a file: before it, or right after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self._is_after = False
        monkeypatch.setattr(operations, "STALE_SECONDS", 0.0)
        monkeypatch.setattr(dead_letters, "_SAVE_SECONDS", 0.0)
        monkeypatch.setattr(dead_letter_replay, "_AT_ONCE", 10)
        monkeypatch.setattr(dead_letter_files, "_LINES", 25)
        for owner, name in ((DeadLetterMarks, "set"), (DeadLetterMarks, "clear"), (Running, "save")):
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name)))

    def arm(self, chance: random.Random) -> None:
        self.left, self._is_after = chance.randrange(1, 12), chance.random() < 0.5

    def _deadly(self, call: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def deadly(*arguments: Any, **named: Any) -> None:
            self.left -= 1
            if self.left == 0 and not self._is_after:
                raise Killed
            await call(*arguments, **named)
            if self.left == 0:
                raise Killed

        return deadly


Work = Callable[[DeadLetters, Checkpoint], Awaitable[bool]]


def run_and_resume(system: System, begin: Callable[[DeadLetters], Awaitable[dict[str, Any]]], work: Work, arm: Any) -> bool:
    """Runs an operation that is killed, and resumes it; whether it was killed."""

    async def running_(operation_id: str | None) -> None:
        client = create_redis(system.settings)
        try:
            letters, known = DeadLetters(system.settings, client), Operations(client, system.settings.redis_namespace)
            if operation_id is None:
                running = await known.begin("dead-letters test", "dead-letters", await begin(letters), {})
                arm()
            else:
                running = await known.resume((await known.all())[0].id, "dead-letters test")
            assert await work(letters, Checkpoint(running))
            await running.finish()
        finally:
            await client.aclose()

    try:
        asyncio.run(running_(None))
    except Killed:
        time.sleep(0.002)  # an operation of this millisecond is not stale yet
        asyncio.run(running_("the last"))
        return True
    return False


@pytest.fixture(scope="module")
def planted(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """Dead letters of many sources, and no worker."""
    with System(kafka, redis_server) as system:
        now = time.time_ns() // 1000
        records = []
        for number in range(EACH * SEEDS):
            document = {**good(number, now), "source": f"/seed/{number % SEEDS}"}
            named = {
                "reason": "invalid-field",
                "detail": "x: y",
                "topic": system.topics.events,
                "partition": "0",
                "offset": "7",
            }
            headers = [(name, text.encode()) for name, text in {**named, "first-seen": format_time(now)}.items()]
            record = system.event(document, headers)
            records.append(Record(system.topics.dead_letters, record.key, record.value, headers, record.partition))
        system.publish(records)
        yield system


def selection(seed: int, state: State = State.OPEN) -> Selection:
    return Selection(sources=(f"/seed/{seed}",), state=state)


def test_killed_exports_leave_each_line_once(planted: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killer, killed = Killer(monkeypatch), 0
    for seed in range(SEEDS):
        chance, path = random.Random(seed), tmp_path / f"{seed}.jsonl"

        async def begin(letters: DeadLetters) -> dict[str, Any]:
            return {"windows": packed_windows(await letters.windows(selection(seed)))}  # noqa: B023

        async def work(letters: DeadLetters, checkpoint: Checkpoint) -> bool:
            windows = remaining_windows(letters.topics.dead_letters, checkpoint.request["windows"], checkpoint.position)
            with dead_letter_files.appending(path, checkpoint.position.get("byte", 0)) as file:  # noqa: B023
                of_seed = selection(seed)  # noqa: B023
                return await dead_letter_files.export(letters, windows, of_seed, file, checkpoint, print, asyncio.Event())

        killed += run_and_resume(planted, begin, work, lambda: setattr(killer, "left", chance.randrange(1, 4)))  # noqa: B023
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == len({line["id"] for line in lines}) == EACH
    assert killed == SEEDS


def test_killed_parks_and_unparks_are_done_once(planted: System, monkeypatch: pytest.MonkeyPatch) -> None:
    killer, killed = Killer(monkeypatch), 0
    for seed in range(SEEDS):
        chance = random.Random(seed)
        for state in (State.OPEN, State.PARKED)[: 1 + seed % 2]:

            async def begin(letters: DeadLetters) -> dict[str, Any]:
                return {"windows": packed_windows(await letters.windows(selection(seed)))}  # noqa: B023

            async def work(letters: DeadLetters, checkpoint: Checkpoint) -> bool:
                windows = remaining_windows(letters.topics.dead_letters, checkpoint.request["windows"], checkpoint.position)
                chosen = selection(seed, state)  # noqa: B023
                return await dead_letter_replay.park(letters, windows, chosen, checkpoint, print, asyncio.Event())

            killed += run_and_resume(planted, begin, work, lambda: setattr(killer, "left", chance.randrange(1, 6)))  # noqa: B023
            killer.left = 0
    assert killed == SEEDS * 3 // 2
    assert counts(planted) == {(seed, State.OPEN if seed % 2 else State.PARKED): EACH for seed in range(SEEDS)}
    (unparked,) = jsons(planted, "unpark", "--yes")
    assert unparked["unparked"] == EACH * SEEDS // 2


def counts(system: System) -> dict[tuple[int, State], int]:
    """Dead letters by seed and state."""

    async def counting() -> dict[tuple[int, State], int]:
        client = create_redis(system.settings)
        try:
            letters, everything = DeadLetters(system.settings, client), Selection(state=None)
            found = Counter[tuple[int, State]]()
            async for part in letters.select(await letters.windows(everything), everything):
                found.update((int((record.source or "").rpartition("/")[2]), state) for record, state in part.records)
            return found
        finally:
            await client.aclose()

    return asyncio.run(counting())


def test_ctrl_c_pauses_and_the_printed_command_resumes(planted: System, monkeypatch: pytest.MonkeyPatch) -> None:
    select, reads = DeadLetters.select, count()

    async def interrupted(letters: DeadLetters, *arguments: Any) -> AsyncGenerator[Selected]:
        is_plan = next(reads) == 0
        async with aclosing(select(letters, *arguments)) as parts:
            async for part in parts:
                yield part
                if not is_plan:
                    os.kill(os.getpid(), signal.SIGINT)
                    for _ in range(10):  # the loop sees the signal when it polls next
                        await asyncio.sleep(0)

    with monkeypatch.context() as patched:
        patched.setattr(DeadLetters, "select", interrupted)
        code, out, err = command(planted, "park", "--source", "/seed/0", "--yes", "--json")
    assert (code, json.loads(out)["state"]) == (130, "PAUSED")
    assert 0 < json.loads(out)["parked"] < EACH
    found = re.search(r"`attendance dead-letters park --resume (\S+)` goes on", err)
    assert found, err
    code, _, err = command(planted, "replay", "--resume", found[1])
    assert (code, "resume or abort it there" in err) == (1, True)
    (resumed,) = jsons(planted, "park", "--resume", found[1])
    assert resumed == {"id": found[1], "state": "DONE", "parked": EACH}
    assert counts(planted)[0, State.PARKED] == EACH
    assert jsons(planted, "unpark", "--yes")[0]["unparked"] == EACH


def test_no_more_than_max_are_taken(planted: System, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    (exported,) = jsons(planted, "export", "--source", "/seed/1", "--max", "50", "--output", str(path))
    assert exported["exported"] == len(path.read_text().splitlines()) == 50
    code, out, err = command(planted, "list", "--max", "3", "--json")
    assert (code, len(out.splitlines())) == (0, 3)
    assert err.startswith("more dead letters match: --max 30")
    (parked,) = jsons(planted, "park", "--source", "/seed/1", "--max", "70", "--yes")
    (unparked,) = jsons(planted, "unpark", "--max", "69", "--yes")
    assert (parked["parked"], unparked["unparked"]) == (70, 69)
    (last,) = jsons(planted, "list", "--state", "parked")
    jsons(planted, "unpark", last["id"], "--yes")


def test_where_nothing_is_selected_nothing_is_begun(planted: System, tmp_path: Path) -> None:
    before, file = operations_of(planted), tmp_path / "empty.jsonl"
    file.write_text("\n")
    for arguments in (
        ["park", "--source", "/nobody"],
        ["unpark"],
        ["replay", "--topic", "bookings"],
        ["replay", "--edit", str(file)],
    ):
        assert command(planted, *arguments) == (0, "nothing selected\n", "")
        assert jsons(planted, *arguments) == [{"selected": 0}]
    assert operations_of(planted) == before


def operations_of(system: System) -> list[str]:
    return [line["id"] for line in map(json.loads, system.run_cli("operations", "--json").stdout.splitlines())]


def test_one_that_is_named_twice_is_one(planted: System) -> None:
    name = jsons(planted, "list", "--max", "1")[0]["id"]
    partition, _, offset = name.partition(":")
    again = f"0{partition}:00{offset}"
    for verb in ("park", "unpark"):
        assert jsons(planted, verb, name, name, again, "--yes")[0][f"{verb}ed"] == 1
    assert jsons(planted, "show", again)[0]["id"] == name


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["show", "3"], 1, "3 is no id of a dead letter: write partition:offset"),
        (["show", "0:999999999"], 1, "no dead letter has the id 0:999999999"),
        (["park", "0:999999999", "--yes"], 1, "only 0 of these 1 dead letters are open"),
        (["replay"], 1, "nothing was done: there is no terminal to ask on"),
        (["replay", "--resume", "x"], 1, "no operation has the id x"),
        (["replay", "--edit", "FILE", "--yes"], 1, "line 2: has no id"),
        (["export", "--output", "FILE"], 1, "exists: name a new file"),
        (["list", "--from", "yesterday"], 2, "write a time with its offset"),
    ],
)
def test_what_is_refused_says_what_to_do(planted: System, tmp_path: Path, arguments: list[str], code: int, line: str) -> None:
    file = tmp_path / "edited.jsonl"
    file.write_text('{"id": "0:1", "value": {}}\n{"value": {}}\n')
    before = counts(planted) if "--yes" in arguments else None
    ended, out, err = command(planted, *(str(file) if each == "FILE" else each for each in arguments))
    assert (ended, out) == (code, "")
    assert line in (err.splitlines()[-1] if code == 1 else " ".join(err.split()))
    assert before is None or counts(planted) == before


def test_marks_of_deleted_records_are_dropped(planted: System) -> None:
    async def scenario() -> None:
        client = create_redis(planted.settings)
        try:
            marks = DeadLetterMarks(client, f"{planted.settings.redis_namespace}-of-its-own")
            offsets = [0, 511, 512, 1_023, 5_000]
            for partition in (0, 1):
                await marks.set(Mark.PARKED, partition, offsets)
            await marks.clear(Mark.PARKED, 0, [511, 4])
            marked = await marks.of(0, range(6_000))
            assert [offset for offset in range(6_000) if marked.has(Mark.PARKED, offset)] == [0, 512, 1_023, 5_000]
            assert not marked.has(Mark.REPLAYED, 512)
            assert await marks.last_marked() == {0: 5_000, 1: 5_000}
            # partition 0 has lost its first records
            await marks.drop_outdated({0: range(600, 5_001), 1: range(5_001)})
            left = [await marks.of(partition, range(6_000)) for partition in (0, 1)]
            kept = [[offset for offset in range(6_000) if each.has(Mark.PARKED, offset)] for each in left]
            assert kept == [[512, 1_023, 5_000], offsets]
        finally:
            await client.aclose()

    asyncio.run(scenario())


def test_marks_of_another_topic_are_refused_and_kept(planted: System) -> None:
    """A Redis beside the Kafka of another system: nothing is dropped, or all would be replayed again."""

    async def scenario() -> None:
        client = create_redis(planted.settings)
        try:
            letters = DeadLetters(planted.settings, client)
            await letters.marks.set(Mark.REPLAYED, 0, [1_000_000])
            with pytest.raises(DeadLetterError, match="of two systems"):
                await letters.windows(Selection())
            assert (await letters.marks.last_marked())[0] == 1_000_000
            await letters.marks.clear(Mark.REPLAYED, 0, [1_000_000])
            await letters.windows(Selection())
        finally:
            await client.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("edited", [False, True], ids=["as they are", "mended"])
def test_killed_replays_send_all(planted: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edited: bool) -> None:
    killer, killed = Killer(monkeypatch), 0
    seeds = range(SEEDS // 2) if edited else range(SEEDS // 2, SEEDS)
    for seed in seeds:
        chance, path = random.Random(seed), tmp_path / f"{seed}.jsonl"
        if edited:
            jsons(planted, "export", "--source", f"/seed/{seed}", "--output", str(path))

        async def begin(letters: DeadLetters) -> dict[str, Any]:
            return {"windows": packed_windows(await letters.windows(selection(seed)))}  # noqa: B023

        async def work(letters: DeadLetters, checkpoint: Checkpoint) -> bool:
            producer = create_producer(planted.settings)
            await producer.start()
            try:
                replay = dead_letter_replay.Replay(letters, producer, checkpoint)
                if edited:
                    return await replay.run_edited(path, EACH, selection(seed), print, asyncio.Event())  # noqa: B023
                windows = remaining_windows(letters.topics.dead_letters, checkpoint.request["windows"], checkpoint.position)
                return await replay.run(windows, selection(seed), print, asyncio.Event())  # noqa: B023
            finally:
                await producer.stop()

        killed += run_and_resume(planted, begin, work, lambda: killer.arm(chance))  # noqa: B023
        killer.left = 0
    assert killed == len(seeds)
    states = counts(planted)
    assert {seed: states[seed, State.REPLAYED] for seed in seeds} == dict.fromkeys(seeds, EACH)
    sent = Counter(record.value for record in planted.consume(planted.topics.events))
    for seed in seeds:
        values = [count for value, count in sent.items() if json.loads(value)["source"] == f"/seed/{seed}"]
        assert len(values) == EACH
        assert sum(values) <= EACH + 10, "at most what was sent together is sent again"
