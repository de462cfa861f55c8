"""Records as no one should send them, what becomes of each, and the dead letters that must say so."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka.structs import RecordMetadata

from schemas.times import format_time, parse_time
from tests.support.oracle import Delivery
from tests.support.system import Record, System
from worker.kafka import create_producer
from worker.topics import partition_of

GUID = "88214716-ABCD-4EF0-9012-3456789ABCDE"
Headers = list[tuple[str, bytes]]


class Bad(NamedTuple):
    """A record that can't be used, and how the dead letter's reason and detail must begin."""

    record: Record
    reason: str
    detail: str


def envelope(kind: str, identity: str, time: str, data: Any, **more: Any) -> dict[str, Any]:
    whole = {"specversion": "1.0", "id": identity, "source": f"/devices/kiosk-{len(identity)}", "type": kind, "time": time}
    return {**whole, "data": data, **more}


def send(system: System, records: Sequence[Record]) -> list[RecordMetadata]:
    """Sends in order; where each landed and when the broker appended it."""

    async def sending() -> list[RecordMetadata]:
        producer = create_producer(system.settings, linger_ms=5)
        await producer.start()
        try:
            sent = [
                await producer.send(r.topic, key=r.key, value=r.value, headers=r.headers, partition=r.partition)
                for r in records
            ]
            return list(await asyncio.gather(*sent))
        finally:
            await producer.stop()

    return asyncio.run(sending())


def received(record: Record, landed: RecordMetadata) -> int:
    """When it was received, microseconds: appended or, where that is earlier, as its header says."""
    said = [parse_time(content.decode()) for name, content in record.headers if name == "attendance-received"]
    return min([landed.timestamp * 1000, *said])


def delivery(document: dict[str, Any], record: Record, landed: RecordMetadata) -> Delivery:
    return Delivery(document, received(record, landed))


def letters_as_expected(system: System, bad: Sequence[tuple[Bad, RecordMetadata]]) -> None:
    """Exactly these dead letters: originals untouched; reason, detail and origin in headers."""
    found = {}
    for letter in system.consume(system.topics.dead_letters):
        said = dict(letter.headers)
        origin = (said["topic"].decode(), int(said["partition"]), int(said["offset"]))
        assert origin not in found, f"{origin} is there twice"
        found[origin] = letter
    # a producer's own account of a record's timestamp may be a millisecond off
    topics = {at.topic for _, at in bad}
    appended = {(r.topic, r.partition, r.offset): r.timestamp for topic in topics for r in system.consume(topic)}
    assert set(found) == {(at.topic, at.partition, at.offset) for _, at in bad}
    for (record, reason, detail), at in bad:
        letter = found[at.topic, at.partition, at.offset]
        assert (letter.key, letter.value) == (record.key, record.value), reason
        names = [name for name, _ in letter.headers]
        ours = ["reason", "detail", "topic", "partition", "offset", "first-seen"]
        assert [names.count(name) for name in ours] == [1] * len(ours)
        said = {name: content.decode() for name, content in letter.headers if name in ours}
        assert said["reason"] == reason, (record.value, said)
        assert said["detail"].startswith(f"{detail}: "), (record.value, said)
        first = appended[at.topic, at.partition, at.offset] * 1000
        seen = min(first, received(record, at)) if at.topic == system.topics.events else first
        assert said["first-seen"] == format_time(seen), (at, letter)
        kept = [(name, content) for name, content in letter.headers if name not in ours]
        assert kept == [(name, content) for name, content in record.headers if name not in ours]


def bad_events(system: System, chance: random.Random, now: str, copies: int) -> list[Bad]:
    """Every way in which an event can be bad, some times each, keyed by bookings that have good ones too."""
    made = []
    for number in range(copies):
        for value, reason, detail, headers in _bad_values(now, f"bad-{number}"):
            booking = f"BK-{chance.randrange(100)}"
            nobody = None if value is not None else b""  # Kafka's clients refuse a record without key and value
            key = chance.choice([booking.encode(), booking.encode(), nobody, b"\xff\x00"])
            partition = chance.randrange(system.settings.partitions)
            made.append(Bad(Record(system.topics.events, key, value, list(headers), partition), reason, detail))
    return made


def _bad_values(now: str, name: str) -> list[tuple[bytes | None, str, str, Headers]]:
    data = {"bookingId": f"BK-{name}", "sessionId": "s1"}
    good = envelope("attendance.check_in", name, now, data)

    def of(**changes: Any) -> bytes:
        return json.dumps({**good, **changes}).encode()

    def field(kind: str = "attendance.check_in", **changes: Any) -> bytes:
        return json.dumps({**good, "type": kind, "data": {**data, **changes}}).encode()

    without = {k: v for k, v in good.items() if k != "id"}
    booking = {"bookingId": "BK-1", "numberOfParticipants": 2}
    ce = [(f"ce_{k}", v.encode()) for k, v in good.items() if k != "data"]
    forged = [("reason", b"forged"), ("offset", b"0"), ("note", b"mine"), ("first-seen", b"never")]
    long_ago = [("attendance-received", b"2026-01-01T00:00:00Z")]
    return [
        (None, "invalid-json", "value", []),
        (b"", "invalid-json", "value", []),
        (b"{", "invalid-json", "value", forged),
        (b"[]", "invalid-json", "value", []),
        (b"\xff\xfe{\x00}\x00", "invalid-json", "value", []),
        (b"\0\0\0\0\7" + b"\xef\xbb\xbf" * 2 + of(), "invalid-json", "value", []),
        (of(data_base64="e30="), "invalid-envelope", "data_base64", []),
        (of(data=None, data_base64="e30"), "invalid-field", "data_base64", []),
        (of(data=None, data_base64="W10="), "invalid-field", "data_base64", []),
        (b"[" * 60_000, "invalid-json", "value", []),
        (of(pad="x" * 65_536), "too-large", "value", []),
        (of(pad="x" * 2**20), "too-large", "value", long_ago),
        (json.dumps(without).encode(), "invalid-envelope", "id", []),
        (of(time="2026-11-22T10:00:00"), "invalid-envelope", "time", []),
        (of(source="a\nb"), "invalid-envelope", "source", []),
        (b"{}", "invalid-envelope", "source", ce[:2] + ce[3:]),
        (of(type="attendance.nonsense"), "unknown-type", "type", []),
        (of(type="booking.upserted", data=booking), "unknown-type", "type", []),
        (of(type="booking.deleted", data=booking), "unknown-type", "type", []),
        (of(data="x"), "invalid-field", "data", []),
        (b"{}", "invalid-field", "data.bookingId", ce),
        (field(bookingId=5), "invalid-field", "data.bookingId", []),
        (field(bookingId=" "), "invalid-field", "data.bookingId", []),
        (field(sessionId=None), "invalid-field", "data.sessionId", []),
        (field(sessionId="x\x00"), "invalid-field", "data.sessionId", long_ago),
        (field(numberOfAttendees="2"), "invalid-field", "data.numberOfAttendees", []),
        (field(numberOfAttendees=100_001), "invalid-field", "data.numberOfAttendees", []),
        (field("attendance.set", status="attended"), "invalid-field", "data.status", []),
        (field("attendance.participant_scanned"), "invalid-field", "data.participantId", []),
        (field("booking.erased", bookingId="x" * 129), "invalid-field", "data.bookingId", []),
        (of(time="1970-01-01T00:00:00Z"), "time-too-old", "time", []),
        (of(time="0001-01-01T00:00:00Z"), "time-too-old", "time", long_ago),
    ]


def odd_events(system: System, now: str, ahead: str) -> list[tuple[dict[str, Any], Record]]:
    """Good events that come in odd ways: without key, with another, in another partition, by a wrong clock, in other modes."""
    partitions = system.settings.partitions
    made = []
    for number in range(40):
        booking, session = f"odd-{number}", f"s{number % 6}"
        kind = ["attendance.check_in", "attendance.no_show"][number % 2]
        long_ago = "1970-01-01T00:00:00.5Z"
        time = [now, now, now, now, ahead, "9999-12-31T23:59:59.999999Z", long_ago, now][number % 8]
        data = {"bookingId": f"  {GUID} " if number % 8 == 7 else booking, "sessionId": session}
        document = envelope(kind, f"odd-{number}", time, data)
        record = system.event({**document, "data": {**data, "bookingId": GUID.lower() if number % 8 == 7 else booking}})
        record.value = json.dumps(document).encode()
        right = partition_of(booking, partitions)
        if number % 8 == 0:
            record.key = None
        elif number % 8 == 1:
            record.key = b"another"
        elif number % 8 == 2:
            record.partition = (right + 1) % partitions
        elif number % 8 == 3:
            record.key, record.partition = None, (right + 1 + number % 3) % partitions
            record.headers = [("attendance-received", b"2026-11-01T10:00:00.123456Z"), ("note", b"kept")]
            document["time"] = "2026-11-01T11:00:00Z"
            record.value = json.dumps(document).encode()
        elif number % 8 == 6:
            record.headers = [("attendance-received", long_ago.encode())]
        elif number % 8 == 7:
            record.headers = [(f"ce_{k}", v.encode()) for k, v in document.items() if k != "data"]
            record.value = json.dumps(data).encode()
        made.append((document, record))
    return made
