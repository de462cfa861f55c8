"""Which places a changed booking concerns."""

from __future__ import annotations

import pytest

from schemas.alerts import AlertKind, alert_id
from schemas.attendance import attendance_id
from worker.ops.partition_report import ALERTS_TOPIC
from worker.ops.watched import Watched
from worker.read_model.content import SESSIONS, Place, tally_key

ID = attendance_id("b1", "s1")
OF_SESSION = alert_id(AlertKind.CLOCK_AHEAD, "b1", "s1").encode()
OF_BOOKING = alert_id(AlertKind.FREQUENT_NO_SHOWS, "b1", None).encode()
CONCERNED: list[Place] = [
    (b"doc:7", ID),
    (b"by-status", ID),
    (b"ids:s1", ID),
    (b"by-booking:1", b"b1\0" + ID),
    (b"booking:3", b"b1"),
    (b"no-shows", b"b1"),
    (tally_key(b"s1"), b""),
    (SESSIONS, b"s1"),
    (b"alerts", OF_SESSION),
    (b"alerts:session:s1", OF_SESSION),
    (b"alerts:at", OF_BOOKING),
    (ALERTS_TOPIC, OF_BOOKING),
]


@pytest.mark.parametrize("place", CONCERNED)
def test_a_booking_concerns_all_that_readers_see_of_it(place: Place) -> None:
    watched = Watched([place])
    assert watched.add("b2", ["s2"]) == set()
    assert watched.add("b1", ["s2", "s1"]) == {place} == watched.changed


def test_attendances_are_kept_of_the_sessions_asked_for() -> None:
    watched = Watched([(tally_key(b"s1"), b"")], [b"s1"])
    watched.add("b1", ["s1", "s2"])
    watched.add("b2", ["s1"])
    assert watched.ids == {b"s1": {ID, attendance_id("b2", "s1")}}


def test_nothing_is_watched() -> None:
    assert not Watched()
    assert Watched([(b"doc:7", ID)])
