"""Which bookings a batch leaves with rows that are to leave."""

import pytest

from schemas.events import Event
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, apply_records
from worker.domain.fold import NEVER
from worker.stream.booking_store import ChangedRows

ERASED = 1_000
RULES = Rules(clock_tolerance=0, conflict_window=600, max_event_age=10_000)


def event(kind: str, time: int, session: str = "s") -> Event:
    return Event(kind, "b", session, time, "/kiosk", "1", "", None, "", time)


@pytest.mark.parametrize(
    ("horizon", "late", "leaves"),
    [
        # the erasure covers it: it makes no row
        (ERASED, event("attendance.deleted", 500), False),
        (ERASED, event("attendance.deleted", 1_500), False),
        (ERASED, event("attendance.check_in", 500), False),
        (ERASED, event("attendance.check_in", 1_500), False),
        (ERASED, event("booking.erased", 1_500, ""), True),
        (NEVER, event("booking.erased", 500, ""), True),
        (NEVER, event("attendance.deleted", 500), False),
    ],
)
def test_rows_of_an_erased_booking_that_are_void_leave(horizon: int, late: Event, leaves: bool) -> None:
    state, changed = BookingState("b", erasure_horizon=horizon), ChangedRows()
    changed.add(apply_records([(state, [late], ())], RULES))
    assert changed.erasing == (["b"] if leaves else [])
