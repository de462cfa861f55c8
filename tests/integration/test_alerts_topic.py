"""What somebody else appends to the alerts topic: its owner says after it what holds, so that compaction keeps that."""

import json
from typing import Any

import pytest

from schemas.times import format_time
from tests.integration.test_main_job import MINUTE, envelope, exact
from tests.support import oracle
from tests.support.odd_worker import odd
from tests.support.oracle import BookingRecord, Delivery
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import WORKER, Record, System

START = 1_795_000_000_000_000


class Hall:
    """Bookings of one participant each, of whom more come: one open alert, until fewer are counted."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._deliveries: list[Delivery] = []
        self._bookings: list[BookingRecord] = []

    def book(self, booking: str) -> None:
        listed = [{"sessionId": "s1", "startsAt": format_time(START)}]
        data = {"bookingId": booking, "numberOfParticipants": 1, "sessions": listed}
        record = BookingRecord(booking, envelope(booking, "bookings", "booking.upserted", START, data))
        self._bookings.append(record)
        assert record.event is not None
        self._system.publish([self._system.booking(record.event)])
        self._system.until_applied()

    def count(self, booking: str, attendees: int) -> None:
        number = len(self._deliveries)
        data = {"bookingId": booking, "sessionId": "s1", "numberOfAttendees": attendees}
        event = envelope(str(number), "gate", "attendance.check_in", START + number * 1_000_000, data)
        self._deliveries.append(Delivery(event, START + MINUTE))
        self._system.publish([self._system.event(event, [("attendance-received", exact(START + MINUTE))])])
        self._system.until_applied()

    @property
    def alerts(self) -> dict[Any, Any]:
        """Those that are open, as the oracle counts them."""
        return oracle.outcome(self._deliveries, self._bookings).alerts


def states(system: System, key: bytes) -> list[str]:
    """What the topic says of an alert, one after the other."""
    found = [json.loads(record.value) for record in system.consume(system.topics.alerts) if record.key == key]
    return [event["type"].rpartition(".")[2] for event in found]


def said_again_by_another(system: System, hall: Hall) -> bytes:
    """Opens an alert and resolves it; then another says that it is open, as a worker that woke up late would. Its key."""
    hall.book("BK")
    hall.count("BK", 2)
    old = system.consume(system.topics.alerts)[-1]
    hall.count("BK", 1)
    assert states(system, old.key) == ["opened", "resolved"]
    assert hall.alerts == {}
    system.publish([Record(system.topics.alerts, old.key, old.value, [], 0)])
    key: bytes = old.key
    return key


@pytest.mark.slow
def test_an_old_alert_is_rewritten_at_the_next_publish(kafka: Broker, redis_server: Redis) -> None:
    with System(kafka, redis_server, partitions=1) as system:
        system.start_worker(WORKER)
        system.until_serving()
        hall = Hall(system)
        key = said_again_by_another(system, hall)
        assert states(system, key) == ["opened", "resolved", "opened"]
        hall.book("BK-2")
        hall.count("BK-2", 2)
        assert wait_until(lambda: len(states(system, key)) > 3, 20), system.workers[0].said()
        assert states(system, key) == ["opened", "resolved", "opened", "resolved"]
        assert system.open_alerts_of_topic() == hall.alerts != {}


def test_what_is_no_alert_stops_nobody(kafka: Broker, redis_server: Redis) -> None:
    """Without the guard: the owner reads what another appended, fails on it, and ends."""
    with System(kafka, redis_server, partitions=1) as system:
        worker = system.start_worker(WORKER)
        system.until_serving()
        hall = Hall(system)
        strays = [b"not JSON", b"[1]", b'{"data": 5}', b'{"data": {"bookingId": "BK", "kind": "NONE"}}', None]
        system.publish([Record(system.topics.alerts, b"stray-%d" % at, value, [], 0) for at, value in enumerate(strays)])
        key = said_again_by_another(system, hall)
        hall.book("BK-2")
        hall.count("BK-2", 2)
        assert wait_until(lambda: len(states(system, key)) > 3, 20), worker.said()
        assert worker.running


def test_an_old_alert_is_rewritten_though_nothing_happens(kafka: Broker, redis_server: Redis) -> None:
    """A worker looks each minute; this one twice a second."""
    with System(kafka, redis_server, partitions=1) as system:
        system.start_worker(odd("looks often"))
        system.until_serving()
        hall = Hall(system)
        key = said_again_by_another(system, hall)
        assert wait_until(lambda: len(states(system, key)) > 3, 20), system.workers[0].said()
        # it does not take its own record for another foreign one
        assert not wait_until(lambda: len(states(system, key)) > 4, 2)
        assert states(system, key) == ["opened", "resolved", "opened", "resolved"]
        assert system.open_alerts_of_topic() == hall.alerts == {}
