"""Requests of the Attendance API (schemas/README.md): what is understood, and what is refused with which words."""

from typing import Any

import pytest

from schemas.attendance import STATUSES, AttendanceStatus
from schemas.query.request import (
    ALL_STATUSES,
    MAX,
    Filter,
    Names,
    Query,
    QueryError,
    QueryField,
    Sort,
    parse_filter,
    parse_query,
)
from tests.support.attendances import GUID, OTHER, attendance

ATTENDED, NOT_ATTENDED, NOT_SET = STATUSES
LIMIT = "query.cursorPaging.limit"


def only(*names: str) -> Names:
    return Names(frozenset(names))


def but(*names: str) -> Names:
    return Names(None, frozenset(names))


@pytest.mark.parametrize(("field", "part"), [("id", 0), ("bookingId", 1), ("sessionId", 2), ("eventId", 2)])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (GUID, only(GUID)),
        ({"$eq": GUID}, only(GUID)),
        ({"$eq": GUID.upper()}, only(GUID)),
        ({"$ne": GUID}, but(GUID)),
        ({"$in": [GUID, OTHER, GUID]}, only(GUID, OTHER)),
        ({"$hasSome": [GUID, OTHER]}, only(GUID, OTHER)),
        ({"$nin": [GUID, OTHER]}, but(GUID, OTHER)),
        ({"$nin": []}, Names()),
        ({"$in": [GUID, OTHER], "$ne": OTHER}, only(GUID)),
        ({"$ne": GUID, "$nin": [OTHER]}, but(GUID, OTHER)),
        ({"$ne": " "}, Names()),  # what no attendance can have
    ],
)
def test_operators_of_texts_are_parsed(field: str, part: int, said: object, expected: Names) -> None:
    parts = [Names(), Names(), Names()]
    parts[part] = expected
    assert parse_filter({field: said}) == Filter(*parts)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ATTENDED", {ATTENDED}),
        (AttendanceStatus.ATTENDED, {ATTENDED}),
        ({"$ne": "ATTENDED"}, {NOT_ATTENDED, NOT_SET}),
        ({"$in": ["ATTENDED", "NOT_SET"]}, {ATTENDED, NOT_SET}),
        ({"$hasSome": ["NOT_SET"]}, {NOT_SET}),
        ({"$nin": ["ATTENDED", "NOT_SET"]}, {NOT_ATTENDED}),
        ({"$nin": []}, ALL_STATUSES),
    ],
)
def test_operators_of_the_status_are_parsed(said: object, expected: set[AttendanceStatus]) -> None:
    assert parse_filter({"status": said}) == Filter(statuses=frozenset(expected))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (2, ((2, 2),)),
        ({"$eq": 0}, ((0, 0),)),
        ({"$ne": 2}, ((0, 1), (3, MAX))),
        ({"$ne": 0}, ((1, MAX),)),
        ({"$in": [5, 1, 2, 3, -1]}, ((1, 3), (5, 5))),
        ({"$hasSome": [7]}, ((7, 7),)),
        ({"$nin": [1, 2, MAX]}, ((0, 0), (3, MAX - 1))),
        ({"$lt": 3}, ((0, 2),)),
        ({"$lte": 3}, ((0, 3),)),
        ({"$gt": 3}, ((4, MAX),)),
        ({"$gte": 3}, ((3, MAX),)),
        ({"$gte": 1, "$lt": 9, "$ne": 4}, ((1, 3), (5, 8))),
        ({"$gte": -(10**5000), "$lte": 10**5000}, ((0, MAX),)),
    ],
)
def test_operators_of_the_number_are_parsed(said: object, expected: tuple[tuple[int, int], ...]) -> None:
    assert parse_filter({"numberOfAttendees": said}) == Filter(numbers=expected)


def test_nothing_said_matches_everything() -> None:
    assert parse_filter(None) == parse_filter({}) == parse_filter({"$and": []}) == parse_filter({"$and": [{}]}) == Filter()
    assert parse_query(None) == parse_query({}) == Query()
    assert (
        parse_query({"filter": None, "sort": None, "cursorPaging": {"limit": None, "cursor": None}, "fields": None}) == Query()
    )
    assert Query().sort == (Sort(QueryField.ID),)
    assert Query().limit == 50


@pytest.mark.parametrize(
    "said",
    [
        {"bookingId": {"$in": []}},
        {"id": "no-guid"},
        {"bookingId": ""},
        {"bookingId": "b" * 129},
        {"sessionId": "s" * 251},
        {"sessionId": "s\x001"},
        {"sessionId": "\ud800"},
        {"status": {"$in": []}},
        {"status": "ATTENDED", "$and": [{"status": "NOT_SET"}]},
        {"status": {"$nin": list(STATUSES)}},
        {"numberOfAttendees": {"$gt": 3, "$lt": 4}},
        {"numberOfAttendees": {"$gt": MAX}},
        {"numberOfAttendees": {"$in": [1, 2], "$nin": [1, 2]}},
        {"sessionId": {"$in": ["a"]}, "eventId": {"$in": ["b"]}},
    ],
)
def test_what_matches_nothing_has_one_form(said: object) -> None:
    found = parse_filter(said)
    assert found.is_empty
    assert found == parse_filter({"id": {"$in": []}})
    assert not found.matches(attendance())
    assert not Filter().is_empty


def test_all_fields_operators_and_nested_filters_hold_together() -> None:
    found = parse_filter(
        {
            "$and": [{"bookingId": "b1"}, {"$and": [{"eventId": {"$ne": "s9"}}, {"numberOfAttendees": {"$gte": 1}}]}],
            "status": {"$ne": "NOT_SET"},
            "numberOfAttendees": {"$lt": 5, "$ne": 3},
        }
    )
    statuses = frozenset({ATTENDED, NOT_ATTENDED})
    assert found == Filter(bookings=only("b1"), sessions=but("s9"), statuses=statuses, numbers=((1, 2), (4, 4)))
    assert found.matches(attendance())
    for other in ({"bookingId": "b2"}, {"sessionId": "s9"}, {"status": "NOT_SET"}, {"numberOfAttendees": 3}):
        assert not found.matches(attendance(**other))


def test_first_filter_only_uses_the_first_of_several_filters() -> None:
    several = {"$and": [{}, {"bookingId": {"$ne": "b1", "$in": ["b2"]}}], "status": "ATTENDED"}
    assert parse_filter(several, first_filter_only=True) == Filter(bookings=but("b1"))
    assert parse_query({"filter": several}, first_filter_only=True).filter == Filter(bookings=but("b1"))
    with pytest.raises(QueryError, match="unknown field"):
        parse_filter(several | {"name": "x"}, first_filter_only=True)


SMALL = {"$and": [{"status": "ATTENDED"}]}
DEEP: dict[str, Any] = {}
for _ in range(6):
    DEEP = {"$and": [DEEP]}


@pytest.mark.parametrize(
    ("said", "field", "rule", "words"),
    [
        ([], "filter", "WRONG_TYPE", ["an object", "a list"]),
        ({"name": 1}, "filter.name", "UNKNOWN_FIELD", ['"name"', "bookingId", "eventId", "numberOfAttendees", "$and"]),
        ({"updatedDate": "x"}, "filter.updatedDate", "UNKNOWN_FIELD", ["updatedDate"]),
        ({"a\nb": 1}, "filter.a\\nb", "UNKNOWN_FIELD", ["a\\nb"]),
        ({"$or": [SMALL]}, "filter.$or", "UNKNOWN_OPERATOR", ['"$or"', "$and"]),
        ({"$and": [SMALL, {"$not": SMALL}]}, "filter.$and.1.$not", "UNKNOWN_OPERATOR", ['"$not"', "$and"]),
        ({"$and": SMALL}, "filter.$and", "WRONG_TYPE", ["$and", "a list", "an object"]),
        ({"$and": [3]}, "filter.$and.0", "WRONG_TYPE", ["an object", "an integer"]),
        (DEEP, "filter" + ".$and.0" * 5 + ".$and", "TOO_DEEP", ["$and", "5"]),
        ({"$and": [{}] * 101}, "filter.$and", "TOO_MANY", ["$and", "100"]),
        ({"$and": [{"status": {"$ne": "NOT_SET", "$eq": "ATTENDED"}}] * 51}, "filter.$and.50.status.$ne", "TOO_MANY", ["100"]),
        ({"status": {}}, "filter.status", "REQUIRED", ["$eq", "$hasSome"]),
        ({"status": {"$lt": "X"}}, "filter.status.$lt", "UNKNOWN_OPERATOR", ["status", '"$lt"', "$in", "$nin"]),
        ({"id": {"$not": 1}}, "filter.id.$not", "UNKNOWN_OPERATOR", ["id", '"$not"', "$hasSome"]),
        ({"numberOfAttendees": {"<": 1}}, "filter.numberOfAttendees.<", "UNKNOWN_OPERATOR", ['"<"', "$lt", "$gte"]),
        ({"status": {"$in": ["ATTENDED", "LATE"]}}, "filter.status.$in.1", "UNKNOWN_VALUE", ["$in", '"LATE"', *STATUSES]),
        ({"status": 1}, "filter.status", "WRONG_TYPE", ["$eq", "an integer", *STATUSES]),
        ({"bookingId": None}, "filter.bookingId", "WRONG_TYPE", ["bookingId $eq", "text", "null"]),
        ({"eventId": {"$ne": 3}}, "filter.eventId.$ne", "WRONG_TYPE", ["sessionId $ne", "text", "an integer"]),
        ({"bookingId": ["b1"]}, "filter.bookingId", "WRONG_TYPE", ["text", "a list", "$in"]),
        ({"bookingId": {"$in": "b1"}}, "filter.bookingId.$in", "WRONG_TYPE", ["bookingId $in", "a list"]),
        ({"bookingId": {"$nin": [["b1"]]}}, "filter.bookingId.$nin.0", "WRONG_TYPE", ["bookingId $nin", "text"]),
        ({"id": {"$in": ["x"] * 101}}, "filter.id.$in", "TOO_MANY", ["id $in", "100", "101"]),
        ({"numberOfAttendees": True}, "filter.numberOfAttendees", "WRONG_TYPE", ["an integer", "true or false"]),
        ({"numberOfAttendees": {"$gt": 2.0}}, "filter.numberOfAttendees.$gt", "WRONG_TYPE", ["$gt", "an integer"]),
        ({"numberOfAttendees": {"$in": [1, "2"]}}, "filter.numberOfAttendees.$in.1", "WRONG_TYPE", ["an integer", '"2"']),
        ({"$and": [{"id": {"$nin": [GUID] * 100}}] * 11}, "filter.$and.10.id.$nin", "TOO_MANY", ["1000"]),
        ({"sessionId": {"$in": [chr(0x1F600 + n) * 250 for n in range(70)]}}, "filter", "TOO_LARGE", ["65536"]),
    ],
)
def test_a_refused_filter_names_place_and_what_is_allowed(said: object, field: str, rule: str, words: list[str]) -> None:
    with pytest.raises(QueryError) as refused:
        parse_filter(said)
    (violation,) = refused.value.violations
    assert (violation.field, violation.rule) == (field, rule)
    assert [word for word in words if word not in violation.description] == []
    assert str(refused.value) == f"{field}: {violation.description}"
    with pytest.raises(QueryError) as refused:
        parse_query({"filter": said})
    assert refused.value.violations[0].field == f"query.{field}"


@pytest.mark.parametrize(
    ("said", "field", "rule", "words"),
    [
        ("x", "query", "WRONG_TYPE", ["an object", "cursorPaging", '"x"']),
        ({"paging": {}}, "query.paging", "UNKNOWN_FIELD", ['"paging"', "filter, sort, cursorPaging, fields"]),
        ({"filter": 0}, "query.filter", "WRONG_TYPE", ["an object", "an integer"]),
        ({"sort": {}}, "query.sort", "WRONG_TYPE", ["a list", "fieldName", "an object"]),
        ({"sort": ["id"]}, "query.sort.0", "WRONG_TYPE", ["fieldName", '"id"']),
        ({"sort": [{}]}, "query.sort.0.fieldName", "REQUIRED", ["bookingId", "status"]),
        ({"sort": [{"fieldName": "source"}]}, "query.sort.0.fieldName", "UNKNOWN_FIELD", ['"source"', "bookingId"]),
        ({"sort": [{"fieldName": 3}]}, "query.sort.0.fieldName", "WRONG_TYPE", ["an integer"]),
        ({"sort": [{"fieldName": "id", "order": "desc"}]}, "query.sort.0.order", "UNKNOWN_VALUE", ["ASC", "DESC", '"desc"']),
        ({"sort": [{"fieldName": "id", "order": 1}]}, "query.sort.0.order", "WRONG_TYPE", ["ASC", "DESC", "an integer"]),
        ({"sort": [{"fieldName": "id", "by": 1}]}, "query.sort.0.by", "UNKNOWN_FIELD", ['"by"', "fieldName, order"]),
        ({"sort": [{"fieldName": f} for f in ("sessionId", "eventId")]}, "query.sort.1.fieldName", "REPEATED", ["sessionId"]),
        ({"sort": [{"fieldName": f} for f in ("id", "status", "bookingId")]}, "query.sort", "TOO_MANY", ["3", "2"]),
        ({"cursorPaging": []}, "query.cursorPaging", "WRONG_TYPE", ["limit, cursor", "a list"]),
        ({"cursorPaging": {"offset": 1}}, "query.cursorPaging.offset", "UNKNOWN_FIELD", ['"offset"', "limit, cursor"]),
        ({"cursorPaging": {"limit": 0}}, LIMIT, "OUT_OF_RANGE", ["1 to 100"]),
        ({"cursorPaging": {"limit": 101}}, LIMIT, "OUT_OF_RANGE", ["1 to 100"]),
        ({"cursorPaging": {"limit": True}}, LIMIT, "WRONG_TYPE", ["an integer from 1 to 100", "true or false"]),
        ({"cursorPaging": {"limit": 5.0}}, LIMIT, "WRONG_TYPE", ["an integer from 1 to 100"]),
        ({"cursorPaging": {"cursor": 3}}, "query.cursorPaging.cursor", "WRONG_TYPE", ["next", "prev", "an integer"]),
        ({"cursorPaging": {"cursor": ""}}, "query.cursorPaging.cursor", "MALFORMED", ["next", "prev"]),
        ({"cursorPaging": {"cursor": "x" * 100_001}}, "query.cursorPaging.cursor", "MALFORMED", ["next", "prev"]),
        ({"fields": "id"}, "query.fields", "WRONG_TYPE", ["a list", "updatedDate", '"id"']),
        ({"fields": ["id", "name"]}, "query.fields.1", "UNKNOWN_FIELD", ['"name"', "numberOfAttendees", "source"]),
        ({"fields": [["id"]]}, "query.fields.0", "WRONG_TYPE", ["a list", "updatedDate"]),
        ({"fields": ["id"] * 101}, "query.fields", "TOO_MANY", ["101", "100"]),
    ],
)
def test_a_refused_query_names_place_and_what_is_allowed(said: object, field: str, rule: str, words: list[str]) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(said)
    (violation,) = refused.value.violations
    assert (violation.field, violation.rule) == (field, rule)
    assert [word for word in words if word not in violation.description] == []


def test_all_that_is_wrong_is_said_at_once_and_has_an_end() -> None:
    with pytest.raises(QueryError) as refused:
        parse_query({"filter": {"x": 1, "status": "y"}, "sort": [{"order": "up"}], "cursorPaging": {"limit": 0}, "fields": [1]})
    named = [violation.field for violation in refused.value.violations]
    assert named[:2] == ["query.filter.x", "query.filter.status"]
    assert named[2:] == ["query.sort.0.fieldName", "query.sort.0.order", LIMIT, "query.fields.0"]
    assert "\n" not in str(refused.value)
    with pytest.raises(QueryError) as refused:
        parse_query({"x" * 100_000 + str(n): n for n in range(100)})
    assert len(refused.value.violations) == 20
    assert len(str(refused.value)) < 20_000
