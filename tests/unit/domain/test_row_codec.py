"""The order key as bytes, and the short way of the fold against the long one."""

from typing import Any

import pytest

from schemas.events import Event
from worker.domain import fold

TOLERANCE = 300_000_000
MOMENT = 1_795_341_600_000_000
ZERO = 1 << 63


def event(kind: str, time: int, received: int, **more: Any) -> Event:
    given = {"source": "/k/1", "id": "1", "status": "", "number": None, "participant_id": "", **more}
    return Event(type=f"attendance.{kind}", booking_id="b", session_id="s", time=time, received=received, **given)


@pytest.mark.parametrize(
    ("time", "received", "effective"),
    [
        (MOMENT, MOMENT + 7, MOMENT),
        (MOMENT + TOLERANCE + 8, MOMENT + 7, MOMENT + TOLERANCE + 7),
        (-5, MOMENT, -5),
    ],
)
def test_a_key_is_effective_time_time_received_digest(time: int, received: int, effective: int) -> None:
    """The digest is that of sha256sum(1) of the lines /k/1, 1, attendance.check_in and three that are empty."""
    key = fold.order_key(event("check_in", time, received), TOLERANCE)
    times = b"".join((moment + ZERO).to_bytes(8, "big") for moment in (effective, time, received))
    assert key == times + bytes.fromhex("e618ce3ad6a04a6b")
    assert (fold.effective_time(key), fold.event_time(key)) == (effective, time)
