"""Whatever is on the topics: every good record counts, every bad one is a dead letter with its reason, the worker lives."""

import json
import random
import re
import time
from collections import Counter
from typing import Any

import pytest

from schemas.times import format_time, parse_time
from tests.support import oracle
from tests.support.bad_records import Bad, bad_events, delivery, envelope, letters_as_expected, odd_events, send
from tests.support.oracle import BookingRecord
from tests.support.oracle.reading import normalised
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, WorkerProcess, running
from worker.topics import partition_of

GOOD_EVENTS = 10_000
HOUR = 3_600_000_000
KINDS = ["attendance.check_in", "attendance.no_show", "attendance.set", "attendance.participant_scanned"]


def good_events(system: System, chance: random.Random, now: int) -> list[tuple[dict[str, Any], Record]]:
    made = []
    for number in range(GOOD_EVENTS):
        kind = chance.choice(KINDS)
        data: dict[str, Any] = {"bookingId": f"BK-{chance.randrange(100)}", "sessionId": f"s{chance.randrange(6)}"}
        if kind == "attendance.set":
            data |= {"status": chance.choice(["ATTENDED", "NOT_ATTENDED"]), "numberOfAttendees": chance.randrange(3)}
        elif kind == "attendance.participant_scanned":
            data["participantId"] = f"p{chance.randrange(5)}"
        document = envelope(kind, f"{number}", format_time(now - chance.randrange(HOUR)), data)
        made.append((document, system.event(document)))
    return made


def good_bookings(chance: random.Random, now: int) -> list[dict[str, Any]]:
    sessions = [{"sessionId": f"s{number}"} for number in range(7)]
    data = [{"bookingId": f"BK-{n}", "numberOfParticipants": chance.randrange(1, 4), "sessions": sessions} for n in range(100)]
    return [envelope("booking.upserted", f"b{n}", format_time(now), each) for n, each in enumerate(data)]


def test_bad_events_among_good_ones(kafka: Broker, redis_server: Redis) -> None:
    chance, now = random.Random(5), time.time_ns() // 1000
    with running(System(kafka, redis_server)) as system:
        bookings = good_bookings(chance, now)
        system.publish(system.booking(each) for each in bookings)
        odd = odd_events(system, format_time(now), format_time(now + 30 * HOUR))
        good = [*good_events(system, chance, now), *odd]
        bad = bad_events(system, chance, format_time(now), copies=8)
        everything: list[tuple[Any, Record]] = [*good, *((each, each.record) for each in bad)]
        chance.shuffle(everything)
        landed = send(system, [record for _, record in everything])
        system.until_applied()  # what there is now; the forwards that this made come behind it
        system.until_applied()
        sent = list(zip(everything, landed, strict=True))
        deliveries = [delivery(what, record, at) for (what, record), at in sent if isinstance(what, dict)]
        expected = oracle.outcome(deliveries, [BookingRecord(each["data"]["bookingId"], each) for each in bookings])
        assert sum(kind == "CLOCK_AHEAD" for kind, _, _ in expected.alerts) == 15
        assert system.outcome() == expected
        assert system.open_alerts_of_topic() == expected.alerts
        letters_as_expected(system, [(what, at) for (what, _), at in sent if isinstance(what, Bad)])
        _forwarded(system, [(doc, record, at) for (doc, record), at in sent if isinstance(doc, dict)])
        assert system.workers[0].terminate() == 0
        assert _logged(system.workers[0]) == Counter(each.reason for each in bad)


def _logged(worker: WorkerProcess) -> Counter[str]:
    """Dead letters by reason, as the worker's log counts them."""
    lines = [line for line in worker.said().splitlines() if 'event="dead letters"' in line]
    found: Counter[str] = Counter()
    for line in lines:
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        found[fields["reason"]] += int(fields["count"])
    assert len(lines) <= 3 * len(found), "the log is flooded"
    return found


def _forwarded(system: System, good: list[Any]) -> None:
    """Each good event of a wrong partition is once in the right one, keyed, and says when it first came."""
    count = system.settings.partitions
    own = {(at.partition, at.offset) for _, _, at in good}
    forwards = [r for r in system.consume(system.topics.events) if dict(r.headers).get("attendance-received")]
    forwards = [r for r in forwards if (r.partition, r.offset) not in own and r.key and r.key.startswith(b"odd-")]
    found = {r.key.decode(): r for r in forwards}
    strays = {doc["data"]["bookingId"]: (record, at) for doc, record, at in good if record.partition != _right(doc, count)}
    assert len(forwards) == len(found) == len(strays) == 10
    for booking, (record, at) in strays.items():
        copy = found[booking]
        assert (copy.partition, copy.value) == (partition_of(booking, count), record.value)
        assert [name for name, _ in copy.headers].count("attendance-received") == 1
        assert parse_time(dict(copy.headers)["attendance-received"].decode()) == delivery({}, record, at).received
        assert [h for h in copy.headers if h[0] == "note"] == [h for h in record.headers if h[0] == "note"]


def _right(document: dict[str, Any], partitions: int) -> int:
    booking = document["data"]["bookingId"]
    return partition_of(normalised(booking), partitions)


#: What a booking record can have wrong: value, reason, detail; "" stands for the good record as text.
BAD_BOOKINGS = {
    "no JSON": (b"{", "invalid-json", "value"),
    "no object": (b"[]", "invalid-json", "value"),
    "too large": (b'{"pad":"' + b"x" * 524_288 + b'"}', "too-large", "value"),
    "an event's type": (b"attendance.check_in", "unknown-type", "type"),
    "no participants": (b"0", "invalid-field", "data.numberOfParticipants"),
    "null": (None, "", ""),
}


def _upsert(booking: str, number: int, participants: int = 2) -> dict[str, Any]:
    data = {"bookingId": booking, "numberOfParticipants": participants, "sessions": [{"sessionId": f"{booking}/{number}"}]}
    return envelope("booking.upserted", f"{booking}-{number}", "2026-11-22T10:00:00Z", data)


def _spoil(system: System, booking: str, what: str) -> Bad:
    value, reason, detail = BAD_BOOKINGS[what]
    good = system.booking(_upsert(booking, 2))
    if what == "an event's type":
        value = json.dumps({**_upsert(booking, 2), "type": "attendance.check_in"}).encode()
    if what == "no participants":
        value = json.dumps(_upsert(booking, 2, participants=0)).encode()
    return Bad(Record(good.topic, good.key, value, [], good.partition), reason, detail)


def test_bad_booking_records_leave_their_booking_unknown(kafka: Broker, redis_server: Redis) -> None:
    history: list[BookingRecord] = []
    sent: list[tuple[Bad | None, Record]] = []
    with running(System(kafka, redis_server)) as system:

        def good(booking: str, number: int) -> None:
            history.append(BookingRecord(booking, _upsert(booking, number)))
            sent.append((None, system.booking(_upsert(booking, number))))

        for what in BAD_BOOKINGS:
            for mended in (False, True):
                booking = f"{what} {mended}"
                good(booking, 1)
                bad = _spoil(system, booking, what)
                sent.append((bad if bad.reason else None, bad.record))
                history.append(BookingRecord(booking, None))
                if mended:
                    good(booking, 3)
        landed = send(system, [record for _, record in sent])
        system.until_applied()
        expected = oracle.outcome([], history)
        assert len(expected.summaries) == len(BAD_BOOKINGS)
        assert system.outcome() == expected
        letters_as_expected(system, [(bad, at) for (bad, _), at in zip(sent, landed, strict=True) if bad is not None])
        assert system.workers[0].running


def test_booking_records_of_a_wrong_key_or_partition_count(kafka: Broker, redis_server: Redis) -> None:
    guid = "88214716-abcd-4ef0-9012-3456789abcde"
    with running(System(kafka, redis_server)) as system:
        first = [_upsert(booking, 1) for booking in ("named", "other", "stray", guid)]
        named, other, stray, spelled = (system.booking(_upsert(booking, 2)) for booking in ("named", "other", "stray", guid))
        away = [n for n in range(system.settings.partitions) if n != stray.partition]
        topic, upper = named.topic, _upsert(guid, 3)
        upper["data"]["bookingId"] = guid.upper()
        moved = [
            # compaction would take it for the record of `named`, whose own one is appended again
            Record(topic, b"named", other.value, [], named.partition),
            Record(topic, guid.upper().encode(), json.dumps(upper).encode(), [], spelled.partition),
            *(Record(topic, b" stray ", value, [], n) for value in (stray.value, None) for n in away),
        ]
        bad = Bad(Record(topic, b"\xff", None, [], 0), "invalid-field", "key")
        system.publish(system.booking(each) for each in first)
        landed = send(system, [*moved, bad.record])
        history = [BookingRecord(each["data"]["bookingId"], each) for each in [*first, _upsert("other", 2), upper]]
        expected = oracle.outcome([], [*history, BookingRecord("stray", None)])
        system.until_settled()
        assert system.outcome() == expected
        letters_as_expected(system, [(bad, landed[-1])])
        last = [record for record in system.consume(topic) if record.key == b"named"][-1]
        assert (json.loads(last.value), last.partition) == (first[0], named.partition)
        assert parse_time(dict(last.headers)["attendance-received"].decode()) < landed[0].timestamp * 1000


FIRST, LAST = "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"


@pytest.mark.parametrize("stray", [False, True], ids=["in its partition", "to be forwarded"])
def test_an_event_of_the_year_1_stops_nothing(kafka: Broker, redis_server: Redis, stray: bool) -> None:
    """Good by every rule: its time has an offset and is not too old. In UTC it is of the year before."""
    with running(System(kafka, redis_server)) as system:
        document = envelope("attendance.check_in", "1", FIRST, {"bookingId": "old", "sessionId": "s1"})
        record = system.event(document, [("attendance-received", FIRST.encode())])
        record.partition = (record.partition + stray) % 4 if record.partition is not None else 0
        _and_then_a_good_one(system, record)


@pytest.mark.parametrize(
    ("time", "starts", "ends"), [("2026-11-22T10:00:00Z", FIRST, LAST), (LAST, "2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z")]
)
def test_a_booking_at_the_ends_of_time_stops_nothing(
    kafka: Broker, redis_server: Redis, time: str, starts: str, ends: str
) -> None:
    with running(System(kafka, redis_server)) as system:
        listed = [{"sessionId": "s2", "startsAt": starts, "endsAt": ends}]
        data = {"bookingId": "far", "numberOfParticipants": 1, "sessions": listed}
        booking = envelope("booking.upserted", "1", time, data)
        came = envelope("attendance.check_in", "1", "2026-11-22T10:00:00Z", {"bookingId": "far", "sessionId": "s1"})
        system.publish([system.event(came), system.booking(booking)])
        data["sessions"] = [*listed, {"sessionId": "s1"}]  # resolves UNKNOWN_SESSION
        _and_then_a_good_one(system, system.booking(booking))
        assert system.outcome().tallies["s2"]["bookings"] == 1


def _and_then_a_good_one(system: System, record: Record) -> None:
    good = envelope("attendance.check_in", "2", "2026-11-22T10:00:00Z", {"bookingId": "later", "sessionId": "s1"})
    system.publish([record])
    system.publish(system.event({**good, "data": {"bookingId": f"later-{number}", "sessionId": "s9"}}) for number in range(20))
    system.until_applied(30)
    assert system.workers[0].running
    tally = system.read(lambda reader: reader.session("s9"))
    assert tally is not None
    assert tally["attended"] == 20
