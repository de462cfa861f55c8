"""A worker that meets table rows of another version ends with one line that says what to do."""

from struct import pack

import pytest

from tests.support.services import Broker, Redis
from tests.support.system import Record, System
from worker.topics import partition_of

BOOKING = b"BK-1"
#: As format 2 had them: the newest report is the base, and its order key had 16 bytes of digest.
SESSION = pack(">BBq3sBI", 2, 0, -(1 << 63), bytes.fromhex("0f1100"), 0, 1) + bytes(32) + b"\0\x02/k"
APPLIED = pack(">Bqq", 2, 1, 0)
REFERENCE = pack(">BqBIqHH", 2, 0, 1, 2, 0, 0, 0)
ROWS = {
    "an attendance written twice": ([(BOOKING + b"\0s1", SESSION), (BOOKING + b"\0s1", SESSION[:-1] + b"2")], []),
    "offsets": ([(b"\0\x01applied", APPLIED)], []),
    "a booking": ([], [(BOOKING + b"\0", REFERENCE)]),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_format_2_end_a_worker_with_one_line(kafka: Broker, redis_server: Redis, kind: str) -> None:
    with System(kafka, redis_server, partitions=1) as system:
        partition = partition_of(BOOKING.decode(), 1)
        changelogs = (system.topics.attendance_changelog, system.topics.bookings_changelog)
        for topic, rows in zip(changelogs, ROWS[kind], strict=True):
            system.publish(Record(topic, key, value, [], partition) for key, value in rows)
        worker = system.start_worker()
        assert worker.wait(60) == 1, worker.said()
        told = [line for line in worker.said().splitlines() if "format 2" in line]
        assert len(told) == 1, worker.said()
        assert "ATTENDANCE_TOPIC_PREFIX" in told[0]
        assert "Traceback" not in worker.said()
