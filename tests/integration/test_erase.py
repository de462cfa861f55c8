"""Erased bookings stay erased, and their ids are found nowhere once the booking system has deleted them."""

import json
import random
import time
from typing import Any

import pytest
from redis import Redis as Client

from tests.integration.test_main_job import World
from tests.support.oracle import Outcome
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running
from worker.topics import TopicNames, partition_of


def erased(system: System, *bookings: str) -> dict[str, Any]:
    given = [word for name in bookings for word in ("--booking", name)]
    done = system.run_cli("erase", *given, "--yes", "--json")
    assert done.returncode == 0, (done.stderr, [each.said() for each in system.workers])
    return dict(json.loads(done.stdout))


def kept_records(system: System, topic: str) -> dict[bytes, bytes]:
    """What compaction would keep of a topic."""
    last: dict[bytes, bytes | None] = {}
    for record in system.consume(topic):
        last[record.key] = record.value
    return {key: value for key, value in last.items() if value is not None}


def test_an_erased_booking_is_gone_and_stays_gone(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=5, events=600)
    with running(System(kafka, redis_server), 2) as system:
        records = world.records(system, random.Random(7))
        system.publish(records)
        system.until_settled()
        before = system.outcome()
        gone = some_bookings(before)
        summary = erased(system, *gone)
        assert summary["state"] == "DONE"
        assert summary["bookings"] == summary["markers"] == 3
        assert summary["attendances"] == sum(booking in gone for booking, _ in before.attendances)
        # again, late events, the booking system's deletion, and an older record of it that comes late
        system.publish([each for each in records if each.topic == system.topics.events])
        system.publish([Record(system.topics.bookings, name.encode(), None, [], of(system, name)) for name in gone])
        system.until_settled()
        for restart in (False, True):
            if restart:
                for worker in list(system.workers):
                    worker.terminate()
                system.workers.clear()
                system.start_worker()
                system.until_serving()
            after = system.outcome()
            assert not {booking for booking, _ in after.attendances} & {*gone}
            assert {pair: each for pair, each in before.attendances.items() if pair[0] not in gone} == after.attendances
            assert not {booking for _, booking, _ in after.alerts} & {*gone}
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (left := traces(system, redis_server, gone)):
            time.sleep(0.5)
        assert left == []
        done = system.run_cli("verify")
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_new_tables_take_markers_over(kafka: Broker, redis_server: Redis) -> None:
    """Also where the topic has no erasure any more, as after its retention; the first tables' rows are not copied back."""
    world = World(seed=8, events=400)
    with running(System(kafka, redis_server), 1) as system:
        records = world.records(system, random.Random(7))
        system.publish(records)
        system.until_settled()
        before = system.outcome()
        gone = some_bookings(before)
        erased(system, *gone)
        system.publish([Record(system.topics.bookings, name.encode(), None, [], of(system, name)) for name in gone])
        system.until_settled()
        done = system.run_cli("rebuild", "--refold", "--yes")
        assert done.returncode == 0, done.stderr
        after = system.outcome()
        assert {pair: each for pair, each in before.attendances.items() if pair[0] not in gone} == after.attendances
        # what comes late, to the new tables alone
        assert system.run_cli("rebuild", "--drop-old", "--yes").returncode == 0
        system.publish([each for each in records if each.topic == system.topics.events and each.key.decode() in gone])
        system.until_applied()
        assert system.outcome().attendances == after.attendances
        changelogs = TopicNames.of(system.settings.topic_prefix, "2")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (left := traces(system, redis_server, gone, changelogs)):
            time.sleep(0.5)
        assert left == []


def some_bookings(outcome: Outcome) -> list[str]:
    """Three whose ids are no part of another one's: they are looked for as text."""
    names = sorted({booking for booking, _ in outcome.attendances})
    return [name for name in names if sum(name in other for other in names) == 1][:3]


def of(system: System, booking: str) -> int:
    return partition_of(booking, system.settings.partitions)


def traces(system: System, redis_server: Redis, names: list[str], topics: TopicNames | None = None) -> list[str]:
    """Where the text of a booking is still found."""
    topics = topics or system.topics
    texts, found = [name.encode() for name in names], []
    with Client.from_url(redis_server.url) as client:
        for key in client.scan_iter(f"{system.settings.redis_namespace}:*", count=5000):
            content = key + (client.dump(key) or b"")
            found += [f"redis {key!r}" for text in texts if text in content]
    for topic in (topics.attendance_changelog, topics.bookings_changelog, topics.alerts):
        for key, value in kept_records(system, topic).items():
            found += [f"{topic} {key!r}" for text in texts if text in key + value]
    return found
