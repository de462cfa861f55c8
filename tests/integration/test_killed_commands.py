"""Long commands get SIGKILL at seeded moments, as processes of their own; resumed, each has done its work once."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from schemas.times import parse_time
from tests.integration.test_main_job import World, envelope
from tests.integration.test_verify import remove, spoil, surplus, with_client
from tests.support import oracle
from tests.support.commands import Commands
from tests.support.killed_operations import Case, KilledOperation
from tests.support.killed_work import (
    EVENTS,
    KILLS,
    LETTERS,
    TOTAL,
    cases_of,
    dead_letter,
    file_event,
    letter,
    marks_of,
    set_marks,
    write_files,
)
from tests.support.killing import Moment
from tests.support.oracle import Delivery
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running
from worker.ops.archive_reader import find_sources, read_records
from worker.ops.dead_letter_replay import MOST_REPLAYS
from worker.read_model import keys
from worker.read_model.dead_letter_marks import Mark
from worker.read_model.operations import State

#: Commands that run at the same time.
AT_ONCE = 6
COMMANDS = ("replay", "replay-files", "archive", "replay-letters", "park", "unpark", "export")
SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(15, 20)]


# --- what the commands work on: anew for each seed, since a replay leaves a topic larger than it was ----------------------


@pytest.fixture(scope="module", params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    """Of the moments of the kills."""
    return int(request.param)


@pytest.fixture(scope="module")
def hall(kafka: Broker, redis_server: Redis, seed: int) -> Iterator[System]:
    """A worker, and random events that it has applied."""
    with running(System(kafka, redis_server)) as system:
        system.publish(world().records(system, random.Random(1)))
        system.until_settled()
        yield system


def world() -> World:
    return World(15, 300)


@pytest.fixture(scope="module")
def shelf(kafka: Broker, redis_server: Redis, seed: int) -> Iterator[System]:
    """Records to archive, and no worker."""
    with System(kafka, redis_server, partitions=2) as system:
        system.publish(Record(system.topics.events, b"k", b"%d" % n + b"x" * 100, [], n % 2) for n in range(12_000))
        system.publish(Record(system.topics.bookings, b"%d" % n, b"v", [], n % 2) for n in range(100))
        yield system


@pytest.fixture(scope="module")
def desk(kafka: Broker, redis_server: Redis, seed: int) -> Iterator[System]:
    """Dead letters of many sources, all of which are good events by now, and no worker."""
    with System(kafka, redis_server, partitions=8) as system:
        system.publish(dead_letter(system, letter(number)) for number in range(TOTAL - 1))
        publish_worn(system)
        yield system


def publish_worn(system: System) -> None:
    """Publishes a dead letter that was replayed as often as is allowed."""
    worn = envelope("worn", "/worn", "attendance.check_in", letter(0).received, {"bookingId": "worn", "sessionId": "s1"})
    system.publish([dead_letter(system, Delivery(worn, letter(0).received), MOST_REPLAYS)])


# --- the kills -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as started:
        yield started


class Round(NamedTuple):
    """Operations of each command, killed at the moments of a seed."""

    seed: int
    folder: Path
    killed: dict[str, list[KilledOperation]]
    begins: dict[str, list[int]]
    """Ends of the hall's topics before."""

    def finished(self, name: str) -> list[KilledOperation]:
        """The operations of a command, resumed until they have ended; some of them were killed once more."""
        killed = self.killed[name][:KILLS]
        assert sum(each.kills for each in killed) >= KILLS - 2, f"they ended before their moments: {killed}"
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(finish, killed))
        return killed


def finish(killed: KilledOperation) -> None:
    killed.until_stale()
    if killed.number % 4 == 0:
        killed.kill_again()
    killed.finish()


@pytest.fixture(scope="module")
def killed(
    seed: int,
    commands: Commands,
    hall: System,
    shelf: System,
    desk: System,
    tmp_path_factory: pytest.TempPathFactory,
) -> Round:
    """All that can run at once is killed at once, so that they wait together until they can be resumed."""
    folder = tmp_path_factory.mktemp("killed")
    write_files(folder, seed, desk)
    begins = hall.ends()
    cases = cases_of(hall, shelf, desk, folder, min(begins[hall.topics.events]))
    operations = {case.name: [KilledOperation(commands, case, number, seed) for number in range(KILLS + 1)] for case in cases}
    for each in operations["unpark"]:
        set_marks(each, Mark.PARKED)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(KilledOperation.kill, (each for some in zip(*operations.values(), strict=True) for each in some)))
    return Round(seed, folder, operations, begins)


# --- what is seen from outside -------------------------------------------------------------------


def test_a_killed_repair_goes_on(killed: Round, hall: System, commands: Commands) -> None:
    """One repair of a system runs at a time, so each is killed again and again."""
    hall.until_settled()
    before, kills, number = hall.outcome(), 0, 0
    case = Case("verify", "verify", hall, lambda _: ["--repair", "--yes"], 40, 0.1, namespace=hall.settings.redis_namespace)
    while kills < KILLS:
        for partition in range(hall.settings.partitions):
            with_client(hall, remove(keys.DOC), partition)
        spoil(hall, surplus)
        operation = KilledOperation(commands, case, number, killed.seed)
        operation.kill()
        operation.set_back()
        while not operation.is_ended and operation.kills + kills < KILLS:
            operation.kill_again()
        kills, number = kills + operation.kills, number + 1
        operation.finish()
        assert operation.kills, f"it ended before its moment: {operation}"
    code, out, err = operation.run("verify")
    assert code == 0, (out, err)
    assert hall.outcome() == before
    assert hall.open_alerts_of_topic() == before.alerts


def test_a_killed_export_has_each_dead_letter_once(killed: Round, desk: System) -> None:
    expected = {f"{record.partition}:{record.offset}" for record in desk.consume(desk.topics.dead_letters)}
    for each in killed.finished("export"):
        lines = [json.loads(line)["id"] for line in (killed.folder / f"export-{each.number}.jsonl").read_text().splitlines()]
        assert len(lines) == len(expected), each
        assert set(lines) == expected, each


def test_a_killed_park_parks_all(killed: Round) -> None:
    for each in killed.finished("park"):
        assert marks_of(each) == {Mark.PARKED: TOTAL}, each


def test_a_killed_unpark_opens_all(killed: Round) -> None:
    for each in killed.finished("unpark"):
        assert marks_of(each) == {Mark.UNPARKED: TOTAL}, each


def test_a_killed_archive_is_complete(killed: Round, shelf: System) -> None:
    expected = sorted((r.topic, r.partition, r.offset, r.value) for topic in shelf.topics[:2] for r in shelf.consume(topic))
    for each in killed.finished("archive"):
        folder = killed.folder / f"archive-{each.number}"
        found = [(r.topic, r.partition, r.offset, r.value) for r in read_records(find_sources([folder]))]
        assert found == expected, each
        code, out, err = each.run("archive", str(folder), "--verify")
        assert code == 0, (each, out, err)


def test_killed_replays_of_a_window_change_nothing(killed: Round, hall: System) -> None:
    end = min(killed.begins[hall.topics.events])
    window = [(r.partition, r.key, r.value) for r in hall.consume(hall.topics.events) if r.offset < end]
    operations = killed.finished("replay")
    hall.until_settled()
    published = published_of(hall)
    for each in operations:
        found = published[each.operation.id]
        assert {(r.partition, r.key, r.value) for r in found} == {*window}, each
        # whatever a process had published since it saved its position is published again
        assert len(window) <= len(found) <= len(window) * (each.kills + 1), each
    # of the events of the world no alert is published again; those of the files open others
    names = {each.event["data"]["bookingId"] for each in world().deliveries}
    assert not [each for each in alerts_since(killed, hall) if each["data"]["bookingId"] in names]


def test_killed_replays_of_files_count_each_event_once(killed: Round, hall: System) -> None:
    operations = killed.finished("replay-files")
    hall.until_settled()
    published, alerts = published_of(hall), alerts_since(killed, hall)
    for each in operations:
        events = {file_event(f"{killed.seed}-{each.number}", number)["id"] for number in range(EVENTS)}
        found = [json.loads(r.value)["id"] for r in published[each.operation.id]]
        assert {*found} == events, each
        assert len(found) <= EVENTS * (each.kills + 1), each
        opened = [alert for alert in alerts if alert["data"]["bookingId"].startswith(f"file-{killed.seed}-{each.number}-")]
        assert len(opened) == len({alert["data"]["alertId"] for alert in opened}) == EVENTS // 10, each
        assert {alert["backfill"] for alert in opened} == {each.operation.id}, each
    of_files = {pair: found for pair, found in hall.outcome().attendances.items() if pair[0].startswith(f"file-{killed.seed}-")}
    of_files = {pair: found for pair, found in of_files.items() if not pair[0].startswith(f"file-{killed.seed}-{KILLS}-")}
    deliveries = [
        Delivery(event, parse_time(event["time"]))
        for file in range(KILLS)
        for event in (file_event(f"{killed.seed}-{file}", number) for number in range(EVENTS))
    ]
    assert of_files == oracle.outcome(deliveries, []).attendances


def published_of(hall: System) -> dict[str, list[Any]]:
    """What replays have published, by their operations."""
    published: dict[str, list[Any]] = {}
    for record in hall.consume(hall.topics.events):
        for name, content in record.headers:
            if name == "attendance-backfill":
                published.setdefault(content.decode(), []).append(record)
    return published


def alerts_since(killed: Round, hall: System) -> list[dict[str, Any]]:
    """The events of the alerts topic since the round began."""
    begins = killed.begins[hall.topics.alerts]
    records = [each for each in hall.consume(hall.topics.alerts) if each.offset >= begins[each.partition]]
    return [json.loads(each.value) for each in records if each.value is not None]


def test_killed_replays_of_dead_letters_send_all(killed: Round, desk: System) -> None:
    operations = killed.finished("replay-letters")
    sent = Counter(json.loads(record.value)["id"] for record in desk.consume(desk.topics.events))
    for each in operations:
        assert marks_of(each) == {Mark.REPLAYED: LETTERS}, each
        numbers = range(each.number, TOTAL - 1, KILLS + 1)
        assert {sent[f"{number}"] for number in numbers} <= {*range(1, each.kills + 2)}, each


@pytest.fixture(scope="module")
def worn(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with System(kafka, redis_server, partitions=8) as system:
        publish_worn(system)
        yield system


@pytest.mark.parametrize("request_", range(2, 7))
def test_a_killed_replay_names_what_it_parked(commands: Commands, worn: System, request_: int) -> None:
    case = Case("parked", "dead-letters replay", worn, lambda _: ["--source", "/worn", "--yes"], 1, code=1)
    operation = KilledOperation(commands, case, request_, 0)
    operation.kill(Moment(request_))
    operation.set_back()
    operation.finish()
    assert marks_of(operation) == {Mark.PARKED: 1}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_aborted_one_frees_its_target(killed: Round, name: str) -> None:
    aborted = killed.killed[name][KILLS]
    aborted.until_stale()
    operation = aborted.operation
    assert operation is not None
    if not aborted.is_ended:
        code, out, err = aborted.run(*aborted.case.command.split(), "--abort", operation.id, "--json")
        assert (code, json.loads(out or "{}").get("state")) == (0, "ABORTED"), (aborted, err)
        aborted.is_refused(f"{operation.id} is ABORTED: there is nothing to resume")
    (killed.folder / f"export-{KILLS}.jsonl").unlink(missing_ok=True)  # what it wrote stays
    code, _, err = aborted.begin()
    assert code in (0, aborted.case.code), (aborted, err)
    again = aborted.operation
    assert again is not None
    assert (again.state, again.target) == (State.DONE, operation.target)
    assert again.id != operation.id


def test_events_of_killed_replays_count_once(killed: Round, hall: System, desk: System) -> None:
    """After all that was aborted was done, too."""
    if not desk.workers:
        desk.start_worker()
    for system in (desk, hall):
        system.until_settled()
    letters = [letter(number) for number in range(TOTAL - 1)]
    assert desk.outcome() == oracle.outcome(letters, [])
    found = hall.outcome()
    assert {
        pair: each for pair, each in found.attendances.items() if not pair[0].startswith("file-")
    } == world().outcome().attendances
    assert hall.open_alerts_of_topic() == found.alerts
