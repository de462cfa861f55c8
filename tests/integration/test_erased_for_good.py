"""What an erased booking leaves: nothing that brings it back, and no text once the booking system has deleted it."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.test_main_job import MINUTE, envelope, exact
from tests.support.services import Broker, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import Record, System, running
from tests.support.traces import in_store, named, traces
from worker.topics import partition_of

STORES = ("rocksdb", pytest.param("memory", marks=pytest.mark.slow))


class Guest:
    """A booking with all that a booking can leave: attendances, scans, alerts of all sessions and of itself, stray records."""

    def __init__(self, system: System, name: str, now: int, ahead: int = 3 * MINUTE) -> None:
        self.system = system
        self.name = name
        self.now = now
        self.ahead = ahead
        self.sessions = [f"{name[:4]}-session-{number}" for number in range(4)]

    def record(self, kind: str = "booking.upserted", sessions: Sequence[str] = (), received: int | None = None) -> Record:
        data: dict[str, Any] = {"bookingId": self.name}
        if kind == "booking.upserted":
            data |= {"numberOfParticipants": 2, "sessions": [{"sessionId": each} for each in sessions or self.sessions]}
        record = self.system.booking(envelope(f"{kind}-{self.name}", "bookings", kind, self.now, data))
        record.headers = [] if received is None else [("attendance-received", exact(received))]
        return record

    def event(self, kind: str, session: int, time: int, **data: Any) -> Record:
        data = {"bookingId": self.name, "sessionId": self.sessions[session], **data}
        return self.system.event(envelope(f"{kind}-{session}-{time}", "kiosk", f"attendance.{kind}", time, data))

    def events(self) -> list[Record]:
        """Some in a wrong partition, some of a device whose clock is fast; all are before `now`, but for that."""
        records = [self.event("no_show", session, self.now - (20 - session) * MINUTE) for session in range(3)]
        records += [
            self.event("check_in", 3, self.now - 10 * MINUTE, numberOfAttendees=9),
            self.event("participant_scanned", 3, self.now - 9 * MINUTE, participantId=f"participant of {self.name}"),
            self.event("check_in", 3, self.now + self.ahead, numberOfAttendees=7),
            self.event("set", 2, self.now - 8 * MINUTE, status="NOT_ATTENDED", numberOfAttendees=3),
        ]
        stray = self.event("check_in", 0, self.now - 30 * MINUTE)
        stray.partition = (partition_of(self.name, self.system.settings.partitions) + 1) % self.system.settings.partitions
        stray.key = f" {self.name}".encode()
        return [*records, stray]


def erase(system: System, *arguments: str) -> dict[str, Any]:
    done = system.run_cli("erase", *arguments, "--yes", "--json")
    assert done.returncode == 0, (done.stderr, [worker.said() for worker in system.workers])
    return dict(json.loads(done.stdout))


def until_no_trace(look: Callable[[], list[str]], timeout: float = 30) -> None:
    """Workers remove rows after readers do not see them any more."""
    deadline = time.monotonic() + timeout
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert left == []


def restart(system: System, *, killed: bool = True) -> None:
    seen = system.workers[0].said().count("event=recovered")
    for worker in system.workers:
        if worker.running:
            worker.kill() if killed else worker.terminate()
    system.workers.clear()
    worker = system.start_worker()
    # of the worker before, Redis shows heartbeats for some seconds
    assert wait_until(lambda: worker.said().count("event=recovered") > seen, 60), worker.said()
    system.until_serving()


@pytest.mark.parametrize("store", STORES)
def test_nothing_brings_an_erased_booking_back(kafka: Broker, own_redis: RedisServer, tmp_path: Path, store: str) -> None:
    """Events that come late or again, replays of the topic and of an archive, older records, kills, a flushed Redis."""
    options = {"clock_tolerance": "10s", **({"store": "memory://"} if store == "memory" else {})}
    ahead = 8_000_000
    now = time.time_ns() // 1000
    with running(System(kafka, own_redis, partitions=2, **options)) as system:
        gone, stays = (Guest(system, f"{name}-{uuid4().hex}", now, ahead) for name in ("gone", "stay"))
        system.publish([record for each in (gone, stays) for record in (each.record(), *each.events())])
        system.until_settled()
        before = system.outcome()
        assert {kind for kind, name, _ in before.alerts if name == gone.name} >= {"FREQUENT_NO_SHOWS"}
        assert traces(system, [gone.name])
        archive = tmp_path / "archive"
        assert system.run_cli("archive", str(archive), "--yes").returncode == 0

        summary = erase(system, "--booking", gone.name)
        assert (summary["state"], summary["bookings"], summary["attendances"]) == ("DONE", 1, 4)
        assert summary["alerts"] == sum(name == gone.name for _, name, _ in before.alerts)

        def stays_erased() -> None:
            after = system.outcome()
            assert after.attendances == {pair: each for pair, each in before.attendances.items() if pair[0] == stays.name}
            assert after.alerts == {alert: each for alert, each in before.alerts.items() if alert[1] == stays.name}
            open_ = {alert[1] for alert in system.open_alerts_of_topic()}
            assert open_ == {stays.name}

        stays_erased()
        system.publish([*gone.events(), gone.event("check_in", 1, now - MINUTE)])
        system.until_settled()
        stays_erased()
        for source in (["--all"], [str(archive)]):
            assert system.run_cli("replay", *source, "--yes").returncode == 0
            system.until_settled()
            stays_erased()

        system.publish([gone.record("booking.deleted")])
        system.until_settled()
        # an older record that is forwarded late, where it stands last in its partition
        system.publish([gone.record(sessions=["another session"], received=now - 60 * MINUTE)])
        system.until_settled()
        until_no_trace(lambda: traces(system, [gone.name]))
        for flush in (False, True):
            if flush:
                assert own_redis.ask("FLUSHALL") == "+OK"
            restart(system)
            system.until_settled()
            stays_erased()
            until_no_trace(lambda: traces(system, [gone.name]))
        assert system.run_cli("verify").returncode == 0

        # but what happens later counts
        later = gone.event("check_in", 0, time.time_ns() // 1000 + ahead)
        system.publish([later])
        system.until_settled()
        assert {name for name, _ in system.outcome().attendances} == {gone.name, stays.name}
        erase(system, "--booking", gone.name)
        until_no_trace(lambda: traces(system, [gone.name]))
        if store == "rocksdb":
            for worker in system.workers:
                worker.terminate()
            assert named(in_store(system), [stays.name])
            assert named(in_store(system), [gone.name]) == []


def test_bookings_of_a_file_are_erased_whatever_is_known_of_them(kafka: Broker, redis_server: Redis) -> None:
    """Ids as people write them, of bookings that have only deletions, only a record, or nothing."""
    now = time.time_ns() // 1000
    with running(System(kafka, redis_server, partitions=2)) as system:
        full, deleted, listed, none = (Guest(system, str(uuid4()), now) for _ in range(4))
        ahead = deleted.event("deleted", 1, now + deleted.ahead)
        system.publish([*full.events(), deleted.event("check_in", 1, now - MINUTE), ahead, listed.record()])
        system.until_settled()
        names = [guest.name for guest in (full, deleted, listed, none)]
        lines = "\n".join([names[0].upper(), f"  {names[1]} ", "", *names[1:]])
        done = system.run_cli("erase", "--file", "-", "--yes", "--json", stdin=lines.encode())
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["bookings"], summary["attendances"]) == (4, 4)
        system.publish([guest.record("booking.deleted") for guest in (full, deleted, listed, none)])
        system.until_settled()
        until_no_trace(lambda: traces(system, names))
