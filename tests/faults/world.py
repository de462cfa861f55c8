"""What a seed publishes: conflicting, doubled, disordered, late, mis-keyed and bad records, and what they come to."""

import json
import random
from typing import Any, NamedTuple

from schemas.times import format_time
from tests.integration.test_main_job import KINDS, MINUTE, envelope, exact
from tests.support import oracle
from tests.support.bad_records import GUID, bad_events
from tests.support.oracle import BookingRecord, Delivery
from tests.support.oracle.reading import normalised
from tests.support.system import Record, System
from worker.topics import partition_of

HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = 1_735_689_600_000_000
#: The header by which a record is known again, whatever offset it got and however often it was sent.
NUMBER = "number"
_CLOCKS = [0] * 8 + [-MINUTE, -3 * MINUTE, -5 * DAY, -29 * DAY, 2 * MINUTE, 40 * MINUTE, 4000 * DAY]
#: The share of events of which each leaves a mark of its own: scans of a participant at a gate, bookings that come once.
_ONCE = 0.25
_EVENT_WEIGHTS = [30, 20, 10, 25, 5, 4, 1]


class Item(NamedTuple):
    """A record to publish, and whether it must end in dead letters."""

    record: Record
    is_bad: bool


class World:
    """Events and booking records of one seed; `deliveries` and `bookings` are what the oracle is told."""

    def __init__(self, seed: int) -> None:
        self._chance = chance = random.Random(f"world {seed}")
        self.size = chance.randrange(2000, 4001)
        self.deliveries: list[Delivery] = []
        self.bookings: list[BookingRecord] = []
        self._places = _places(chance)

    def items(self, system: System) -> list[Item]:
        """Everything in the order of publishing. To be called once."""
        chance = self._chance
        events = [item for number in range(self.size) for item in self._events(system, number)]
        now = format_time(START)
        events += [Item(bad.record, True) for bad in bad_events(system, chance, now, copies=2)]
        chance.shuffle(events)
        bookings = [self._booking(system, number) for number in range(self.size // 12)]
        at = sorted(chance.randrange(len(events)) for _ in bookings)
        mixed: list[Item] = []
        done = 0
        for position, booking in zip(at, bookings, strict=True):
            mixed += [*events[done:position], booking]
            done = position
        mixed += events[done:]
        for number, item in enumerate(mixed):
            item.record.headers = [*item.record.headers, (NUMBER, str(number).encode())]
        return mixed

    def outcome(self) -> oracle.Outcome:
        return oracle.outcome(self.deliveries, self.bookings)

    def _events(self, system: System, number: int) -> list[Item]:
        """One event, some of them twice, the second received later."""
        chance = self._chance
        received = START + chance.randrange(600) * MINUTE // 4
        document = self._document(number, received)
        copies = [received] if chance.random() < 0.8 else [received, received + chance.choice([0, MINUTE, 30 * MINUTE])]
        items = []
        for each in copies:
            self.deliveries.append(Delivery(document, each))
            items.append(Item(self._sent(system, document, each), False))
        return items

    def _document(self, number: int, received: int) -> dict[str, Any]:
        chance = self._chance
        kind = chance.choices([*KINDS, "erased"], _EVENT_WEIGHTS)[0]
        booking, session = chance.choice(self._places)
        once = chance.random() < _ONCE
        if once:  # in most places a lost event is soon forgotten: these are seen whatever comes later
            kind = chance.choice(["participant_scanned", "check_in"])
            booking = f"gate-{number % 6}" if kind == "participant_scanned" else f"once-{number}"
        data: dict[str, Any] = {"bookingId": booking}
        if kind != "erased":
            data["sessionId"] = session
        if kind in ("check_in", "set") and chance.random() < 0.5:
            data["numberOfAttendees"] = chance.randrange(5)
        if kind == "set":
            data["status"] = chance.choice(["ATTENDED", "NOT_ATTENDED", "NOT_SET"])
        if kind == "participant_scanned":
            data["participantId"] = f"p{number if once else chance.randrange(7)}"
        name = "booking.erased" if kind == "erased" else f"attendance.{kind}"
        time = received + chance.choice(_CLOCKS)
        return envelope(str(number // 3), f"kiosk-{chance.randrange(3)}", name, time, data)

    def _sent(self, system: System, document: dict[str, Any], received: int) -> Record:
        """The event as a device may send it: in either mode, under any key, in any partition."""
        chance, partitions = self._chance, system.settings.partitions
        booking = normalised(document["data"]["bookingId"])
        right = partition_of(booking, partitions)
        headers = [("attendance-received", exact(received))]
        value = json.dumps(document).encode()
        if chance.random() < 0.1:
            headers += [(f"ce_{name}", str(content).encode()) for name, content in document.items() if name != "data"]
            value = json.dumps(document["data"]).encode()
        how = chance.choices(["right", "other key", "other partition"], [82, 8, 10])[0]
        if how == "right":
            return Record(system.topics.events, booking.encode(), value, headers, right)
        partition = right if how == "other key" else (right + chance.randrange(1, partitions)) % partitions
        return Record(system.topics.events, chance.choice([None, b"another", b"\xff"]), value, headers, partition)

    def _booking(self, system: System, number: int) -> Item:
        chance, partitions = self._chance, system.settings.partitions
        key = normalised(chance.choice(self._places)[0])
        right = partition_of(key, partitions)

        received = START + number * 1000

        def item(event: dict[str, Any] | None, partition: int = right, is_bad: bool = False) -> Item:
            value = None if event is None else json.dumps(event).encode()
            headers = [("attendance-received", exact(received))]
            return Item(Record(system.topics.bookings, key.encode(), value, headers, partition), is_bad)

        event = self._upserted(key, number)
        how = chance.choices(["good", "null", "deleted", "broken", "misrouted"], [80, 7, 5, 4, 4])[0]
        if how == "broken":  # a dead letter, the booking is unknown from here
            self.bookings.append(BookingRecord(key, None, received))
            return item({**event, "type": "attendance.check_in"}, is_bad=True)
        if how == "deleted":
            event = {**event, "type": "booking.deleted", "data": {"bookingId": key}}
        said = None if how == "null" else event
        self.bookings.append(BookingRecord(key, said, received))
        if how == "misrouted":  # forwarded, perhaps behind later ones, and holds by when it was received
            return item(said, (right + chance.randrange(1, partitions)) % partitions)
        return item(said)

    def _upserted(self, key: str, number: int) -> dict[str, Any]:
        chance = self._chance
        sessions = sorted({session for booking, session in self._places if normalised(booking) == key} | {"s90", "s91"})
        listed = [
            {"sessionId": name, "startsAt": format_time(START + chance.randrange(9) * HOUR)}
            for name in sessions
            if chance.random() < 0.6
        ]
        data = {
            "bookingId": key,
            "numberOfParticipants": chance.randrange(1, 4),
            "walkInsAllowed": chance.random() < 0.2,
            "status": chance.choice(["CONFIRMED", "CONFIRMED", "CANCELED"]),
            **({"sessions": listed} if chance.random() < 0.85 else {}),
        }
        return envelope(f"b{number}", "bookings", "booking.upserted", START + number, data)


def _places(chance: random.Random) -> list[tuple[str, str]]:
    """Pairs of booking and session, as often as they are to be met: few hot ones, long courses, some that come once."""
    spelt = [GUID, GUID.lower(), f"  {GUID} "]
    hot = [(f"BK-{number}", f"s{session}") for number in range(chance.randrange(4, 14)) for session in range(5)] * 4
    hot += [(name, f"s{session}") for name in spelt for session in range(3)]
    length = chance.randrange(20, 50)
    courses = [(f"CO-{number}", f"c{session}") for number in range(4) for session in range(length)]
    cold = [(f"X-{number}", f"s{number % 7}") for number in range(chance.randrange(60, 120))]
    return hot + courses + cold
