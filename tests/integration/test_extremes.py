"""The largest booking record, and devices with every fault at once."""

from tests.integration.test_main_job import envelope
from tests.support.services import Broker, Redis
from tests.support.system import System, running

START = 1_795_000_000_000_000
LIMIT = 512 * 1024


def test_a_booking_of_the_largest_size_is_joined_and_can_shrink(kafka: Broker, redis_server: Redis) -> None:
    names = [f"{number:05d}-" + "ä" * 90 for number in range(2500)]
    with running(System(kafka, redis_server)) as system:
        for listed in (names, names[:3]):
            data = {"bookingId": "BK-1", "numberOfParticipants": 2, "sessions": [{"sessionId": name} for name in listed]}
            record = system.booking(envelope("1", "bookings", "booking.upserted", START, data))
            # as a booking system writes it that does not escape what is no ASCII
            record.value = (record.value or b"").decode("unicode_escape").encode()
            assert len(record.value) <= LIMIT
            assert len(record.value) > LIMIT * 0.95 or listed is not names
            system.publish([record])
            system.until_applied()
            assert system.read(lambda reader: reader.sessions(10_000)) == sorted(listed)
        summary = system.read(lambda reader: reader.booking("BK-1"))
        assert summary is not None
        assert summary["notSet"] == 3


def test_simulated_devices_with_every_fault(kafka: Broker, redis_server: Redis) -> None:
    faults = ("--duplicates", "0.2", "--offline", "0.2", "--bad-clocks", "0.1", "--bad-payloads", "0.05", "--burst", "3")
    with running(System(kafka, redis_server)) as system:
        done = system.run_cli("simulate", "--count", "3000", "--bookings", "40", "--sessions", "5", *faults)
        assert done.returncode == 0, done.stderr
        system.until_applied()
        letters = system.consume(system.topics.dead_letters)
        reasons = {dict(letter.headers)["reason"].decode() for letter in letters}
        assert {"invalid-json", "invalid-envelope", "time-too-old"} <= reasons
        tallies = [system.read(lambda reader, s=f"session-{i:03d}": reader.session(s)) for i in range(5)]
        assert all(tally and tally["bookings"] >= 39 and tally["attended"] > 0 for tally in tallies)
        assert system.open_alerts_of_topic() == system.outcome().alerts
