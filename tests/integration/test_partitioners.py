"""Producers on librdkafka (Python, Go, .NET, Node, PHP, Ruby): its partitioners are not Kafka's, and all is counted."""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from schemas.times import format_time
from tests.support.bad_records import envelope
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import System, running
from worker.topics import partition_of

BOOKINGS = 12
KINDS = {"bookings": "booking.upserted", "events": "attendance.check_in"}


@pytest.fixture(scope="module")
def system(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with running(System(kafka, redis_server)) as system:
        yield system


@pytest.mark.parametrize("partitioner", ["consistent_random", "murmur2_random", "fnv1a", "random"])
@pytest.mark.parametrize("keyed", [True, False], ids=["by bookingId", "by other keys"])
def test_every_partitioner_of_librdkafka_is_counted(system: System, partitioner: str, keyed: bool) -> None:
    """Also events without keys; Kafka itself refuses booking records without, since their topic is compacted."""
    session = f"session-{uuid4().hex}"
    bookings = [str(uuid4()).upper() if n % 2 else f"BK/{session}/{n}" for n in range(BOOKINGS)]
    listed = {"numberOfParticipants": 2, "sessions": [{"sessionId": session}]}
    came = [{"bookingId": name, "sessionId": session} for name in bookings]
    keys = bookings if keyed else [uuid4().hex for _ in bookings]
    _publish(system, partitioner, "bookings", [{"bookingId": name, **listed} for name in bookings], keys)
    _publish(system, partitioner, "events", came, keys if keyed else [None] * BOOKINGS)
    wanted = {"bookings": BOOKINGS, "attended": BOOKINGS, "attendees": BOOKINGS, "expectedParticipants": 2 * BOOKINGS}
    assert wait_until(lambda: _tally(system, session, wanted) == wanted, 30), _tally(system, session, wanted)
    assert system.consume(system.topics.dead_letters) == []


def test_updates_by_librdkafka_hold_in_their_order(system: System) -> None:
    """Bookings that change again and again, in one batch of the producer: all received in the same millisecond."""
    session, names = f"session-{uuid4().hex}", [f"again-{uuid4().hex}" for _ in range(BOOKINGS)]
    updates = [
        {"bookingId": name, "numberOfParticipants": number, "sessions": [{"sessionId": session}]}
        for number in range(1, 21)
        for name in names
    ]
    _publish(system, "consistent_random", "bookings", updates, names * 20)
    wanted = {"bookings": BOOKINGS, "expectedParticipants": 20 * BOOKINGS}
    assert wait_until(lambda: _tally(system, session, wanted) == wanted, 30), _tally(system, session, wanted)
    _null(system, names[::2])
    wanted = {"bookings": BOOKINGS // 2, "expectedParticipants": 20 * BOOKINGS // 2}
    assert wait_until(lambda: _tally(system, session, wanted) == wanted, 30), _tally(system, session, wanted)
    found = {(r.partition, r.key) for r in system.consume(system.topics.bookings) if r.key and r.key.decode() in names}
    assert {(partition_of(name, system.settings.partitions), name.encode()) for name in names} <= found
    assert system.consume(system.topics.dead_letters) == []


def _publish(system: System, partitioner: str, topic: str, data: list[dict[str, Any]], keys: Sequence[str | None]) -> None:
    producer, kind = _producer(system, partitioner), KINDS[topic]
    for each, key in zip(data, keys, strict=True):
        document = envelope(kind, uuid4().hex, format_time(1_795_000_000_000_000), each)
        producer.produce(getattr(system.topics, topic), json.dumps(document), key, headers={"trace": "1"})
    assert producer.flush(30) == 0


def _null(system: System, names: list[str]) -> None:
    producer = _producer(system, "consistent_random")
    for name in names:
        producer.produce(system.topics.bookings, None, f" {name}")
    assert producer.flush(30) == 0


def _producer(system: System, partitioner: str) -> Any:
    servers = ",".join(system.settings.bootstrap_servers)
    return Producer({"bootstrap.servers": servers, "partitioner": partitioner, "linger.ms": 20})


def _tally(system: System, session: str, fields: dict[str, int]) -> dict[str, int]:
    tally = system.read(lambda reader: reader.session(session))
    return {name: tally[name] for name in fields} if tally else {}
