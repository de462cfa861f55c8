"""Sorting, cursors, projection and pages of the query language."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from zlib import crc32

import pytest
from msgspec import msgpack

from schemas.query.request import (
    Cursor,
    Page,
    Position,
    Query,
    QueryError,
    QueryField,
    Sort,
    document,
    encode_cursor,
    order_of,
    parse_filter,
    parse_query,
    position_of,
    project,
)
from tests.support.attendances import GUID, OTHER, attendance

BY_NUMBER = (Sort(QueryField.NUMBER, descending=True), Sort(QueryField.SESSION))
SORT = [{"fieldName": "numberOfAttendees", "order": "DESC"}, {"fieldName": "eventId"}]
CURSOR = Cursor(parse_filter({"bookingId": GUID}), BY_NUMBER, Position((2, "s1"), OTHER), backwards=True)
TEXT = encode_cursor(CURSOR)


def test_up_to_two_fields_in_either_direction() -> None:
    assert parse_query({"sort": SORT}).sort == BY_NUMBER
    assert parse_query({"sort": [{"fieldName": "status", "order": "ASC"}]}).sort == (Sort(QueryField.STATUS),)
    assert parse_query({"sort": []}).sort == (Sort(QueryField.ID),)


def test_a_cursor_brings_filter_sort_and_place() -> None:
    expected = Query(CURSOR.filter, BY_NUMBER, 7, CURSOR.position, backwards=True, fields=frozenset({"id", "status"}))
    asked = {"cursorPaging": {"cursor": TEXT, "limit": 7}, "fields": ["status"]}
    assert parse_query(asked) == expected
    assert parse_query(asked | {"filter": {}, "sort": []}) == expected
    assert parse_query(asked | {"filter": {"$and": [{"bookingId": {"$in": [GUID.upper()]}}]}, "sort": SORT}) == expected


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"filter": {"bookingId": OTHER}}, "query.filter"),
        ({"filter": {"$and": []}}, "query.filter"),
        ({"sort": SORT[:1]}, "query.sort"),
        ({"sort": [{"fieldName": "id"}]}, "query.sort"),
    ],
)
def test_another_filter_or_sort_beside_a_cursor_is_refused(said: dict[str, object], field: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(said | {"cursorPaging": {"cursor": TEXT}})
    (violation,) = refused.value.violations
    assert (violation.field, violation.rule) == (field, "OTHER_QUERY")
    assert "in the cursor" in violation.description


def test_a_cursor_is_short_and_safe_in_an_url() -> None:
    assert set(TEXT) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert len(TEXT) < 120
    # the largest filter that a request can hold leaves room for any position
    most = parse_filter({"sessionId": {"$in": [chr(0x1F600 + n) * 250 for n in range(65)]}})
    sort = (Sort(QueryField.SESSION), Sort(QueryField.BOOKING))
    large = Cursor(most, sort, Position(("😀" * 250, "😀" * 128), GUID), backwards=False)
    assert parse_query({"cursorPaging": {"cursor": encode_cursor(large)}}).filter == most


@pytest.mark.parametrize(
    ("part", "forged"),
    [
        (0, 2),
        (1, (True, [b"no-guid"])),
        (2, (True, [b" b1"])),
        (2, (True, [b"b" * 129])),
        (2, (False, [GUID.upper().encode()])),
        (3, (True, [b"s\0"])),
        (3, (True, [b"\xff"])),
        (3, (True, [b"s%d" % n for n in range(1001)])),
        (3, (True, [chr(0x1F600 + n).encode() * 250 for n in range(70)])),
        (4, 8),
        (5, [0]),
        (5, [5, 4]),
        (5, [0, 4, 5, 9]),
        (5, [0, 4, 4, 9]),
        (5, [6, 9, 0, 4]),
        (5, [0, 2**32]),
        (6, []),
        (6, [9]),
        (6, [9, 8]),
        (6, [10, 4]),
        (6, [9, 4, 0]),
        (7, [2]),
        (7, [2, b"s1 "]),
        (7, [2, 2]),
        (7, [b"2", b"s1"]),
        (8, b"x"),
        (9, 1),
    ],
)
def test_a_forged_cursor_is_checked_as_a_request_is(part: int, forged: object) -> None:
    parts = msgpack.decode(urlsafe_b64decode(TEXT + "=" * (-len(TEXT) % 4))[4:])
    assert parse_query({"cursorPaging": {"cursor": sealed(parts)}}).position == CURSOR.position
    parts[part] = forged
    with pytest.raises(QueryError, match=r"^query\.cursorPaging\.cursor: is not a cursor"):
        parse_query({"cursorPaging": {"cursor": sealed(parts)}})


def sealed(parts: list[object]) -> str:
    packed = msgpack.encode(parts)
    return urlsafe_b64encode(crc32(packed).to_bytes(4) + packed).rstrip(b"=").decode()


def test_nothing_that_matches_nothing_is_lost_in_a_cursor() -> None:
    nothing = parse_filter({"id": {"$in": []}})
    text = encode_cursor(Cursor(nothing, BY_NUMBER, CURSOR.position, backwards=False))
    assert parse_query({"cursorPaging": {"cursor": text}, "filter": {"status": {"$in": []}}}).filter.is_empty


def test_fields_are_shown_as_asked_and_the_id_always() -> None:
    one = attendance()
    assert project(one, None) == one
    assert parse_query({"fields": []}).fields is None
    asked = parse_query({"fields": ["eventId", "updatedDate"]}).fields
    assert project(one, asked) == {"id": GUID, "sessionId": "s1", "updatedDate": "2026-11-22T10:00:00.123Z"}


def test_positions_are_ordered_by_each_field_then_by_id() -> None:
    places = [
        Position((n, s), i)
        for n, s, i in [(5, "s", GUID), (2, "", GUID), (2, "a", GUID), (2, "a", OTHER), (2, "ab", GUID), (2, "b", GUID)]
    ]
    assert sorted(places[3:] + places[:3], key=order_of(BY_NUMBER)) == places
    turned = (Sort(QueryField.NUMBER), Sort(QueryField.SESSION, descending=True))
    assert sorted(places, key=order_of(turned)) == places[::-1]


def test_the_position_of_an_attendance() -> None:
    found = position_of(attendance(), (Sort(QueryField.STATUS), *BY_NUMBER[:1]))
    assert found == Position(("ATTENDED", 2), GUID)
    assert [type(value) for value in found.values] == [str, int]


def test_a_page_has_the_fields_of_the_contract() -> None:
    assert document(Page([], None, None, has_next=False)) == {
        "attendances": [],
        "pagingMetadata": {"count": 0, "cursors": {}, "hasNext": False},
    }
    assert document(Page([{"id": GUID}], "n", "p", has_next=True)) == {
        "attendances": [{"id": GUID}],
        "pagingMetadata": {"count": 1, "cursors": {"next": "n", "prev": "p"}, "hasNext": True},
    }
