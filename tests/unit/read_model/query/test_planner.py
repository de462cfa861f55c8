"""Plans on a fake of a namespace: which calls they make, when they stop, and what they count."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.attendance import Attendance, guid_bytes
from schemas.query.request import Position, QueryError, parse_filter, parse_query
from tests.support.attendances import ATTENDANCES, FILTERS, of
from tests.support.memory_source import MemorySource
from tests.support.oracle import queries
from worker.read_model.query import index_scan, planner
from worker.read_model.query.index_scan import order_by
from worker.read_model.query.planner import Planner, count, share

MANY = [of(f"b{number:03}", f"s{number % 4}", ("ATTENDED", "NOT_SET")[number % 2], number % 5) for number in range(120)]

GUID_BEFORE_ALL = "00000000-0000-0000-0000-000000000000"


def select(source: MemorySource, limit: int = 10, after: Position | None = None, **query: Any) -> list[str]:
    """The ids of what a plan selects, in order."""
    asked = parse_query(query)
    order = order_by(asked.sort, asked.filter)
    return [position.id for position in asyncio.run(Planner(source).select(asked.filter, order, after, limit))]


def by(*fields: str) -> list[dict[str, str]]:
    """A sort: names of fields, descending with a minus before them."""
    return [{"fieldName": name.strip("-"), "order": "DESC" if name[0] == "-" else "ASC"} for name in fields]


def calls(source: MemorySource) -> list[str]:
    return [call.name for call in source.calls]


def expected(attendances: list[Attendance], **query: Any) -> list[str]:
    return [each["id"] for each in queries.answer([dict(each) for each in attendances], query)]


# --- choice of a plan ----------------------------------------------------------------------------


@pytest.mark.parametrize("turned", ["", "-"])
@pytest.mark.parametrize(
    ("fields", "scan"),
    [
        (["id"], "id"),
        (["bookingId"], "booking"),
        (["sessionId"], "session"),
        (["numberOfAttendees"], "number"),
        (["numberOfAttendees", "status"], "number"),
        # nothing comes behind the id
        (["id", "status"], "id"),
        (["bookingId", "id"], "booking"),
    ],
)
def test_an_order_that_an_index_has_is_one_scan(fields: list[str], scan: str, turned: str) -> None:
    source, sort = MemorySource(MANY, 1), by(*(turned + field for field in fields))
    assert select(source, sort=sort) == expected(MANY, sort=sort)[:10]
    assert calls(source) == [scan]


NAMED = {"bookingId": {"$in": ["b003", "b004", "b006", "nobody"]}}


@pytest.mark.parametrize("condition", [{"id": MANY[7]["id"]}, NAMED, {**NAMED, "status": "ATTENDED"}])
def test_named_ids_and_bookings_are_read_without_an_index(condition: dict[str, Any]) -> None:
    source, sort = MemorySource(MANY, 3), by("-numberOfAttendees", "sessionId")
    assert select(source, filter=condition, sort=sort) == expected(MANY, filter=condition, sort=sort)
    assert calls(source) == ["fetch_by_keys"]


def test_named_bookings_are_selected_from_behind_a_position() -> None:
    first, *rest = expected(MANY, filter=NAMED)
    assert select(MemorySource(MANY, 3), after=Position((first,), first), filter=NAMED) == rest


@pytest.mark.parametrize(
    ("condition", "fields", "scan"),
    [
        ({"status": "ATTENDED"}, ["status"], "id"),
        ({"sessionId": "s1"}, ["sessionId", "numberOfAttendees"], "number"),
        ({"numberOfAttendees": 2}, ["numberOfAttendees", "bookingId"], "booking"),
        ({"status": "NOT_SET"}, ["-numberOfAttendees", "-status"], "number"),
    ],
)
def test_a_field_that_the_filter_pins_is_dropped_from_the_order(condition: Any, fields: list[str], scan: str) -> None:
    source, sort = MemorySource(MANY, 1), by(*fields)
    assert select(source, filter=condition, sort=sort) == expected(MANY, filter=condition, sort=sort)[:10]
    assert calls(source) == [scan]


def test_a_sort_by_status_reads_only_the_statuses_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_AT_ONCE", 20)
    source, sort = MemorySource(MANY, 1), by("status")
    first = select(source, sort=sort)
    assert first == expected(MANY, sort=sort)[:10]
    assert calls(source) == ["id"], "60 are ATTENDED, more than are sorted here"
    source.calls.clear()
    attended = [each["id"] for each in MANY if each["status"] == "ATTENDED"]
    assert (
        select(source, after=Position(("NOT_SET", GUID_BEFORE_ALL), GUID_BEFORE_ALL), sort=sort)
        == sorted({each["id"] for each in MANY} - {*attended})[:10]
    )
    assert calls(source) == ["id"], "no status before the position"


@pytest.mark.parametrize("fields", [["numberOfAttendees", "-status"], ["-numberOfAttendees", "id"], ["bookingId", "-id"]])
def test_fields_of_different_directions_are_not_one_scan(fields: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_AT_ONCE", 20)
    source, sort = MemorySource(MANY, 2), by(*fields)
    assert select(source, 70, sort=sort) == expected(MANY, sort=sort)[:70]


def test_a_sort_by_number_and_booking_goes_from_number_to_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_AT_ONCE", 20)
    source, sort = MemorySource(MANY, 1), by("-numberOfAttendees", "bookingId")
    assert select(source, 30, sort=sort) == expected(MANY, sort=sort)[:30]
    # of each number there are 24, more than are sorted here: they are scanned by booking
    assert calls(source) == ["numbers", "booking", "booking"]


@pytest.mark.parametrize("at_once", [20, 200])
@pytest.mark.parametrize("first", ["numberOfAttendees", "-numberOfAttendees", "sessionId", "-sessionId", "status"])
def test_groups_are_taken_up_in_the_middle(first: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position within a value of the first field; few numbers in a call, and names with more keys than are read at once."""
    monkeypatch.setattr(planner, "_AT_ONCE", at_once)
    monkeypatch.setattr(planner, "BUDGET", 1)
    sort = by(first, "-bookingId")
    documents = queries.answer([dict(each) for each in MANY], {"sort": sort})
    for at in (4, 29, 30, 59, 100):
        values = [documents[at][name] for name in (first.strip("-"), "bookingId", "id")]
        after = Position((*values,), documents[at]["id"])
        wanted = [each["id"] for each in documents[at + 1 : at + 61]]
        assert select(MemorySource(MANY, 3), 60, after, sort=sort) == wanted, at


def test_names_are_read_only_as_far_as_the_page_goes() -> None:
    many = [of(f"b{number}", f"s{number:03}") for number in range(400)]
    source, sort = MemorySource(many, 1), by("sessionId", "numberOfAttendees")
    assert select(source, 10, sort=sort) == [each["id"] for each in many[:10]]
    assert calls(source) == ["session", "documents"]


def test_small_groups_are_read_together_and_sorted_here() -> None:
    source, sort = MemorySource(MANY, 1), by("-numberOfAttendees", "bookingId")
    assert select(source, 30, sort=sort) == expected(MANY, sort=sort)[:30]
    assert calls(source) == ["numbers", "number", "documents"]


def test_a_filter_that_matches_nothing_asks_nothing() -> None:
    source = MemorySource(MANY, 2)
    assert select(source, filter={"sessionId": {"$in": []}}) == []
    assert select(source, 0) == []
    assert asyncio.run(count(source, parse_filter({"status": {"$in": []}}))) == 0
    assert source.calls == []


# --- several partitions, several calls -----------------------------------------------------------


@pytest.mark.parametrize("field", ["id", "bookingId", "sessionId", "numberOfAttendees"])
@pytest.mark.parametrize("turned", ["", "-"])
@pytest.mark.parametrize("budget", [1, 3, 500])
def test_partitions_are_merged_in_order(field: str, turned: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "BUDGET", budget)
    source, sort = MemorySource(MANY, 5), by(turned + field)
    wanted = expected(MANY, sort=sort)
    assert select(source, 50, sort=sort) == wanted[:50]
    assert select(source, 500, sort=sort) == wanted


@pytest.mark.parametrize("fields", [["id"], ["-bookingId"], ["numberOfAttendees"], ["-sessionId"]])
@pytest.mark.parametrize(
    "condition",
    [
        {"sessionId": {"$in": ["s3", "s0", "s2"]}},
        {"numberOfAttendees": {"$nin": [1, 3]}},
        {"sessionId": {"$nin": ["s1", "s2"]}},
    ],
)
def test_a_filter_of_many_lookups_is_split_and_merged_in_order(
    fields: list[str], condition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_scan, "LOOKUPS_OF_CALL", 1)
    source, sort = MemorySource(MANY, 2), by(*fields)
    shown = select(source, 120, filter=condition, sort=sort)
    assert len(source.calls) >= (1 if "$nin" in condition.get("sessionId", {}) else 3)
    if "$nin" in condition.get("sessionId", {}) and fields != ["-sessionId"]:
        # only the order of sessions leaves excluded sessions out: who reads the documents drops them
        shown = [each for each in shown if each in expected(MANY, filter=condition)]
    assert shown == expected(MANY, filter=condition, sort=sort)


@pytest.mark.parametrize("turned", ["", "-"])
@pytest.mark.parametrize(
    "fields", [["id"], ["bookingId"], ["sessionId"], ["numberOfAttendees"], ["numberOfAttendees", "status"]]
)
def test_a_position_is_where_every_partition_starts(fields: list[str], turned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "BUDGET", 2)
    sort = by(*(turned + field for field in fields))
    documents = queries.answer([dict(each) for each in MANY], {"sort": sort})
    for at in (0, 40, 58, 110):
        values = [documents[at][name] for name in dict.fromkeys((*fields, "id"))]
        after = Position((*values,), documents[at]["id"])
        wanted = [each["id"] for each in documents[at + 1 : at + 21]]
        assert select(MemorySource(MANY, 5), 20, after, sort=sort) == wanted, at


def test_a_scan_that_its_budget_ended_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "BUDGET", 1)
    source = MemorySource(MANY, 1)
    assert select(source, 12) == expected(MANY)[:12]
    assert len(source.calls) >= 6, "two sources of one key each call"


def test_partitions_that_are_beyond_the_page_are_not_asked_again() -> None:
    """A partition whose last key lies behind the page has nothing more for it."""
    source = MemorySource(MANY, 4)
    assert select(source, 40) == expected(MANY)[:40]
    first, *later = source.calls
    assert first.partitions == (0, 1, 2, 3)
    assert all(len(call.partitions) < 4 for call in later)


def test_a_page_asks_each_partition_for_its_share_of_it() -> None:
    assert [share(limit, 1) for limit in (1, 10, 100)] == [1, 10, 100]
    for limit, partitions in ((100, 4), (100, 16), (11, 16)):
        assert limit / partitions < share(limit, partitions) < limit, "a bit more than the mean, so that it mostly suffices"


def test_a_query_that_costs_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "BUDGET", 1)
    monkeypatch.setattr(planner, "MOST_WORK", 20)
    assert len(select(MemorySource(MANY, 2), 8)) == 8
    source = MemorySource(MANY, 2)
    with pytest.raises(QueryError, match="too many attendances to scan"):
        select(source, 120)
    assert sum(len(call.partitions) for call in source.calls) == 20


# --- documents -----------------------------------------------------------------------------------


def test_documents_are_read_from_their_partitions_once() -> None:
    source = MemorySource(MANY, 4)

    async def twice() -> None:
        plan, asked = Planner(source), parse_query({})
        positions = await plan.select(asked.filter, order_by(asked.sort, asked.filter), None, 10)
        found = [await plan.read(positions) for _ in range(2)]
        assert found[0] == found[1] == [source.attendances[guid_bytes(position.id)] for position in positions]

    asyncio.run(twice())
    assert calls(source).count("documents") == 1


def test_a_deleted_attendance_is_read_as_none() -> None:
    source = MemorySource(MANY, 4)

    async def deleted() -> None:
        plan, asked = Planner(source), parse_query({})
        positions = await plan.select(asked.filter, order_by(asked.sort, asked.filter), None, 3)
        del source.attendances[guid_bytes(positions[1].id)]
        assert [each is None for each in await plan.read(positions)] == [False, True, False]

    asyncio.run(deleted())


def test_an_attendance_that_left_its_group_is_in_its_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was scanned as one of number 4, has 0 when its document is read, and is scanned again as one of 0."""
    monkeypatch.setattr(planner, "_AT_ONCE", 30)
    source, sort = MemorySource(MANY, 1), by("-numberOfAttendees", "bookingId")
    four = next(each for each in MANY if each["numberOfAttendees"] == 4)
    zero: Attendance = {**four, "numberOfAttendees": 0}

    def happen() -> None:
        source.attendances[guid_bytes(four["id"])] = zero

    source.before_documents = happen
    assert select(source, 120, sort=sort) == expected([zero if each is four else each for each in MANY], sort=sort)


# --- counts --------------------------------------------------------------------------------------


@given(ATTENDANCES, FILTERS, st.integers(1, 4), st.sampled_from((1, 4, 300)))
@settings(deadline=None)
def test_a_count_is_the_number_of_all_that_match(
    attendances: list[Attendance], condition: dict[str, Any], partitions: int, lookups: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_scan, "LOOKUPS_OF_CALL", lookups)
        found = asyncio.run(count(MemorySource(attendances, partitions), parse_filter(condition)))
    assert found == len(expected(attendances, filter=condition))


def test_a_count_reads_no_document_that_the_filter_does_not_name() -> None:
    source = MemorySource(MANY, 4)
    assert asyncio.run(count(source, parse_filter({"status": "ATTENDED", "sessionId": {"$ne": "s0"}}))) == 30
    # all, less those of the session
    assert Counter(calls(source)) == {"count": 2}


@pytest.mark.parametrize(
    ("condition", "called"),
    [
        ({"bookingId": {"$ne": "b001"}}, ["count", "fetch_by_keys"]),
        ({"bookingId": {"$ne": "b001"}, "id": {"$ne": MANY[1]["id"]}}, ["count", "fetch_by_keys", "fetch_by_keys"]),
        ({"bookingId": {"$in": ["b001", "b002"]}, "status": "ATTENDED"}, ["fetch_by_keys"]),
        ({"sessionId": {"$in": ["s1", "s2"]}}, ["count"]),
    ],
)
def test_a_count_asks_for_documents_of_named_attendances_only(condition: dict[str, Any], called: list[str]) -> None:
    source = MemorySource(MANY, 4)
    assert asyncio.run(count(source, parse_filter(condition))) == len(expected(MANY, filter=condition))
    assert calls(source) == called
