"""A rebuild into new topics, with another number of partitions: while events go on, forth and back, and killed."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.integration.test_main_job import World
from tests.integration.test_refold import open_alerts, rebuilt, until
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import Record, System, running

PARTITIONS = 6


@contextmanager
def moving(kafka: Broker, redis: Redis) -> Iterator[tuple[System, System]]:
    """A system with a worker that serves, and one with new topics and other partitions, and the same read models."""
    with ExitStack() as stack:
        old = stack.enter_context(running(System(kafka, redis), 1))
        new = System(kafka, redis, partitions=PARTITIONS, namespace=old.settings.topic_prefix)
        stack.callback(new.__exit__)
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


def test_the_number_of_partitions_changes_while_events_go_on(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=11, events=1600)
    with moving(kafka, redis_server) as (old, new):
        records = world.records(old, random.Random(1))
        old.publish(records[:800])
        old.until_settled()
        ready = rebuilt(new, "--refold", "--from-prefix", old.settings.topic_prefix, "--no-switch")
        assert (ready["state"], ready["differences"]) == ("READY", 0)
        worker = new.start_worker()
        old.publish(records[800:1000])
        resumed = new.run_cli("rebuild", "--resume", ready["id"], "--yes", "--json")
        assert resumed.returncode == 0, (resumed.stderr, worker.said())
        assert json.loads(resumed.stdout.splitlines()[-1])["state"] == "SWITCHED"
        assert len(new.read(_status)) == PARTITIONS
        # some publish to the old topics, and some to the new ones
        old.publish(records[1000:1300])
        new.publish(published_to(new, records[1300:], old))
        for by in (old, new, None):
            until(new, world)
            assert len(new.read(_status)) == (old.settings.partitions if by is new else PARTITIONS)
            alerts = open_alerts(new)
            for system in (old, new):
                assert wait_until(lambda: set(system.open_alerts_of_topic()) == alerts, 30), system.topics.alerts  # noqa: B023
            if by is not None:
                rebuilt(by, "--rollback")
        rebuilt(new, "--drop-old")
        assert wait_until(lambda: not old.workers[0].running, 30)
        assert f"ATTENDANCE_TOPIC_PREFIX={new.settings.topic_prefix}" in old.workers[0].said()
        refused = old.run_cli("erase", "--booking", "anyone", "--yes")
        assert f"ATTENDANCE_PARTITIONS={PARTITIONS}" in refused.stderr
        until(new, world)
        done = new.run_cli("verify")
        assert done.returncode == 0, done.stdout


async def _status(reader: Any) -> list[Any]:
    return list(await reader.status())
