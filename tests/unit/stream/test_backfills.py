"""Alerts of records that an operator published again carry the operation; those with a live record do not."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.times import parse_time
from tests.support.cores import finished
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, apply_records
from worker.stream.decode_batch import DecodedBatch, read_bookings, read_events
from worker.stream.projection import Projection

TIME = "2026-11-22T10:00:00Z"
RULES = Rules(300_000_000, 600_000_000, 30 * 86_400_000_000)
FIRST, SECOND = (("attendance-backfill", b"replay-1"),), (("Attendance-Backfill", b"replay-2"),)
Headers = Sequence[tuple[str, bytes | None]]


def record(kind: str, data: dict[str, Any], headers: Headers, offset: int = 0) -> Any:
    document = {"specversion": "1.0", "id": str(offset), "source": "k", "type": kind, "time": TIME, "data": data}
    key, timestamp = data["bookingId"].encode(), parse_time(TIME) // 1000
    return SimpleNamespace(value=json.dumps(document).encode(), headers=headers, timestamp=timestamp, key=key, offset=offset)


def odd_check_in(booking: str, headers: Headers = (), offset: int = 0) -> Any:
    """ATTENDED with 0: STATUS_COUNT_MISMATCH."""
    return record("attendance.check_in", {"bookingId": booking, "sessionId": "s", "numberOfAttendees": 0}, headers, offset)


def decoded(*records: Any) -> DecodedBatch:
    return read_events(records, lambda _: True, RULES.max_event_age, RULES.clock_tolerance)


def published(batch: DecodedBatch) -> dict[str, Any]:
    """By booking, the CloudEvent of its alert."""
    projection = Projection(known=True, backfills=batch.backfills)
    projection.add(apply_records([(BookingState(name), events, ()) for name, events in batch.events.items()], RULES))
    return {event["data"]["bookingId"]: event for event in projection.published}


def test_only_bookings_without_a_live_record_are_marked() -> None:
    records = [odd_check_in("b1", FIRST), odd_check_in("b2"), odd_check_in("b3", FIRST, 1), odd_check_in("b3", (), 2)]
    records += [odd_check_in("b4", (), 1), odd_check_in("b4", FIRST, 2)]
    records += [odd_check_in("b5", FIRST), odd_check_in("b5", SECOND, 1)]
    events = published(decoded(*records))
    assert {name: event.get("backfill") for name, event in events.items()} == {
        "b1": "replay-1",
        "b2": None,
        "b3": None,
        "b4": None,
        "b5": "replay-2",
    }


def test_the_attribute_leaves_the_rest_of_the_event_alone() -> None:
    marked, live = (published(decoded(odd_check_in("b1", headers)))["b1"] for headers in (FIRST, ()))
    assert {**live, "backfill": "replay-1"} == marked


@pytest.mark.parametrize("value", [None, b"", b"two words", b"\xff", b"x" * 65])
def test_a_header_that_names_no_operation_is_ignored(value: bytes | None) -> None:
    assert "backfill" not in published(decoded(odd_check_in("b1", [("attendance-backfill", value)])))["b1"]


def test_booking_records_of_a_booking_count_together() -> None:
    def upserted(booking: str, headers: Headers, offset: int) -> Any:
        return record("booking.upserted", {"bookingId": booking, "numberOfParticipants": 1}, headers, offset)

    records = [upserted("b1", FIRST, 0), upserted("b2", FIRST, 1), upserted("b1", FIRST, 2), upserted("b2", (), 3)]
    assert finished(read_bookings(records, lambda _: True)).backfills == {"b1": "replay-1", "b2": ""}
