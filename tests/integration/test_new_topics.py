"""A rebuild into new topics, with another number of partitions: while events go on, forth and back, and killed."""

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_main_job import World
from tests.integration.test_rebuild import live_of, outcome_without_resting
from tests.integration.test_refold import exists, open_alerts, rebuilt, until
from tests.support.rebuilding import RESTING, Asking, Flow, begin, operation_of, publish_resting, set_back, until_only
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.serving import Api
from tests.support.station import trim
from tests.support.system import Record, System, running
from worker.read_model.keys import namespace
from worker.topics import TopicNames, group_changelog

PARTITIONS = 6


@contextmanager
def moving(kafka: Broker, redis: Redis) -> Iterator[tuple[System, System]]:
    """A system with a worker that serves, and one with new topics and other partitions, and the same read models."""
    with ExitStack() as stack:
        old = stack.enter_context(running(System(kafka, redis), 1))
        new = System(kafka, redis, partitions=PARTITIONS, namespace=old.settings.topic_prefix)
        stack.callback(new.__exit__)
        new.topics = TopicNames.of(new.settings.topic_prefix, "2")
        yield old, new


def published_to(new: System, records: Sequence[Record], old: System) -> list[Record]:
    """The same records for the new topics, a third of them in any partition."""
    names = {old.topics.events: new.topics.events, old.topics.bookings: new.topics.bookings}
    chance = random.Random(5)
    return [
        Record(
            names[each.topic], each.key, each.value, each.headers, chance.randrange(PARTITIONS) if each.key is None else None
        )
        for each in records
    ]


def test_the_number_of_partitions_changes_while_events_go_on(kafka: Broker, redis_server: Redis, tmp_path: Path) -> None:
    """A reader asks all the time, and the API goes on with the settings of the old topics."""
    world = World(seed=11, events=900)
    with moving(kafka, redis_server) as (old, new), Api(old, tmp_path) as api:
        publish_resting(old)
        records = world.records(old, random.Random(1))
        old.publish(records[:500])
        old.until_settled()
        with Asking(old) as asking:
            ready = rebuilt(new, "--refold", "--from-prefix", old.settings.topic_prefix, "--no-switch")
            assert (ready["state"], ready["differences"]) == ("READY", 0)
            worker = new.start_worker()
            old.publish(records[500:700])
            resumed = new.run_cli("rebuild", "--resume", ready["id"], "--yes", "--json")
            assert resumed.returncode == 0, (resumed.stderr, worker.said())
            assert json.loads(resumed.stdout.splitlines()[-1])["state"] == "SWITCHED"
            # some publish to the old topics, and some to the new ones
            old.publish(records[700:900])
            new.publish(published_to(new, records[900:], old))
            for by in (old, new, None):
                until(new, world, outcome_without_resting)
                assert len(new.read(_status)) == (old.settings.partitions if by is new else PARTITIONS)
                alerts = open_alerts(new)
                for system in (old, new):
                    assert wait_until(lambda: set(system.open_alerts_of_topic()) == alerts, 60), system.topics.alerts  # noqa: B023
                if by is not None:
                    rebuilt(by, "--rollback")
        assert (asking.wrong, asking.asked > 100) == ([], True)
        # the API publishes to the topics of the live namespace, and sees what it has set
        changed = {"bookingId": RESTING, "sessionId": "resting-0", "status": "NOT_ATTENDED", "numberOfAttendees": 0}
        answer = api.client.post("/bookings/v2/attendance/set", json={"attendance": changed})
        assert (answer.status_code, answer.json()["attendance"]["status"]) == (200, "NOT_ATTENDED")
        last = [each for each in new.consume(new.topics.events) if each.key == RESTING.encode()][-1]
        assert [name for name, _ in last.headers] == []
        rebuilt(new, "--drop-old")
        assert wait_until(lambda: not old.workers[0].running, 60)
        assert f"ATTENDANCE_TOPIC_PREFIX={new.settings.topic_prefix}" in old.workers[0].said()
        refused = old.run_cli("erase", "--booking", "anyone", "--yes")
        assert f"ATTENDANCE_PARTITIONS={PARTITIONS}" in refused.stderr
        done = new.run_cli("verify")
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_archives_and_erased_bookings_go_to_the_new_topics(kafka: Broker, redis_server: Redis, tmp_path: Path) -> None:
    """The first half of the events is in an archive alone; nothing of an erased booking comes back."""
    world = World(seed=12, events=800)
    with moving(kafka, redis_server) as (old, new):
        records = world.records(old, random.Random(1))
        old.publish(records)
        old.until_settled()
        gone = sorted({booking for booking, _ in old.outcome().attendances})[:2]
        assert old.run_cli("erase", *(part for name in gone for part in ("--booking", name)), "--yes").returncode == 0
        old.until_settled()
        before = old.outcome()
        assert old.run_cli("archive", str(tmp_path / "archive"), "--yes").returncode == 0
        for number, end in enumerate(old.ends()[old.topics.events]):
            asyncio.run(trim(kafka.url.removeprefix("kafka://"), old.topics.events, end // 2, number))
        refused = new.run_cli("rebuild", "--refold", "--from-prefix", old.settings.topic_prefix, "--yes")
        assert "are neither in the topic nor in an archive" in refused.stderr
        arguments = ("--from-prefix", old.settings.topic_prefix, "--archives", str(tmp_path / "archive"), "--no-switch")
        ready = rebuilt(new, "--refold", *arguments)
        assert (ready["state"], ready["differences"]) == ("READY", 0)
        new.start_worker()
        assert new.run_cli("rebuild", "--resume", ready["id"], "--yes").returncode == 0
        # late events of erased bookings, as a device might send them again
        new.publish([each for each in published_to(new, records, old) if each.topic == new.topics.events])
        new.until_applied()
        assert new.outcome() == before


def test_one_that_is_aborted_leaves_neither_topics_nor_keys(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=13, events=300)
    with moving(kafka, redis_server) as (old, new):
        old.publish(world.records(old, random.Random(1)))
        old.until_settled()
        arguments = ("--refold", "--from-prefix", old.settings.topic_prefix, "--no-switch")
        ready = rebuilt(new, *arguments)
        # nothing else is begun meanwhile, and nobody else's topics are used
        assert "--resume or --abort" in new.run_cli("rebuild", *arguments, "--yes").stderr
        done = new.run_cli("rebuild", "--abort", ready["id"], "--json")
        assert json.loads(done.stdout)["state"] == "ABORTED", done.stderr
        until_only(old, namespace(old.settings.redis_namespace))
        assert wait_until(lambda: left_topics(new) == [], 30)
        used = old.run_cli("rebuild", "--refold", "--from-prefix", old.settings.topic_prefix, "--yes")
        assert "that of the topics in use" in used.stderr
        until(old, world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_whatever_is_killed_it_is_resumed_or_aborted(kafka: Broker, redis_server: Redis, seed: int) -> None:
    """The command or the old worker, at a random moment, while events come."""
    chance, world = random.Random(seed), World(seed=seed, events=600)
    with moving(kafka, redis_server) as (old, new):
        publish_resting(old)
        flow = Flow(old, world, seed)
        flow.publish(0.5)
        old.until_settled()
        with Asking(old) as asking, flow:
            command = begin(new, "--refold", "--from-prefix", old.settings.topic_prefix, "--yes", "--json")
            assert wait_until(lambda: operation_of(new) is not None, 60), command.err
            command.runs(chance.uniform(0, 10))
            if seed % 3 == 0:
                old.workers[0].kill()
                old.start_worker()
                command.runs(3)
            command.kill()
            command.wait()
            set_back(new)
            operation = operation_of(new)
            assert operation is not None
            live = live_of(new)
            is_aborted = chance.random() < 0.5 and live == namespace(old.settings.redis_namespace)
            if is_aborted:
                done = new.run_cli("rebuild", "--abort", operation.id, "--json")
                assert done.returncode == 0, done.stderr
            else:
                resumed = begin(new, "--resume", operation.id, "--yes", "--json")
                assert wait_until(lambda: live_of(new) != namespace(old.settings.redis_namespace), 90), resumed.err
                new.start_worker()
                assert resumed.wait(120) == 0, resumed.err
        assert asking.wrong == []
        flow.publish(1)
        until(old, world, outcome_without_resting)
        if is_aborted:
            until_only(old, namespace(old.settings.redis_namespace))
            assert wait_until(lambda: left_topics(new) == [], 30)


def left_topics(system: System) -> list[str]:
    """Those of the prefix that exist."""
    names = {*system.topics, group_changelog(system.settings.topic_prefix)}
    return sorted(each for each in names if exists(system, each))


async def _status(reader: Any) -> list[Any]:
    return list(await reader.status())
