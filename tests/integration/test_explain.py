"""`attendance explain`: the verdict of each event is the oracle's, the result is what Redis shows, and else it says so."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import signal
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from schemas.times import format_exact_time, parse_time
from tests.property.test_verdicts import verdict_of
from tests.support.bad_records import delivery, send
from tests.support.oracle import Delivery, Rules
from tests.support.oracle.law import events_of, judge
from tests.support.services import Broker, Redis
from tests.support.serving import event, upserted
from tests.support.station import trim
from tests.support.system import Record, System, running
from worker.domain.verdicts import Verdict
from worker.history import explain
from worker.history.errors import TooManyEvents
from worker.history.explain import Document, Explainer, Progress, Subject
from worker.read_model.keys import DOC, PartitionKeys, namespace
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.topics import partition_of

NOW = parse_time("2026-11-22T10:00:00Z")
SECOND = 1_000_000
GUID = "88214716-abcd-4ef0-9012-3456789abcde"
BOOKINGS = (*(f"BK-{number}" for number in range(20)), GUID, "caf\u00e9 1", "K;`", "予約/7", "b1")
SESSIONS = tuple(f"s{number}" for number in range(8))


@pytest.fixture(scope="module")
def system(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with running(System(kafka, redis_server, max_event_age="3650d")) as one:
        yield one


def explained(system: System, subjects: Sequence[Subject], progress: Progress = lambda *_: None) -> list[Document]:
    async def explaining() -> list[Document]:
        client = create_redis(system.settings)
        try:
            reader, limit = AttendanceReader(client, system.settings.redis_namespace), asyncio.Semaphore(10)

            async def one(subject: Subject) -> Document:
                async with limit:
                    return await Explainer(system.settings, reader, subject, progress).explain()

            return list(await asyncio.gather(*map(one, subjects)))
        finally:
            await client.aclose()

    return asyncio.run(explaining())


class Adversary:
    """Events of a few attendances whose times, copies, spellings and ways are chosen to be confused."""

    def __init__(self, system: System, seed: int) -> None:
        self.system, self.rng, self.number = system, random.Random(seed), 0

    def event(self) -> list[tuple[dict[str, Any], Record]]:
        """An event, once to three times."""
        rng = self.rng
        self.number += 1
        kinds = ("check_in",) * 4 + ("no_show",) * 3 + ("participant_scanned",) * 5 + ("set", "set", "cleared", "deleted")
        kind = rng.choice(kinds)
        data: dict[str, Any] = {"bookingId": rng.choice(BOOKINGS), "sessionId": rng.choice(SESSIONS)}
        if kind == "set":
            data["status"] = rng.choice(("ATTENDED", "NOT_ATTENDED", "NOT_SET"))
        if kind in ("set", "check_in") and rng.random() < 0.5:
            data["numberOfAttendees"] = rng.randrange(4)
        if kind == "participant_scanned":
            data["participantId"] = f"p{rng.randrange(3)}"
        document = event(kind, "", "", NOW + rng.randrange(-20, 20) * SECOND)
        document |= {"id": f"e{self.number}", "source": f"/devices/{rng.randrange(3)}", "data": data}
        if rng.random() < 0.01:
            del data["sessionId"]
            document |= {"type": "booking.erased"}
        return [(document, self._record(document)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]

    def _record(self, document: dict[str, Any]) -> Record:
        rng, booking = self.rng, document["data"]["bookingId"]
        sent = {**document, "data": {**document["data"], "bookingId": self._spelled(booking)}}
        headers = []
        if rng.random() < 0.5:
            # the clock is up to ten minutes ahead of this
            received = parse_time(document["time"]) - rng.randrange(600) * SECOND
            headers.append(("attendance-received", format_exact_time(received).encode()))
        value = json.dumps(sent, ensure_ascii=rng.random() < 0.5).encode()
        if rng.random() < 0.1:
            data = base64.b64encode(json.dumps(sent["data"]).encode()).decode()
            value = json.dumps({**{k: v for k, v in sent.items() if k != "data"}, "data_base64": data}).encode()
        elif rng.random() < 0.1:
            headers += [(f"ce_{name}", content.encode()) for name, content in sent.items() if name != "data"]
            value = json.dumps(sent["data"]).encode()
        partitions = self.system.settings.partitions
        partition = partition_of(booking, partitions) if rng.random() < 0.9 else rng.randrange(partitions)
        key = booking.encode() if rng.random() < 0.8 else rng.choice((None, b"other"))
        return Record(self.system.topics.events, key, value, headers, partition)

    def _spelled(self, booking: str) -> str:
        spellings = (booking, booking, f" {booking}\u00a0", unicodedata.normalize("NFD", booking))
        if booking == GUID:
            spellings = (GUID, GUID.upper())
        if booking == "K;`":
            spellings = (booking, "\u212a;`", "K\u037e`", "K;\u1fef")
        return self.rng.choice(spellings)


def test_each_verdict_of_an_adversarial_stream(system: System) -> None:
    adversary = Adversary(system, 15)
    sent = [each for _ in range(1500) for each in adversary.event()]
    adversary.rng.shuffle(sent)
    landed = send(system, [record for _, record in sent])
    deliveries = [delivery(document, record, where) for (document, record), where in zip(sent, landed, strict=True)]
    system.until_settled()
    rules = Rules()
    pairs = [(booking, session) for booking in BOOKINGS for session in SESSIONS]
    documents = explained(system, [Subject(*pair) for pair in pairs])
    assert len(documents) == 200
    for (booking, session), document in zip(pairs, documents, strict=True):
        own = [each for each in deliveries if concerns(each, booking, session)]
        events = events_of(own, rules)
        by_id = {each.fact.id: each.fact for each in events}
        shown = [each for each in document["events"] if each["verdict"] != Verdict.DUPLICATE]
        assert sorted(each["id"] for each in shown) == sorted(by_id), (booking, session)
        for each in shown:
            assert each["verdict"] == verdict_of(by_id[each["id"]], events), (booking, session, each)
        assert len(document["events"]) == len(own)
        judged = judge(booking, session, events)
        found = document["result"]
        assert (found and {k: v for k, v in found.items() if k != "id"}) == (judged and judged.attendance)
        assert document["redis"]["agrees"], document["redis"]


def concerns(one: Delivery, booking: str, session: str) -> bool:
    data = one.event["data"]
    return data["bookingId"] == booking and data.get("sessionId", session) == session


def test_what_redis_shows_otherwise_is_named(system: System) -> None:
    """An attendance and an alert that somebody planted in the read models, and what the topic no longer has."""
    booking = "planted"
    system.publish([system.booking(upserted(booking, 1, [{"sessionId": "s1"}])), system.event(checked_in(booking, 3))])
    system.until_settled()
    (document,) = explained(system, [Subject(booking, "s1")])
    assert (document["redis"]["agrees"], document["redis"]["reason"]) == (True, None)
    plant(system, booking, lambda packed: packed.replace(b"/devices/kiosk-7", b"/devices/kiosk-8"))
    (document,) = explained(system, [Subject(booking, "s1")])
    assert document["redis"]["differences"] == ["source: /devices/kiosk-7 by the events, /devices/kiosk-8 in Redis"]
    assert "no cause is known" in document["redis"]["reason"]
    done = system.run_cli("explain", booking, "s1")
    assert done.returncode == 1
    assert "Redis: differs: source: /devices/kiosk-7 by the events, /devices/kiosk-8 in Redis; no cause" in done.stdout
    trim_events(system, booking)
    (document,) = explained(system, [Subject(booking, "s1")])
    assert (document["events"], document["result"]) == ([], None)
    assert document["redis"]["differences"][0] == "attendance: there is one by Redis, none by the events"
    assert "alert PARTICIPANTS_EXCEEDED: open in Redis, not by the events" in document["redis"]["differences"]
    assert f"the topic begins at offset {document['offsets']['events']['begin']}" in document["redis"]["reason"]


def test_while_no_worker_applies_the_lag_is_named(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "_CATCH_UP_SECONDS", 0.0)
    (worker,) = system.workers
    worker.signal(signal.SIGSTOP)
    try:
        system.publish([system.event(checked_in("lagging", 1))])
        (document,) = explained(system, [Subject("lagging", "s1")])
    finally:
        worker.signal(signal.SIGCONT)
    assert [each["verdict"] for each in document["events"]] == ["base"]
    assert document["redis"]["differences"] == ["attendance: there is one by the events, none by Redis"]
    assert document["redis"]["reason"].startswith("the partition is behind by 1 records")


def test_a_comparison_reads_the_watermark_once_a_poll(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "_CATCH_UP_SECONDS", 0.5)
    calls: Counter[str] = Counter()
    for name in ("status", "partition", "latest"):
        monkeypatch.setattr(AttendanceReader, name, counted(getattr(AttendanceReader, name), calls))
    (worker,) = system.workers
    worker.signal(signal.SIGSTOP)
    try:
        system.publish([system.event(checked_in("polled", 1))])
        explained(system, [Subject("polled", "s1")])
    finally:
        worker.signal(signal.SIGCONT)
    assert calls["latest"] > 1
    assert (calls["status"], calls["partition"]) == (1, calls["latest"] + 1)


def counted(method: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def counting(*arguments: Any) -> Any:
        calls[method.__name__] += 1
        return method(*arguments)

    return counting


def test_what_is_applied_meanwhile_is_read_too(system: System) -> None:
    system.publish([system.event(checked_in("meanwhile", 1))])
    system.until_settled()
    later = [checked_in("meanwhile", 2)]

    def publish_once(*_: int) -> None:
        """Called when the windows are found."""
        while later:
            system.publish([system.event(later.pop())])
            system.until_applied()

    with ThreadPoolExecutor(1) as beside:
        (document,) = explained(system, [Subject("meanwhile", "s1")], lambda *_: beside.submit(publish_once).result())
    assert [each["verdict"] for each in document["events"]] == ["superseded", "base"]
    assert (document["redis"]["agrees"], document["result"]["numberOfAttendees"]) == (True, 2)


def test_the_command_prints_verdicts_and_dead_letters(system: System) -> None:
    booking = "printed"
    ahead = {**checked_in(booking, 1), "time": "2999-01-01T00:00:00Z", "id": "ahead"}
    scans = [{**scanned(booking, who), "id": f"scan-{who}"} for who in ("ann", "bob")]
    broken = system.event(
        {**checked_in(booking, 1), "data": {"bookingId": booking, "sessionId": "s1", "numberOfAttendees": "2"}}
    )
    elsewhere = system.event(
        {**checked_in(booking, 1), "data": {"bookingId": booking, "sessionId": "s2", "numberOfAttendees": "2"}}
    )
    cut = system.event(checked_in(booking, 1))
    cut.value = (cut.value or b"")[:40]
    copy = system.event(scans[0])
    first = system.ends()[system.topics.events][copy.partition or 0]
    system.publish([*map(system.event, scans), copy, broken, elsewhere, cut, system.event(ahead)])
    system.until_settled()
    done = system.run_cli("explain", booking, "s1", COLUMNS="400")
    assert done.returncode == 0, done.stderr
    for words in (
        f"covered by the base of offset {first + 6}",
        f"duplicate of offset {first}",
        "counts as the base; clamped from 2999-01-01T00:00:00.000000Z to 20",
        f"offset {first + 3}: dead letter: invalid-field: data.numberOfAttendees",
        f"offset {first + 5}: dead letter: invalid-json: value",
        "booking record: none",
        "rule CLOCK_AHEAD: The clock of /devices/kiosk-7 runs at least",
        "rule BOOKING_CANCELED: not open",
        "result: ATTENDED, 1 attendees",
        "Redis: agrees",
    ):
        assert words in done.stdout, (words, done.stdout)
    assert f"offset {first + 4}:" not in done.stdout, "it names another session"
    part = system.run_cli("explain", booking, "s1", "--from", "2020-01-01T00:00:00Z")
    assert part.returncode == 0
    assert "Redis: not compared with a part of the events" in part.stdout


def test_what_only_an_archive_holds_is_explained_too(system: System, tmp_path: Path) -> None:
    booking, folder = "archived", str(tmp_path / "archive")
    system.publish([system.event({**checked_in(booking, number), "id": f"e{number}"}) for number in (1, 2)])
    system.until_settled()
    assert system.run_cli("archive", folder, "--yes", "--allow-gap").returncode == 0
    trim_events(system, booking)
    system.publish([system.event(scanned(booking, who)) for who in ("ann", "bob", "cid")])
    system.until_settled()
    alone = system.run_cli("explain", booking, "s1", "--json")
    assert (alone.returncode, len(json.loads(alone.stdout)["events"])) == (0, 3), "the scans alone give the same number"
    both = system.run_cli("explain", booking, "s1", "--archive", folder, "--json")
    assert both.returncode == 0, both.stderr
    document = json.loads(both.stdout)
    assert [each["verdict"] for each in document["events"]].count("base") == 1
    assert (len(document["events"]), document["redis"]["agrees"]) == (5, True)
    again = system.run_cli("explain", booking, "s1", "--archive", folder, "--archive", folder, "--json")
    assert [each["verdict"] for each in json.loads(again.stdout)["events"]].count("duplicate") == 2
    assert system.run_cli("explain", booking, "s1", "--archive", str(tmp_path)).returncode == 1
    assert system.run_cli("explain", booking, "s1", "--archive", folder, "--to", "2026-01-01T00:00:00Z").returncode == 2


def test_an_unknown_attendance_is_an_error(system: System) -> None:
    done = system.run_cli("explain", "nobody", "s1", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "nothing is known of booking nobody at session s1" in done.stderr


def test_a_history_of_too_many_events_is_refused(system: System) -> None:
    system.publish([system.event({**checked_in("long", 1), "id": f"e{n}"}) for n in range(30)])
    system.until_settled()

    async def explaining() -> None:
        client = create_redis(system.settings)
        try:
            reader = AttendanceReader(client, system.settings.redis_namespace)
            await Explainer(system.settings, reader, Subject("long", "s1"), lambda *_: None, most_events=20).explain()
        finally:
            await client.aclose()

    with pytest.raises(TooManyEvents, match="more than 20 events"):
        asyncio.run(explaining())


def checked_in(booking: str, number: int) -> dict[str, Any]:
    return event("check_in", booking, "s1", numberOfAttendees=number)


def scanned(booking: str, participant: str) -> dict[str, Any]:
    return event("participant_scanned", booking, "s1", participantId=participant)


def plant(system: System, booking: str, change: Callable[[bytes], bytes]) -> None:
    """Changes the document of an attendance in Redis behind the worker's back."""

    async def planting() -> None:
        client = create_redis(system.settings)
        try:
            changed = 0
            keys = PartitionKeys(namespace(system.settings.redis_namespace), partition_of(booking, system.settings.partitions))
            async for key in client.scan_iter(f"{keys.tag}*:{DOC}*", count=5000):
                for name, value in (await client.hgetall(key)).items():
                    if booking.encode() in value:
                        await client.hset(key, name, change(value))
                        changed += 1
            assert changed == 1
        finally:
            await client.aclose()

    asyncio.run(planting())


def trim_events(system: System, booking: str) -> None:
    """Deletes the booking's partition of the events topic, as retention does."""
    partition = partition_of(booking, system.settings.partitions)
    end = system.ends()[system.topics.events][partition]
    asyncio.run(trim(",".join(system.settings.bootstrap_servers), system.topics.events, end, partition))
