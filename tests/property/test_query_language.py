"""The query language against a naive reading of the request, and against whatever a stranger sends."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cmp_to_key
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from schemas.attendance import Attendance
from schemas.query.request import (
    MAX,
    Cursor,
    Filter,
    Names,
    Query,
    QueryError,
    QueryField,
    Sort,
    encode_cursor,
    order_of,
    parse_filter,
    parse_query,
    position_of,
)
from tests.support.examples import examples
from tests.support.oracle.reading import INVISIBLE

IDS = [f"0f8fad5b-d9cb-469f-a165-{n:012x}" for n in (0, 10, 255)]
BOOKINGS = ["b1", "B1", "b", "b1é", "b1￿", "b1😀", IDS[1]]
SESSIONS = ["s1", "S1", " ", IDS[2], "s" * 250]
STATUSES = ["ATTENDED", "NOT_ATTENDED", "NOT_SET"]
NUMBERS = [0, 1, 2, 3, 7, MAX]
ODD = ["", "x\0", "b1\t", "\ns1", "\ud800", "ſ" * 300, f"{{{IDS[1]}}}", IDS[1].replace("-", "")]
POOLS: dict[str, list[Any]] = {
    "id": IDS,
    "bookingId": BOOKINGS,
    "sessionId": [each for each in SESSIONS if each.strip()],
    "status": STATUSES,
    "numberOfAttendees": NUMBERS,
}
ATTENDANCES: st.SearchStrategy[Any] = st.fixed_dictionaries({name: st.sampled_from(pool) for name, pool in POOLS.items()})


def values(name: str) -> st.SearchStrategy[Any]:
    if name == "status":
        return st.sampled_from(STATUSES)
    if name == "numberOfAttendees":
        return st.sampled_from([*NUMBERS, -1, 4, MAX + 1, -(10**30)]) | st.integers()
    spelled = [spell for each in POOLS[name] for spell in (each, each.upper())]
    if name != "id":
        spelled += [f"\ufeff {each}\u200b\u00a0" for each in spelled]
    return st.sampled_from([*spelled, *ODD])


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(list(POOLS)))
    spelled = draw(st.sampled_from(["sessionId", "eventId"])) if name == "sessionId" else name
    one, several = values(name), st.lists(values(name), max_size=5)
    ordered = ("$lt", "$lte", "$gt", "$gte") if name == "numberOfAttendees" else ()
    operators = dict.fromkeys(("$eq", "$ne", *ordered), one) | dict.fromkeys(("$in", "$nin", "$hasSome"), several)
    chosen = draw(st.lists(st.sampled_from(list(operators)), min_size=1, max_size=3, unique=True))
    return {spelled: draw(one | st.fixed_dictionaries({operator: operators[operator] for operator in chosen}))}


@st.composite
def filters(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in draw(st.lists(conditions(), max_size=2)):
        found |= each
    if depth and draw(st.booleans()):
        found["$and"] = draw(st.lists(filters(depth - 1), max_size=2))
    return found


SORTS = st.lists(
    st.builds(Sort, st.sampled_from(list(QueryField)), st.booleans()), min_size=1, max_size=2, unique_by=lambda sort: sort.field
).map(tuple)
CURSORS = st.builds(
    lambda said, sort, at, backwards: Cursor(parse_filter(said), sort, position_of(at, sort), backwards),
    filters(),
    SORTS,
    ATTENDANCES,
    st.booleans(),
)


def normal(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name == "status":
        return value
    text = value if name == "id" else value.strip(INVISIBLE)
    try:
        return text.lower() if str(UUID(text)) == text.lower() else text
    except ValueError:
        return text


def naively(said: dict[str, Any], attendance: Attendance) -> bool:
    """What the request says, condition by condition."""
    shown: Any = attendance
    for key, value in said.items():
        if key == "$and":
            if not all(naively(each, attendance) for each in value):
                return False
            continue
        name = "sessionId" if key == "eventId" else key
        for operator, wanted in (value if isinstance(value, dict) else {"$eq": value}).items():
            if not compare(operator, shown[name], name, wanted):
                return False
    return True


def compare(operator: str, has: Any, name: str, wanted: Any) -> bool:
    match operator:
        case "$eq":
            return bool(has == normal(name, wanted))
        case "$ne":
            return bool(has != normal(name, wanted))
        case "$in" | "$hasSome":
            return has in [normal(name, each) for each in wanted]
        case "$nin":
            return has not in [normal(name, each) for each in wanted]
        case "$lt":
            return bool(has < wanted)
        case "$lte":
            return bool(has <= wanted)
        case "$gt":
            return bool(has > wanted)
    assert operator == "$gte"
    return bool(has >= wanted)


def first_of(said: dict[str, Any]) -> dict[str, Any] | None:
    """The first condition of the document, alone."""
    for key, value in said.items():
        if key != "$and":
            return {key: dict([next(iter(value.items()))]) if isinstance(value, dict) else value}
        for each in value:
            if (found := first_of(each)) is not None:
                return found
    return None


@settings(max_examples=examples(200))
@given(filters(), st.lists(ATTENDANCES, min_size=1, max_size=8))
def test_a_filter_matches_what_its_request_says(said: dict[str, Any], attendances: list[Attendance]) -> None:
    found = parse_filter(said)
    matched = [found.matches(each) for each in attendances]
    assert matched == [naively(said, each) for each in attendances]
    assert not (found.is_empty and any(matched))
    first = parse_filter(said, first_filter_only=True)
    assert [first.matches(each) for each in attendances] == [naively(first_of(said) or {}, each) for each in attendances]


@given(filters())
def test_another_way_to_say_the_same_is_the_same(said: dict[str, Any]) -> None:
    found = parse_filter(said)
    assert parse_filter({"$and": [said, {}, said]}) == found
    apart = [{key: value} for key, value in reversed(said.items())]
    assert parse_filter({"$and": apart}) == found
    assert is_normal(found)


@given(CURSORS, st.integers(1, 100))
def test_a_cursor_comes_back_as_it_went(cursor: Cursor, limit: int) -> None:
    asked = {"cursorPaging": {"cursor": encode_cursor(cursor), "limit": limit}}
    assert parse_query(asked) == Query(cursor.filter, cursor.sort, limit, cursor.position, cursor.backwards)


def refused(text: str) -> None:
    with pytest.raises(QueryError) as error:
        parse_query({"cursorPaging": {"cursor": text}})
    assert [each.field for each in error.value.violations] == ["query.cursorPaging.cursor"]


@given(CURSORS, st.data())
def test_a_damaged_cursor_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    text = encode_cursor(cursor)
    at = data.draw(st.integers(0, len(text) - 1))
    refused(text[:at])
    refused(text + data.draw(st.text(min_size=1, max_size=4)))
    other = data.draw(st.characters() | st.sampled_from("Aa0-_=+/"))
    if other != text[at]:
        refused(text[:at] + other + text[at + 1 :])


@given(st.text() | st.binary().map(lambda raw: urlsafe_b64encode(raw).rstrip(b"=").decode()))
def test_strange_text_is_no_cursor(text: str) -> None:
    refused(text)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
ALMOST = st.one_of(
    JUNK,
    st.sampled_from(
        [0, 1, 7, 8, 9, 10, [0, MAX], [5, 4], [0, 5, 5, 9], [0, 4, 5, 9], [0, MAX + 1], [3], [1, 0], [0, 1], [1, 1]]
    ),
    st.sampled_from([b"", b"\0" * 16, b"\0" * 17, b"b1", b" b1", b"\xff", b"LATE", b"b" * 1001, IDS[0].upper().encode()]),
    st.tuples(st.booleans(), st.lists(st.sampled_from([b"\0" * 17, b"b1", b"b1 ", b"b\n", b"b" * 129, b"\xed\xa0\x80"]))),
)


@settings(max_examples=examples(200))
@given(CURSORS, st.data())
def test_a_forged_cursor_reaches_no_further_than_a_request(cursor: Cursor, data: st.DataObject) -> None:
    """With the right checksum, so that every rule behind it is met."""
    text = encode_cursor(cursor)
    parts = msgpack.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4))[4:])
    for at in data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=2)):
        parts[at] = data.draw(ALMOST)
    packed = data.draw(st.sampled_from([msgpack.encode(parts), msgpack.encode(parts[:-1]), msgpack.encode([*parts, 1])]))
    forged = urlsafe_b64encode(crc32(packed).to_bytes(4) + packed).rstrip(b"=").decode()
    query = outcome(parse_query, {"cursorPaging": {"cursor": forged}})
    if isinstance(query, QueryError):
        assert [each.field for each in query.violations] == ["query.cursorPaging.cursor"]
        return
    place = zip((sort.field for sort in query.sort), query.position.values, strict=True)
    assert not any(parse_filter({name: value}).is_empty for name, value in [*place, ("id", query.position.id)])
    assert is_normal(query.filter)


def outcome(parse: Any, said: object) -> Any:
    try:
        return parse(said)
    except QueryError as error:
        return error


def is_normal(wanted: Filter) -> bool:
    """Whether a request can say each part of it."""
    bounds = [bound for each in wanted.numbers for bound in each]
    return (
        all(
            parse_filter({name: text}) == Filter()._replace(**{part: Names(frozenset({text}))})
            for name, part in (("id", "ids"), ("bookingId", "bookings"), ("sessionId", "sessions"))
            for text in getattr(wanted, part).allowed or getattr(wanted, part).denied
        )
        and all(0 <= low <= high <= MAX for low, high in wanted.numbers)
        and all(low > high + 1 for high, low in zip(bounds[1::2], bounds[2::2], strict=False))
        and wanted.statuses <= set(STATUSES)
        and all(names.allowed is None or not names.denied for names in wanted[:3])
    )


ORDINARY = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from([*STATUSES, *IDS, "ASC"]))
KEYS = st.text() | st.sampled_from(
    [*POOLS, "eventId", "$and", "$or", "$eq", "$in", "$nin", "$lt", "filter", "sort", "cursorPaging", "fields", "fieldName"]
    + ["order", "limit", "cursor"]
)
STRANGE = st.recursive(
    ORDINARY, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


@settings(max_examples=examples(200))
@given(STRANGE | st.fixed_dictionaries({}, optional=dict.fromkeys(("filter", "sort", "cursorPaging", "fields"), STRANGE)))
def test_any_json_is_a_query_or_a_printable_refusal(said: Any) -> None:
    for parse in (parse_query, parse_filter):
        found = outcome(parse, said)
        if isinstance(found, QueryError):
            assert 1 <= len(found.violations) <= 20
            assert all(text.isprintable() for violation in found.violations for text in violation)
            assert str(found).encode()


@given(SORTS, st.lists(ATTENDANCES, max_size=12))
def test_positions_are_in_the_order_of_their_values(sort: tuple[Sort, ...], attendances: list[Attendance]) -> None:
    def compared(one: Any, other: Any) -> int:
        for field, descending in (*sort, Sort(QueryField.ID, sort[-1].descending)):
            left, right = (each[field].encode() if isinstance(each[field], str) else each[field] for each in (one, other))
            if left != right:
                return (-1 if left < right else 1) * (-1 if descending else 1)
        return 0

    expected = [position_of(each, sort) for each in sorted(attendances, key=cmp_to_key(compared))]
    assert sorted([position_of(each, sort) for each in attendances], key=order_of(sort)) == expected
