"""Which bookings a batch leaves with rows that are to leave."""

from types import SimpleNamespace

import orjson
import pytest

from schemas.times import format_exact_time
from tests.support.cores import Tables
from worker.domain.alert_rules import Rules
from worker.domain.fold import NEVER
from worker.domain.rows import EVENTS

START = 1_795_000_000_000_000
ERASED = 1_000
RULES = Rules(clock_tolerance=0, conflict_window=600, max_event_age=10_000)


def record(kind: str, time: int) -> SimpleNamespace:
    data = {"bookingId": "b", "sessionId": "s"}
    document = {"specversion": "1.0", "id": "1", "source": "/kiosk", "type": kind, "data": data}
    at = format_exact_time(START + time)
    value = orjson.dumps({**document, "time": at})
    headers = [("attendance-received", at.encode())]
    return SimpleNamespace(value=value, headers=headers, timestamp=START // 1000 + 60_000, key=b"b", offset=0)


@pytest.mark.parametrize(
    ("horizon", "kind", "time", "leaves"),
    [
        # the erasure covers it: it makes no row
        (ERASED, "attendance.deleted", 500, False),
        (ERASED, "attendance.deleted", 1_500, False),
        (ERASED, "attendance.check_in", 500, False),
        (ERASED, "attendance.check_in", 1_500, False),
        (ERASED, "booking.erased", 1_500, True),
        (NEVER, "booking.erased", 500, True),
        (NEVER, "attendance.deleted", 500, False),
    ],
)
def test_rows_of_an_erased_booking_that_are_void_leave(horizon: int, kind: str, time: int, leaves: bool) -> None:
    tables = Tables(RULES)
    if horizon != NEVER:
        tables.fold(EVENTS, [record("booking.erased", horizon)])
    _, changes = tables.fold(EVENTS, [record(kind, time)])
    assert changes.erasing == (["b"] if leaves else [])
