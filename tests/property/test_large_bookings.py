"""Bookings that have more attendances than their record holds, or had: readers find the same as of all others."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from schemas.attendance import Attendance
from schemas.events import Event
from tests.property.test_queries import _ask, _fill
from tests.support.asked import Asking
from tests.support.attending import World
from tests.support.filled import Filled, on
from tests.support.services import Redis
from tests.support.shown_bookings import ShownBookings
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, apply_records
from worker.domain.summaries import document
from worker.read_model import booking_records
from worker.read_model.write_batch import Entries
from worker.stream import booking_projection
from worker.stream.projection import Projection, project_all

_RULES = Rules(300_000_000, 600_000_000, 1 << 62)
_MOST = 3


@pytest.fixture(autouse=True)
def few_in_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking_projection, "MOST_IN_RECORD", _MOST)
    monkeypatch.setattr(booking_records, "MOST_IN_RECORD", _MOST)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_records_and_indexes_are_those_of_all_attendances(seed: int, is_known: bool) -> None:
    world, chance, shown = World(seed, sessions=7, most=6), random.Random(seed), ShownBookings()
    pairs, states = world.pairs(), dict[str, BookingState]()
    for _ in range(60):
        some = list(dict.fromkeys(chance.choices(pairs, k=chance.randint(1, 12))))
        happened = world.happen(some, deleted=chance.choice((0.1, 0.9)))
        events = [each for each in happened if isinstance(each, Event)]
        # a batch that was redelivered may have been projected before, in part
        for is_redelivery in (False, True) if chance.random() < 0.3 else (False,):
            entries = _projected(states, events, is_known=is_known, is_redelivery=is_redelivery)
            applied = entries[: chance.randint(0, len(entries))] if is_redelivery and chance.random() < 0.5 else entries
            for entry in applied:
                shown.take(entry)
            for entry in entries if applied is not entries else ():
                shown.take(entry)
        shown.check_bookings(_attendances(states))
    refilled = ShownBookings()
    for is_empty in (True, False):
        everything = Entries()
        for state in states.values():
            project_all(state, everything, is_empty=is_empty)
        for entry in everything.bookings:
            refilled.take(entry)
        refilled.check_bookings(_attendances(states))
    assert refilled.records == shown.records


@pytest.mark.parametrize(("seed", "partitions"), [(1, 1), (2, 16), (3, 1)])
def test_every_page_is_what_all_documents_come_to(redis_server: Redis, seed: int, partitions: int) -> None:
    async def scenario(filled: Filled) -> None:
        world = World(seed, sessions=12, most=60)
        await _fill(filled, world, deleted=0.4)
        await _ask(filled.reader(), world, Asking(world, seed), pages=130)

    on(redis_server, partitions, scenario)


def _projected(states: dict[str, BookingState], events: Sequence[Event], *, is_known: bool, is_redelivery: bool) -> list[bytes]:
    by_booking: dict[str, list[Event]] = {}
    for event in events:
        by_booking.setdefault(event.booking_id, []).append(event)
    records = [(states.setdefault(name, BookingState(name)), some, ()) for name, some in by_booking.items()]
    projection = Projection(known=is_known)
    projection.add(apply_records(records, _RULES, is_redelivery=is_redelivery))
    return projection.entries.bookings


def _attendances(states: dict[str, BookingState]) -> list[Attendance]:
    return [
        document(state.booking_id, name, value)
        for state in states.values()
        for name in state.rows
        if (value := state.seen(name)) is not None
    ]
