"""What the commands of `integration/test_killed_commands.py` are and work on: files, events and dead letters by number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from schemas.times import format_time
from tests.integration.test_main_job import MINUTE, envelope
from tests.support.killed_operations import Case, KilledOperation, with_redis
from tests.support.oracle import Delivery
from tests.support.system import Record, System
from worker.read_model.dead_letter_marks import DeadLetterMarks, Mark

#: Operations of each command that are killed and resumed. One more is killed and aborted.
KILLS = 10
#: Dead letters of each operation, and events of each file.
LETTERS, EVENTS = 120, 120
#: All dead letters: one of them has been replayed so often that it is parked.
TOTAL = LETTERS * (KILLS + 1) + 1


def letter(number: int) -> Delivery:
    time = 1_795_000_000_000_000 + number * 1_000
    data = {"bookingId": f"b{number % 97}", "sessionId": f"s{number % 5}", "numberOfAttendees": number % 4}
    return Delivery(envelope(f"{number}", f"/seed/{number % (KILLS + 1)}", "attendance.check_in", time, data), time + MINUTE)


def dead_letter(system: System, event: Delivery, replays: int = 0) -> Record:
    named = {"reason": "invalid-field", "detail": "x: y", "topic": system.topics.events, "partition": "0", "offset": "7"}
    named |= {"first-seen": format_time(event.received), "attendance-replays": str(replays)}
    record = system.event(event.event, [(name, text.encode()) for name, text in named.items()])
    record.topic = system.topics.dead_letters
    return record


def file_event(name: str, number: int) -> dict[str, Any]:
    """An event of a file that is replayed; one in ten opens an alert."""
    time = 1_795_000_000_000_000 + 900 * MINUTE + number
    data = {"bookingId": f"file-{name}-{number}", "sessionId": "s1", "numberOfAttendees": min(number % 10, 3)}
    return envelope(f"{number}", f"file-{name}", "attendance.check_in", time, data)


def cases_of(hall: System, shelf: System, desk: System, folder: Path, end: int) -> list[Case]:
    def window(_: int) -> list[str]:
        return ["--from", "0", "--to", str(end), "--rate", str(2 * end), "--yes"]

    def file(number: int) -> list[str]:
        return [str(folder / f"events-{number}.jsonl"), "--rate", str(EVENTS * 2 // 3), "--yes"]

    def archive(number: int) -> list[str]:
        return [str(folder / f"archive-{number}"), "--compress", "none", "--rotate-size", "64KiB", "--yes"]

    def letters(number: int) -> list[str]:
        edited = ["--edit", str(folder / f"edited-{number}.jsonl")]
        return [*(edited if number % 2 else ["--source", f"/seed/{number}"]), "--yes"]

    def export(number: int) -> list[str]:
        return ["--output", str(folder / f"export-{number}.jsonl")]

    return [
        Case("replay", "replay", hall, window, requests=4, pause=0.3),
        Case("replay-files", "replay", hall, file, requests=4, pause=0.3),
        Case("archive", "archive", shelf, archive, requests=12, pause=0.01),
        Case("replay-letters", "dead-letters replay", desk, letters, requests=14),
        Case("park", "dead-letters park", desk, lambda _: ["--yes"], requests=14),
        Case("unpark", "dead-letters unpark", desk, lambda _: ["--yes"], requests=20),
        Case("export", "dead-letters export", desk, export, requests=10, pause=0.002),
    ]


def write_files(folder: Path, seed: int, desk: System) -> None:
    """The files of events, and those of dead letters that were mended."""
    for number in range(KILLS + 1):
        lines = [json.dumps(file_event(f"{seed}-{number}", each)) for each in range(EVENTS)]
        (folder / f"events-{number}.jsonl").write_text("\n".join(lines))
    edited: dict[str, list[bytes]] = {}
    for record in desk.consume(desk.topics.dead_letters):
        value = json.loads(record.value)
        line = orjson.dumps({"id": f"{record.partition}:{record.offset}", "value": value})
        edited.setdefault(value["source"].rpartition("/")[2], []).append(line)
    for number, found in edited.items():
        (folder / f"edited-{number}.jsonl").write_bytes(b"\n".join(found))


def set_marks(killed: KilledOperation, mark: Mark) -> None:
    async def setting(client: Any) -> None:
        for partition, end in enumerate(ends):
            await DeadLetterMarks(client, killed.settings.redis_namespace).set(mark, partition, range(end))

    ends = killed.case.system.ends()[killed.case.system.topics.dead_letters]
    with_redis(killed.settings, setting)


def marks_of(killed: KilledOperation) -> Counter[Mark]:
    """How many dead letters have each mark."""

    async def counting(client: Any) -> Counter[Mark]:
        found = Counter[Mark]()
        for partition, end in enumerate(ends):
            marked = await DeadLetterMarks(client, killed.settings.redis_namespace).of(partition, range(end))
            found.update(mark for mark in Mark for offset in range(end) if marked.has(mark, offset))
        return found

    ends = killed.case.system.ends()[killed.case.system.topics.dead_letters]
    return with_redis(killed.settings, counting)
