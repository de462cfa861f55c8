"""Crashes, lost Redis data and stopped workers: what Redis and the alerts topic say in the end is what the oracle counts."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.group import LeaveGroupRequest

from schemas.times import format_time
from tests.integration.test_main_job import MINUTE, World, envelope, exact
from tests.support import oracle
from tests.support.dying_worker import EXIT_CODE, POINTS, POLL_RECORDS, UNTOLD
from tests.support.oracle import BookingRecord, Delivery, Outcome
from tests.support.services import Broker, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import Record, System, WorkerProcess, running
from worker.read_model.keys import PartitionKeys, namespace
from worker.read_model.reader import ReaderError
from worker.read_model.writer import PartitionWriter
from worker.redis.client import create_redis

DYING = (sys.executable, "-m", "tests.support.dying_worker")
#: A worker with small batches and small chunks, so that faults meet it in the middle of something.
BUSY = (*DYING, "never", "any", "0")
#: Events batches never change both tables.
ONLY_BOOKINGS = {"between the two changelogs"}


def die(system: System, point: str, topic: str, passes: int) -> None:
    """Runs a worker until it dies at the point, and has its group forget it, as the session timeout would."""
    worker = system.start_worker([*DYING, point, topic, str(passes)])
    try:
        assert worker.wait(30) == EXIT_CODE, worker.said()
    except subprocess.TimeoutExpired:
        raise AssertionError(f"never came to {point!r} in {topic}\n{worker.said()}") from None
    asyncio.run(_forget_members(system))


async def _forget_members(system: System) -> None:
    group = system.settings.topic_prefix
    admin = AIOKafkaAdminClient(**system.settings.kafka_client())
    await admin.start()
    try:
        (described,) = await admin.describe_consumer_groups([group])
        coordinator = await admin.find_coordinator(group)
        for member_id, *_ in described.groups[0][5]:
            await admin._send_request(LeaveGroupRequest(group, member_id), coordinator)
    finally:
        await admin.close()


def split(records: list[Record], parts: int) -> list[list[Record]]:
    """The records in so many parts, one after the other."""
    size = -(-len(records) // parts)
    return [records[start : start + size] for start in range(0, len(records), size)]


def agrees(system: System, expected: Outcome) -> None:
    """Once everything is applied, Redis and the alerts topic hold what is expected; nothing less was ever shown as that."""
    system.until_applied()
    found: list[Outcome] = []

    def answered() -> bool:
        try:
            found.append(system.outcome())
        except ReaderError:
            return False
        return True

    assert wait_until(answered, 20), "the read models stopped serving"
    shown = {**found[0]._asdict(), "alerts topic": system.open_alerts_of_topic()}
    wanted = {**expected._asdict(), "alerts topic": expected.alerts}
    assert {n: _different(shown[n], wanted[n]) for n in wanted} == {n: {} for n in wanted}, "(shown, expected) of each"


def _different(shown: dict[Any, Any], wanted: dict[Any, Any]) -> dict[Any, Any]:
    keys = shown.keys() | wanted.keys()
    return {key: (shown.get(key), wanted.get(key)) for key in keys if shown.get(key) != wanted.get(key)}


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_between_any_two_effects_loses_nothing(kafka: Broker, redis_server: Redis, point: str) -> None:
    """The worker dies in a batch of events, the next one in a batch of booking records."""
    world = World(seed=100 + POINTS.index(point), events=400, strays=True)
    with System(kafka, redis_server) as system:
        first, *others = split(world.records(system, random.Random(3)), 4)
        system.publish(first)
        if point in ONLY_BOOKINGS:
            # attendances that the booking records to come will change, whatever a worker then reads first
            worker = system.start_worker(BUSY)
            system.until_applied()
            worker.terminate()
        else:
            die(system, point, "events", 2)
        system.publish(record for part in others for record in part)
        die(system, point, "bookings", 1)
        system.start_worker(BUSY)
        system.until_settled()
        agrees(system, world.outcome())


@pytest.mark.slow
def test_six_crashes_in_a_row_lose_nothing(kafka: Broker, redis_server: Redis) -> None:
    """At random points, with events and booking records published in between."""
    chance = random.Random(8)
    world = World(seed=21, events=900, strays=True)
    with System(kafka, redis_server) as system:
        *parts, last = split(world.records(system, chance), 7)
        for part in parts:
            system.publish(part)
            die(system, chance.choice(sorted({*POINTS} - ONLY_BOOKINGS)), "any", chance.randrange(1, 5))
        system.publish(last)
        system.start_worker(BUSY)
        system.until_settled()
        agrees(system, world.outcome())


def scan(participant: str, seconds: int) -> Delivery:
    start = 1_795_000_000_000_000
    data = {"bookingId": "BK", "sessionId": "s1", "participantId": participant}
    event = envelope(participant, "gate", "attendance.participant_scanned", start + seconds * 1_000_000, data)
    return Delivery(event, start + MINUTE)


def listing(number: int, sessions: list[str], booking_id: str = "BK") -> BookingRecord:
    listed = [{"sessionId": name, "startsAt": format_time(1_795_000_000_000_000)} for name in sessions]
    data = {"bookingId": booking_id, "numberOfParticipants": 3, "sessions": listed}
    return BookingRecord(booking_id, envelope(f"b{number}", "bookings", "booking.upserted", 1_795_000_000_000_000, data))


@pytest.mark.parametrize("change", ["a late scan", "a session no longer listed"])
def test_a_change_that_only_one_row_shows_survives_a_crash(kafka: Broker, redis_server: Redis, change: str) -> None:
    """Stored and not yet shown: when the record comes again, the tables alone do not tell what readers still see."""
    scans, listings = [scan("p1", 30)], [listing(1, ["s1", "s2"])]
    with running(System(kafka, redis_server, partitions=1)) as system:

        def publish(delivery: Delivery | None = None, booking: BookingRecord | None = None) -> None:
            if delivery is not None:
                system.publish([system.event(delivery.event, [("attendance-received", exact(delivery.received))])])
            if booking is not None and booking.event is not None:
                system.publish([system.booking(booking.event)])

        publish(scans[0], listings[0])
        system.until_applied()
        assert system.workers[0].terminate() == 0
        if change == "a late scan":
            scans.append(scan("p2", 20))
            publish(scans[-1])
            die(system, "changelog sent, table unchanged", "events", 1)
        else:
            listings.append(listing(2, ["s1"]))
            publish(None, listings[-1])
            die(system, "changelog sent, table unchanged", "bookings", 1)
        system.start_worker()
        agrees(system, oracle.outcome(scans, listings))


def test_what_two_stored_records_dropped_is_told_after_a_crash(kafka: Broker, redis_server: Redis) -> None:
    """The second one of the booking is stored before readers were told of the first, which dropped a session."""
    listings = [listing(1, ["s1", "s2"])]
    with running(System(kafka, redis_server, partitions=1)) as system:
        system.publish(system.booking(each.event) for each in listings if each.event)
        system.until_applied()
        assert system.workers[0].terminate() == 0
        between = [listing(number, ["s1"], f"other-{number}") for number in range(POLL_RECORDS)]
        listings += [listing(2, ["s1"]), *between, listing(3, ["s1", "s3"])]
        system.publish(system.booking(each.event) for each in listings[1:] if each.event)
        die(system, UNTOLD, "bookings", 2)
        system.start_worker()
        agrees(system, oracle.outcome([], listings))


def test_flushed_redis_comes_back_by_itself(kafka: Broker, own_redis: RedisServer) -> None:
    """Under load and idle; what was erased stays erased."""
    world = World(seed=31, events=900)
    with System(kafka, own_redis) as system:
        system.start_worker(BUSY)
        system.until_serving()
        for part in split(world.records(system, random.Random(4)), 6):
            system.publish(part)
            assert own_redis.ask("FLUSHALL") == "+OK"
        agrees(system, world.outcome())
        assert own_redis.ask("FLUSHALL") == "+OK"
        agrees(system, world.outcome())


def test_redis_restarts_while_events_come_in(kafka: Broker, own_redis: RedisServer) -> None:
    world = World(seed=32, events=600)
    with System(kafka, own_redis) as system:
        worker = system.start_worker(BUSY)
        system.until_serving()
        for part in split(world.records(system, random.Random(5)), 4):
            system.publish(part)
            own_redis.restart()
        agrees(system, world.outcome())
        assert worker.running


@pytest.mark.slow
def test_redis_away_for_longer_than_the_session_timeout(kafka: Broker, own_redis: RedisServer) -> None:
    """The worker waits, keeps its partitions, and catches up."""
    world = World(seed=33, events=600)
    with System(kafka, own_redis) as system:
        worker = system.start_worker(BUSY)
        system.until_serving()
        first, second, last = split(world.records(system, random.Random(6)), 3)
        system.publish(first)
        own_redis.stop()
        try:
            system.publish(second)
            assert not wait_until(lambda: not worker.running, 8), worker.said()
        finally:
            own_redis.start()
        system.publish(last)
        agrees(system, world.outcome())
        assert worker.running
        assert worker.said().count("event=assigned") == 1, worker.said()


def holds_partitions(worker: WorkerProcess) -> bool:
    """Whether the last assignment gave it any."""
    said = [line for line in worker.said().splitlines() if "event=recovered" in line]
    return bool(said) and "[]" not in said[-1]


@pytest.mark.slow
def test_a_worker_stopped_for_longer_than_its_session_goes_on(kafka: Broker, redis_server: Redis) -> None:
    """It wakes in the middle of what it did, its partitions long given to another."""
    world = World(seed=34, events=1200)
    with System(kafka, redis_server) as system:
        stopped, other = system.start_worker(BUSY), system.start_worker(BUSY)
        assert wait_until(lambda: holds_partitions(stopped) and holds_partitions(other), 40)
        first, second, last = split(world.records(system, random.Random(7)), 3)
        system.publish(first)
        stopped.signal(signal.SIGSTOP)
        system.publish(second)
        system.until_applied()
        stopped.signal(signal.SIGCONT)
        system.publish(last)
        assert wait_until(lambda: stopped.said().count("event=recovered") > 1, 40), stopped.said()
        agrees(system, world.outcome())


def test_an_idle_partition_that_another_claimed_serves_again(kafka: Broker, redis_server: Redis) -> None:
    """A worker that was given up claims, and is gone; the owner has nothing to write, and yet its heartbeat comes back."""
    with running(System(kafka, redis_server, partitions=1)) as system:
        keys = PartitionKeys(namespace(system.settings.redis_namespace), 0)

        async def claim() -> None:
            client = create_redis(system.settings)
            generation: Any = await client.hget(keys.watermark, "generation")
            await PartitionWriter(client, keys.namespace, 0, generation.decode()).claim()
            await client.aclose()

        asyncio.run(claim())
        claimed = time.time() * 1000

        def beats() -> bool:
            (partition,) = system.read(lambda reader: reader.status())
            return int(partition.mark["writtenAt"]) > claimed and partition.state == "live"

        assert wait_until(beats, 20), "the owner's heartbeat stays refused while no event comes"
