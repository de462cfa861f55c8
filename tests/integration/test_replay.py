"""`attendance replay`: it changes nothing that was applied, does what its dry run shows, and goes on where it ended."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_main_job import MINUTE, World, envelope
from tests.support.oracle import Outcome
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running

SEED = 20_261_126


@pytest.fixture(scope="module")
def served(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A worker, and random events with stray and bad ones among them, all applied."""
    with running(System(kafka, redis_server)) as system:
        world = World(SEED, 600)
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

    shown = served.run_cli("replay", str(plain), str(packed), "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    *changes, totals = jsons(shown.stdout)
    counted = {name: totals["totals"].get(name) for name in ("read", "selected", "applied", "stale", "duplicate", "horizon")}
    assert counted == {"read": 10, "selected": 10, "applied": 7, "stale": 1, "duplicate": 1, "horizon": 1}
    assert (served.outcome(), records_of(served)) == (before, count)
    refused = served.run_cli("replay", str(plain), str(packed), "--expect-no-change", "--yes")
    assert (refused.returncode, records_of(served)) == (1, count)
    assert "nothing was published" in refused.stderr

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
