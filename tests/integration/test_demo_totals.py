"""The real data set through real workers: the totals are the file's, whatever happens to deliveries and workers."""

import random
import time
from collections import Counter

import pytest

from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import Record, System, running
from worker.ops import demo, dev
from worker.read_model.reader import ReaderError
from worker.topics import partition_of


def records(system: System) -> tuple[list[Record], list[Record]]:
    """The demo's booking records, and its events."""
    settings, now = system.settings, time.time_ns() // 1000
    made = [
        Record(
            each.topic, each.booking_id.encode(), each.value, each.headers, partition_of(each.booking_id, settings.partitions)
        )
        for each in demo.outgoing(system.topics, now)
    ]
    bookings = [record for record in made if record.topic == system.topics.bookings]
    return bookings, [record for record in made if record.topic == system.topics.events]


def shows_the_file(system: System) -> None:
    """Once all is applied: the totals, and no alert but the frequent no-shows."""
    system.until_applied()
    expected = demo.expected()
    assert expected["frequent_no_shows"] == 39
    assert system.read(dev.totals) == expected
    alerts = system.read(lambda reader: reader.alerts(limit=100_000))
    assert Counter(alert["kind"] for alert in alerts) == {"FREQUENT_NO_SHOWS": 39}
    assert Counter(kind for kind, *_ in system.open_alerts_of_topic()) == {"FREQUENT_NO_SHOWS": 39}


def test_totals_of_the_demo_are_those_of_its_file(kafka: Broker, redis_server: Redis) -> None:
    with running(System(kafka, redis_server)) as system:
        bookings, events = records(system)
        system.publish(bookings + events)
        shows_the_file(system)


@pytest.mark.slow
def test_four_copies_in_any_order(kafka: Broker, redis_server: Redis) -> None:
    """The file twice, each delivery doubled, shuffled; booking records keep their order."""
    chance = random.Random(41)
    with running(System(kafka, redis_server)) as system:
        bookings, events = records(system)
        for _ in range(2):
            copies = events * 2
            chance.shuffle(copies)
            middle = len(copies) // 2
            system.publish([*copies[:middle], *bookings, *copies[middle:]])
        shows_the_file(system)


def test_three_workers_of_which_one_dies(kafka: Broker, redis_server: Redis) -> None:
    """Half of the events before the SIGKILL and half after it, while the others are busy."""
    with running(System(kafka, redis_server, partitions=6), workers=3) as system:
        bookings, events = records(system)
        middle = len(events) // 2
        system.publish(bookings + events[:middle])
        assert wait_until(lambda: 0 < attended(system) < demo.expected()["attended"], 30, step=0.01)
        system.workers[1].kill()
        system.publish(events[middle:])
        shows_the_file(system)
        assert [worker.running for worker in system.workers] == [True, False, True], system.said()


def attended(system: System) -> int:
    try:
        return system.read(dev.totals)["attended"]
    except ReaderError:
        return 0
