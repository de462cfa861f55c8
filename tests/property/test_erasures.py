"""Erased bookings: a marker stands for all rows that it makes void, whenever these leave, and whatever comes back."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle, subject
from tests.support.oracle import BookingRecord
from tests.support.oracle.make import at, erased
from tests.support.strategies import BOOKINGS, World, booking_records, happenings, sized, worlds

#: Half of the events are erasures, or deletions.
ERASING = happenings(("check_in", "participant_scanned", "no_show", "set", "deleted", "booking.erased", "booking.erased"))


@given(worlds(ERASING, booking_records()), st.integers())
@sized(150)
def test_a_marker_instead_of_rows_gives_the_same_result(world: World, seed: int) -> None:
    """In any order of arrival, with events and booking records that come after the rows have left."""
    expected = oracle.outcome(world.deliveries, world.records)
    found, _ = subject.forgotten(world.batches, Random(seed))
    assert found._replace(devices=expected.devices) == expected


@given(worlds(ERASING, booking_records()), st.integers())
@sized(60)
def test_a_booking_that_is_erased_and_deleted_leaves_no_row(world: World, seed: int) -> None:
    """Late and repeated events, and older booking records, bring none back."""
    erasures = [erased(at(500), b=name) for name in BOOKINGS]
    deletions = [BookingRecord(name, None, at(900)) for name in BOOKINGS]
    chance = Random(seed)
    late = chance.sample(world.batches, len(world.batches))
    batches = [*world.batches, erasures, deletions, *late, erasures]
    # rows that leave or come back do so between two batches: enough of them that each booking's leave in the end
    found, empty = subject.forgotten([*batches, *[erasures] * 20], chance)
    assert found.attendances == {}
    assert found.summaries == {}
    assert found.alerts == {}
    assert empty >= {*BOOKINGS}
