"""The read models: tallies, summaries and open alerts, whatever the interleaving of events and booking records."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle, subject
from tests.support.oracle import Rules
from tests.support.oracle.make import KIOSK, at, ev, listed, missed, upsert
from tests.support.oracle.reading import held_records
from tests.support.strategies import (
    BOOKINGS,
    FOUR_SESSIONS,
    KINDS,
    LATER,
    SESSIONS,
    World,
    booking_records,
    filled,
    happenings,
    sized,
    worlds,
)

PLAIN = sized(70)
THREE = (*BOOKINGS, "b2")
NO_SHOWS = ("no_show",) * 6 + ("check_in", "cleared", "deleted", "booking.erased")

SHARED = worlds(
    happenings(bookings=THREE, sessions=SESSIONS[:2]),
    booking_records(THREE, SESSIONS[:2]),
    always=(ev("check_in", at(12), n=2), upsert("b2", 3, sessions=listed(("s1", at(60), at(90)), "S1"))),
)
MISSED = worlds(
    happenings(NO_SHOWS, BOOKINGS, FOUR_SESSIONS),
    booking_records(BOOKINGS, FOUR_SESSIONS),
    always=tuple(missed(*FOUR_SESSIONS)[:3]),
)
CONTRADICTED = worlds(
    happenings(KINDS, ("b1",), SESSIONS[:2]),
    booking_records(("b1",), SESSIONS[:2]),
    always=(ev("set", at(200), b="b2", status="NOT_SET", n=5), upsert("b2", 1, sessions=[])),
)


@given(SHARED)
@PLAIN
def test_tallies_are_those_of_the_oracle(world: World) -> None:
    """Bookings that share sessions, come to sessions they do not list, are canceled, deleted, moved."""
    found = subject.outcome(world.batches).tallies
    assert found == oracle.outcome(world.deliveries, world.records).tallies
    for tally in found.values():
        assert 1 <= tally["bookings"] == tally["attended"] + tally["notAttended"] + tally["notSet"]


@given(MISSED)
@PLAIN
def test_summaries_are_those_of_the_oracle(world: World) -> None:
    """Bookings that miss most of their sessions, with and without known starts."""
    assert subject.outcome(world.batches).summaries == oracle.outcome(world.deliveries, world.records).summaries


@given(MISSED)
@PLAIN
def test_frequent_no_shows_are_those_of_the_oracle(world: World) -> None:
    """The alert of a booking, raised and resolved by any of its sessions."""
    found = subject.outcome(world.batches).alerts
    expected = oracle.outcome(world.deliveries, world.records).alerts
    assert found == expected


@given(CONTRADICTED, st.sampled_from([Rules(), Rules(0, 0), Rules(60_000_000, 120_000_000)]))
@sized(150)
def test_alerts_are_those_of_the_oracle(world: World, rules: Rules) -> None:
    """Attendances that contradict themselves and their booking: the same alerts open whatever the way there."""
    found = subject.outcome(world.batches, rules).alerts
    assert found == oracle.outcome(world.deliveries, world.records, rules).alerts
    assert ("STATUS_COUNT_MISMATCH", "b2", "s1") in found
    assert ("UNKNOWN_SESSION", "b2", "s1") in found
    assert ("PARTICIPANTS_EXCEEDED", "b2", "s1") in found


@given(SHARED)
@PLAIN
def test_events_and_bookings_commute(world: World) -> None:
    """All events first, all bookings first, or interleaved: one outcome, with attendances apart from bookings."""
    found = subject.outcome(world.batches)
    assert found == subject.outcome(filled(world.deliveries, world.records))
    assert found == subject.outcome(filled(world.records, world.deliveries))
    assert found.attendances == subject.outcome([world.deliveries]).attendances


@given(SHARED)
@PLAIN
def test_a_batch_applied_twice_changes_nothing(world: World) -> None:
    """A batch applied twice in a row changes nothing, and neither does the record of each booking that holds."""
    found = subject.outcome(world.batches)
    last = list(held_records(world.records).values())
    assert subject.outcome([batch for batch in world.batches for _ in range(2)]) == found
    assert subject.outcome([*world.batches, last, world.deliveries]) == found


@given(SHARED, st.integers())
@PLAIN
def test_workers_that_die_lose_nothing(world: World, seed: int) -> None:
    """What was stored and not told is told by whoever takes over."""
    assert subject.survived(world.batches, Random(seed)) == subject.outcome(world.batches)


@given(st.lists(st.sets(st.sampled_from(SESSIONS)), min_size=3, max_size=6), st.integers(0, 1000))
@PLAIN
def test_workers_that_die_between_records_of_a_booking(listings: list[set[str]], seed: int) -> None:
    """A session that one record dropped is taken from readers, also where the next record was stored before they were told."""
    records = [upsert("b1", 1, sessions=listed(*sorted(sessions))) for sessions in listings]
    expected = subject.outcome([records])
    for number in range(10):
        assert subject.survived([records], Random(seed + number)) == expected


@given(SHARED, st.integers(1, 3))
@PLAIN
def test_erasure_leaves_the_reference_data(world: World, people: int) -> None:
    """Erased bookings keep what the booking system says of them: listed sessions are NOT_SET again."""
    erasures = [ev("booking.erased", at(500), b=booking, s=None, by=KIOSK) for booking in THREE]
    record = upsert("b2", people, sessions=listed("s1"))._replace(received=LATER)
    found = subject.outcome([*world.batches, [record], erasures])
    assert found.attendances == {}
    assert found.tallies["s1"]["expectedParticipants"] >= people
    assert found.without_devices() == oracle.outcome([], [*world.records, record])


@given(SHARED)
@PLAIN
def test_arrivals_are_those_of_the_oracle(world: World) -> None:
    """The people of each ATTENDED attendance, in the minute of its newest report: they move with it, and never drift."""
    found = subject.outcome(world.batches)
    assert found.arrivals == oracle.outcome(world.deliveries, world.records).arrivals
    for session, minutes in found.arrivals.items():
        assert sum(minutes.values()) == found.tallies[session]["attendees"]


@given(SHARED, st.integers(1, 3), st.sampled_from([Rules(), Rules(0, 0)]))
@PLAIN
def test_devices_are_those_of_the_oracle(world: World, most: int, rules: Rules) -> None:
    """The newest event of each source, counting or not; of too many sources those that are silent longest leave."""
    found = subject.outcome(world.batches, rules, most).devices
    assert found == oracle.outcome(world.deliveries, world.records, rules, most).devices
    assert found == subject.outcome([world.deliveries], rules, most).devices
    assert found == subject.outcome([[one] for one in world.deliveries[::-1]], rules, most).devices


@given(SHARED, st.integers(), st.integers(1, 3))
@PLAIN
def test_workers_that_die_lose_no_device(world: World, seed: int, most: int) -> None:
    """A source that left a worker's table leaves readers, also where that worker died before it told them."""
    found = subject.survived(world.batches, Random(seed), most).devices
    assert found == subject.outcome(world.batches, most_devices=most).devices
