"""The order key as bytes, and the short way of the fold against the long one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event
from worker.domain import fold, row_codec

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


MOMENTS = st.sampled_from([MOMENT, MOMENT + 1, MOMENT + TOLERANCE, MOMENT + 2 * TOLERANCE])
REPORTS = st.builds(
    event,
    st.sampled_from(["check_in", "no_show"]),
    MOMENTS,
    MOMENTS,
    source=st.sampled_from(["/k/1", "/k/2"]),
    number=st.sampled_from([None, 0, 3]),
)


@given(st.lists(REPORTS, max_size=12))
def test_the_short_way_of_the_fold_makes_the_bytes_of_the_long(events: list[Event]) -> None:
    row = row_codec.EMPTY
    for each in events:
        after = row_codec.fold_report(row, each, TOLERANCE)
        assert after is not None
        row = after
    keyed = [(fold.order_key(each, TOLERANCE), each) for each in events]
    assert row == row_codec.encode(fold.fold(fold.NOTHING, {}, keyed, fold.NEVER).row, 0)
