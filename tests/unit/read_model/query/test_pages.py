"""Pages on a fake of a namespace: forward and back through cursors, whatever the plan, the budget and the partitions are."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.attendance import Attendance, guid_bytes
from schemas.query.request import Page, QueryField, Sort, parse_query
from tests.support.attendances import ATTENDANCES, BOOKINGS, FILTERS, SORTS, of
from tests.support.examples import examples
from tests.support.memory_source import MemorySource
from tests.support.oracle import queries
from tests.support.walking import Walk
from worker.read_model.query import index_scan, pages, planner

ROSTER = [of(f"b{number:02}", "s1", number=number % 3) for number in range(25)]
IN_ORDER = sorted(ROSTER, key=lambda each: each["id"])


def page(source: MemorySource, limit: int = 10, cursor: str | None = None, **query: Any) -> Page:
    request = parse_query({**query, "cursorPaging": {"limit": limit, "cursor": cursor}})
    return asyncio.run(pages.page(source, request))


def ids(attendances: Sequence[Any]) -> list[str]:
    return [each["id"] for each in attendances]


class Reader:
    """What a walk needs of a reader."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source

    async def query(self, query: Any) -> Page:
        return await pages.page(self._source, query)


@given(
    attendances=ATTENDANCES,
    condition=FILTERS,
    sort=SORTS,
    partitions=st.integers(1, 4),
    budget=st.sampled_from((1, 2, 3, 500)),
    at_once=st.sampled_from((2, 4, 200)),
    lookups=st.sampled_from((1, 4, 300)),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=examples(150))
def test_every_page_is_a_slice_of_all_matching_attendances(
    attendances: list[Attendance],
    condition: dict[str, Any],
    sort: list[dict[str, str]],
    partitions: int,
    budget: int,
    at_once: int,
    lookups: int,
    seed: int,
) -> None:
    """Against a filter, a sort and a slice of the list; forward to the end, back to the start, to and fro."""
    query = {"filter": condition, "sort": sort}
    expected = queries.answer([dict(each) for each in attendances], query)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "BUDGET", budget)
        patch.setattr(planner, "_AT_ONCE", at_once)
        patch.setattr(index_scan, "LOOKUPS_OF_CALL", lookups)
        reader = Reader(MemorySource(attendances, partitions, seed))
        asyncio.run(Walk(reader, query, expected, random.Random(seed)).everywhere(None))


@pytest.mark.parametrize("partitions", [1, 4])
def test_pages_forward_and_back_meet_in_the_middle(partitions: int) -> None:
    source = MemorySource(ROSTER, partitions)
    first = page(source)
    second = page(source, cursor=first.next)
    third = page(source, cursor=second.next)
    assert ids([*first.attendances, *second.attendances, *third.attendances]) == ids(IN_ORDER)
    assert [each.has_next for each in (first, second, third)] == [True, True, False]
    assert (first.prev, third.next) == (None, None)
    assert page(source, cursor=third.prev) == second
    assert page(source, cursor=second.prev).attendances == first.attendances


def test_a_page_before_a_place_ends_right_before_it() -> None:
    source = MemorySource(ROSTER, 3)
    third = page(source, limit=3, cursor=page(source, limit=20).next)
    back = page(source, limit=7, cursor=third.prev)
    assert ids(back.attendances) == ids(IN_ORDER[13:20])
    assert back.has_next


@pytest.mark.parametrize(("limit", "has_next"), [(24, True), (25, False), (26, False)])
def test_there_is_a_next_page_only_if_something_is_on_it(limit: int, has_next: bool) -> None:
    shown = page(MemorySource(ROSTER, 2), limit=limit)
    assert len(shown.attendances) == min(limit, 25)
    assert (shown.has_next, shown.next is not None) == (has_next, has_next)


def test_a_page_without_attendances_has_no_cursors() -> None:
    assert page(MemorySource(ROSTER, 2), filter={"sessionId": "elsewhere"}) == Page([], None, None, has_next=False)


def test_a_page_back_to_where_nothing_is_left_has_no_cursors() -> None:
    source = MemorySource(ROSTER, 2)
    second = page(source, cursor=page(source).next)
    source.attendances = MemorySource(IN_ORDER[10:]).attendances
    assert page(source, cursor=second.prev) == Page([], None, None, has_next=False)


def test_attendances_added_before_a_cursor_move_no_page() -> None:
    source = MemorySource(IN_ORDER[5:], 2)
    first = page(source)
    source.attendances = MemorySource(ROSTER).attendances
    assert ids(page(source, cursor=first.next).attendances) == ids(IN_ORDER[15:25])


@pytest.mark.parametrize("field", [field.value for field in QueryField])
def test_a_cursor_whose_attendance_is_gone_still_marks_its_place(field: str) -> None:
    query: dict[str, Any] = {"sort": [{"fieldName": field, "order": "DESC"}]}
    expected = queries.answer([dict(each) for each in ROSTER], query)
    source = MemorySource(ROSTER, 3)
    first = page(source, **query)
    del source.attendances[guid_bytes(first.attendances[-1]["id"])]
    assert ids(page(source, cursor=first.next).attendances) == ids(expected[10:20])


def test_a_cursor_holds_fields_that_the_filter_pins_too() -> None:
    """A field that the filter pins is no part of the plan's order; the cursor has it all the same."""
    source = MemorySource(ROSTER, 3)
    query = {"filter": {"status": "ATTENDED"}, "sort": [{"fieldName": "status"}, {"fieldName": "numberOfAttendees"}]}
    first = page(source, **query)
    asked = parse_query({"cursorPaging": {"cursor": first.next}})
    last = first.attendances[-1]
    assert asked.sort == (Sort(QueryField.STATUS), Sort(QueryField.NUMBER))
    assert asked.position == (("ATTENDED", last["numberOfAttendees"]), last["id"])


def moved(source: MemorySource, booking: str, **changes: Any) -> None:
    """The attendance changes after its key was read, and before its document is."""
    identity = guid_bytes(of(booking, "s1")["id"])

    def happen() -> None:
        if changes:
            source.attendances[identity] = {**source.attendances[identity], **changes}  # type: ignore[typeddict-item]
        else:
            del source.attendances[identity]

    source.before_documents = happen


@pytest.mark.parametrize("changes", [{"numberOfAttendees": 7}, {}], ids=["moved", "deleted"])
def test_an_attendance_that_left_its_place_is_left_out(changes: dict[str, Any]) -> None:
    """The page is filled up from what follows."""
    query: dict[str, Any] = {"sort": [{"fieldName": "numberOfAttendees"}]}
    before = queries.answer([dict(each) for each in ROSTER], query)
    source = MemorySource(ROSTER, 2)
    moved(source, before[3]["bookingId"], **changes)
    shown = page(source, **query)
    assert ids(shown.attendances) == ids(before[:3] + before[4:11])
    assert shown.has_next


def test_an_attendance_that_no_longer_matches_is_left_out() -> None:
    source = MemorySource(ROSTER, 2)
    moved(source, IN_ORDER[0]["bookingId"], numberOfAttendees=9)
    shown = page(source, filter={"numberOfAttendees": {"$lte": 2}})
    assert ids(shown.attendances) == ids(IN_ORDER[1:11])


def test_pages_read_over_excluded_bookings_in_larger_steps() -> None:
    """The indexes know nothing of excluded bookings: the page reads on until it is full, twice as much each time."""
    many = [of(BOOKINGS[0], f"s{number}") for number in range(120)] + [of(BOOKINGS[1], f"s{number}") for number in range(40)]
    expected = sorted(ids(each for each in many if each["bookingId"] == BOOKINGS[1]))
    source = MemorySource(many, 1)
    shown = page(source, limit=40, filter={"bookingId": {"$ne": BOOKINGS[0]}})
    assert ids(shown.attendances) == expected
    assert not shown.has_next
    # 41, 82, and the remaining 37
    assert len([call for call in source.calls if call.name == "documents"]) == 3
