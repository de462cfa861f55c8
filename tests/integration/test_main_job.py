"""The main job: what devices and the booking system publish is what Redis and the alerts topic say, as the oracle counts."""

import json
import random
from typing import Any

import pytest

from schemas.times import format_time, parse_time
from tests.support import oracle
from tests.support.oracle import BookingRecord, Delivery
from tests.support.oracle.reading import held_records
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running
from worker.topics import partition_of

MINUTE = 60_000_000
KINDS = ["check_in", "no_show", "set", "participant_scanned", "cleared", "deleted"]


class World:
    """Random events and booking records of a few bookings, with the header that fixes when each was received.

    With ``strays`` booking records come in another order than they were received, half of them under another key or in
    another partition.
    """

    def __init__(self, seed: int, events: int, *, strays: bool = False) -> None:
        chance = random.Random(seed)
        self.start = 1_795_000_000_000_000
        self.deliveries = [self._delivery(chance, number) for number in range(events)]
        self.bookings = [self._booking(chance, number) for number in range(events // 10)]
        self._strays = random.Random(seed) if strays else None
        if self._strays is not None:
            order = self._strays.sample(range(len(self.bookings)), len(self.bookings))
            self.bookings = [b._replace(received=self.start + at) for b, at in zip(self.bookings, order, strict=True)]

    def records(self, system: System, chance: random.Random) -> list[Record]:
        """Everything in a random order, some of it twice; booking records keep theirs."""
        events = [system.event(d.event, [("attendance-received", exact(d.received))]) for d in self.deliveries]
        events += chance.sample(events, len(events) // 5)
        chance.shuffle(events)
        bookings = iter([self._record(system, each) for each in self.bookings])
        mixed: list[Record] = []
        for event in events:
            mixed.append(event)
            if chance.random() < 0.15:
                mixed += [each for each in [next(bookings, None)] if each is not None]
        return [*mixed, *bookings]

    def outcome(self) -> oracle.Outcome:
        return oracle.outcome(self.deliveries, self.bookings)

    def _record(self, system: System, each: BookingRecord) -> Record:
        record = system.booking(each.event or {"data": {"bookingId": each.key}})
        record.value = record.value if each.event is not None else None
        if self._strays is not None:
            record.headers = [("attendance-received", exact(each.received))]
            if self._strays.random() < 0.5:
                record.partition = self._strays.randrange(system.settings.partitions)
                record.key = self._strays.choice([record.key, f" {each.key}".encode()])
        return record

    def _delivery(self, chance: random.Random, number: int) -> Delivery:
        kind = chance.choices([*KINDS, "erased"], [30, 20, 10, 25, 5, 5, 1])[0]
        received = self.start + chance.randrange(600) * MINUTE // 4
        time = received + chance.choice([-3 * MINUTE, -MINUTE, 0, 2 * MINUTE, 40 * MINUTE])
        data: dict[str, Any] = {"bookingId": f"BK-{chance.randrange(12)}"}
        if kind != "erased":
            data["sessionId"] = f"s{chance.randrange(6)}"
        if kind in ("check_in", "set") and chance.random() < 0.5:
            data["numberOfAttendees"] = chance.randrange(5)
        if kind == "set":
            data["status"] = chance.choice(["ATTENDED", "NOT_ATTENDED", "NOT_SET"])
        if kind == "participant_scanned":
            data["participantId"] = f"p{chance.randrange(5)}"
        name = "booking.erased" if kind == "erased" else f"attendance.{kind}"
        return Delivery(envelope(str(number // 3), f"kiosk-{chance.randrange(3)}", name, time, data), received)

    def _booking(self, chance: random.Random, number: int) -> BookingRecord:
        key = f"BK-{chance.randrange(12)}"
        if chance.random() < 0.1:
            return BookingRecord(key, None)
        listed = [
            {"sessionId": f"s{i}", "startsAt": format_time(self.start + i * 60 * MINUTE)}
            for i in range(8)
            if chance.random() < 0.6
        ]
        data = {
            "bookingId": key,
            "numberOfParticipants": chance.randrange(1, 4),
            "status": chance.choice(["CONFIRMED", "CONFIRMED", "CANCELED"]),
            **({"sessions": listed} if chance.random() < 0.8 else {}),
        }
        return BookingRecord(key, envelope(f"b{number}", "bookings", "booking.upserted", self.start + number, data))


def envelope(identity: str, source: str, kind: str, time: int, data: dict[str, Any]) -> dict[str, Any]:
    document = {"specversion": "1.0", "id": identity, "source": source, "type": kind, "data": data}
    return {**document, "time": exact(time).decode()}


def exact(micros: int) -> bytes:
    """RFC 3339 to the microsecond."""
    return f"{format_time(micros)[:-4]}{micros % 1_000_000:06d}Z".encode()


@pytest.fixture(params=["server", "cluster"])
def redis_server(request: pytest.FixtureRequest, redis_server: Redis) -> Redis:
    """One server, then a cluster: what is below holds for both."""
    return redis_server if request.param == "server" else request.getfixturevalue("redis_cluster")


def test_redis_and_the_alerts_topic_say_what_the_oracle_counts(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=11, events=1500)
    with running(System(kafka, redis_server)) as system:
        system.publish(world.records(system, random.Random(1)))
        system.until_applied()
        expected = world.outcome()
        assert expected.alerts, "a world without alerts shows nothing"
        assert system.outcome() == expected
        assert system.open_alerts_of_topic() == expected.alerts


def test_booking_records_of_any_order_key_and_partition(kafka: Broker, redis_server: Redis) -> None:
    """The one received last holds, also for whoever reads the topic compacted."""
    world = World(seed=13, events=900, strays=True)
    with running(System(kafka, redis_server)) as system:
        system.publish(world.records(system, random.Random(3)))
        system.until_settled()
        assert system.outcome() == world.outcome()
        assert _last_of_each_booking(system) == held_records(world.bookings)


def _last_of_each_booking(system: System) -> dict[str, BookingRecord]:
    """What compaction would leave under each booking's key in its partition."""
    count, found = system.settings.partitions, dict[str, BookingRecord]()
    for record in system.consume(system.topics.bookings):
        key = record.key.decode()
        if key.strip() == key and record.partition == partition_of(key, count):
            received = parse_time(dict(record.headers)["attendance-received"].decode())
            found[key] = BookingRecord(key, None if record.value is None else json.loads(record.value), received)
    return found


def test_a_worker_that_starts_again_goes_on_from_its_changelog(kafka: Broker, redis_server: Redis) -> None:
    world = World(seed=12, events=900)
    with running(System(kafka, redis_server)) as system:
        records = world.records(system, random.Random(2))
        system.publish(records[: len(records) // 2])
        system.until_applied()
        assert system.workers[0].terminate() == 0
        system.publish(records[len(records) // 2 :])
        system.start_worker()
        system.until_applied()
        assert system.outcome() == world.outcome()
        assert system.open_alerts_of_topic() == world.outcome().alerts
