"""Values as bytes, their sizes, which reason comes first, and when an event was received (schemas/README.md)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.decoding.bindings import MAX_NESTING, Headers
from schemas.decoding.explain import decode
from schemas.events import DeadLetter, Event, Reason
from tests.support.incoming import (
    DAY,
    MAX_AGE,
    RECEIVED,
    RECEIVED_MS,
    TIME,
    binary,
    document,
    looked_at,
    raw,
    spoiled,
    take,
    take_booking,
)
from tests.support.odd_records import nested

GOOD = raw(document())
KIB = 1024


def padded(size: int, kind: str = "attendance.check_in") -> bytes:
    """A good event of exactly so many bytes."""
    empty = raw({**document(kind), "pad": ""})
    return raw({**document(kind), "pad": "x" * (size - len(empty))})


NOT_JSON: dict[str, bytes | None] = {
    "null": None,
    "empty": b"",
    "space": b" ",
    "cut": GOOD[:-1],
    "more": GOOD + b"x",
    "two": GOOD + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without BOM": GOOD.decode().encode("utf-16-le"),
    "UTF-32": GOOD.decode().encode("utf-32-be"),
    "Latin-1": GOOD.replace(b"kiosk", b"k\xefosk"),
    "a surrogate in UTF-8": GOOD.replace(b"kiosk", b"\xed\xa0\x80"),
    "a raw line feed in a text": GOOD.replace(b"kiosk", b"ki\nosk"),
    "a raw NUL in a text": GOOD.replace(b"kiosk", b"ki\0osk"),
    "single quotes": GOOD.replace(b'"', b"'"),
    "a comment": b"/**/" + GOOD,
    "a comma too much": GOOD[:-1] + b",}",
    "a leading zero": GOOD.replace(b": 2}", b": 02}"),
    "NaN": GOOD[:-1] + b',"x":NaN}',
    "NaN in the data": GOOD.replace(b": 2}", b": NaN}"),
    "Infinity": GOOD[:-1] + b',"x":Infinity}',
    "-Infinity": GOOD[:-1] + b',"x":[-Infinity]}',
    "a list": b"[" + GOOD + b"]",
    "a text": b'"x"',
    "a number": b"1",
    "null in JSON": b"null",
    "deep": b"[" * 30_000 + b"]" * 30_000,
    "deep in an extra field": GOOD[:-1] + b',"x":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001,
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON)
def test_values_that_are_no_json_object(value: bytes | None) -> None:
    said = take(value)
    assert isinstance(said, DeadLetter)
    assert said.reason == "invalid-json"
    assert said.detail.startswith("value: ")
    if value is not None and value.startswith(b'{"'):
        assert take(looked_at(value)).__class__ is DeadLetter


@pytest.mark.parametrize("value", [None, b"", b"[]", b"1", b"{", b'{"bookingId":"b","sessionId":"s","x":NaN}'], ids=str)
def test_binary_values_that_are_no_json_object(value: bytes | None) -> None:
    said = take(value, binary(document())[1])
    assert isinstance(said, DeadLetter)
    assert said.reason == "invalid-json"


def test_space_around_the_value_is_json() -> None:
    assert take(b" \r\n\t" + GOOD + b"\n ") == take(GOOD)


@pytest.mark.parametrize("depth", [10, 100, MAX_NESTING])
@pytest.mark.parametrize("kind", ["attendance.check_in", "booking.upserted"])
def test_nested_extra_fields_are_ignored(kind: str, depth: int) -> None:
    take_it = take_booking if kind == "booking.upserted" else take
    for value in nested(kind, depth):
        assert take_it(value) == take_it(looked_at(value)) == take_it(raw(document(kind)))


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 2_000, 10_000])
@pytest.mark.parametrize("kind", ["attendance.check_in", "booking.upserted"])
def test_documents_that_nest_deeper_are_dead_letters(kind: str, depth: int) -> None:
    take_it = take_booking if kind == "booking.upserted" else take
    expected = DeadLetter(Reason.INVALID_JSON, f"value: nests objects and arrays too deep; nest at most {MAX_NESTING} of them")
    for value in nested(kind, depth):
        assert take_it(value) == take_it(looked_at(value)) == expected


@pytest.mark.parametrize("text", [b"[" * 1_000, b'\\"' + b"[{" * 1_000, b"[" * 1_000 + b"\\\\"])
def test_brackets_in_texts_do_not_nest(text: bytes) -> None:
    assert take(GOOD[:-1] + b',"x":"' + text + b'"}') == take(GOOD)


@pytest.mark.parametrize("value", [b'{"x":"' + b'\\"[' * 20_000, b'"[' * 30_000, b"[" * 600 + b'"' + b"\\" * 50_001])
def test_texts_without_end_are_read_once(value: bytes) -> None:
    said = take(value)
    assert isinstance(said, DeadLetter)
    assert said.reason == "invalid-json"


@pytest.mark.parametrize(
    "again", [b'"id":"e2"', b'"id":5', b'"data":{}', b'"data":5', b'"type":"booking.erased"', b'"time":"x"']
)
def test_of_duplicate_keys_the_same_one_counts_always(again: bytes) -> None:
    for value in (GOOD[:-1] + b"," + again + b"}", b"{" + again + b"," + GOOD[1:]):
        assert take(value) == take(looked_at(value))


def test_events_have_at_most_64_kib() -> None:
    assert take(padded(64 * KIB)) == take(GOOD)
    said = take(padded(64 * KIB + 1))
    assert isinstance(said, DeadLetter)
    assert said.reason == "too-large"


def test_binary_events_have_at_most_64_kib() -> None:
    data, headers = binary(document())
    assert take(data + b" " * (64 * KIB - len(data)), headers) == take(GOOD)
    said = take(data + b" " * (64 * KIB + 1 - len(data)), headers)
    assert isinstance(said, DeadLetter)
    assert said.reason == "too-large"


def test_booking_records_have_at_most_512_kib() -> None:
    small = take_booking(raw(document("booking.upserted")))
    assert take_booking(padded(512 * KIB, "booking.upserted")) == small
    said = take_booking(padded(512 * KIB + 1, "booking.upserted"))
    assert isinstance(said, DeadLetter)
    assert said.reason == "too-large"


def defects(*wanted: str) -> dict[str, Any]:
    whole = document()
    if "time-too-old" in wanted:
        whole["time"] = "1970-01-01T00:00:00Z"
    if "invalid-field" in wanted:
        whole["data"]["bookingId"] = 5
    if "unknown-type" in wanted:
        whole["type"] = "no.such"
    if "invalid-envelope" in wanted:
        whole["source"] = ""
    if "no time" in wanted:
        whole["time"] = "now"
    return whole


ORDER = ["invalid-envelope", "unknown-type", "invalid-field", "time-too-old"]


@pytest.mark.parametrize(
    "several", [ORDER[i:j] for i in range(4) for j in range(i + 1, 5)] + [["invalid-envelope", "time-too-old"]], ids=str
)
def test_the_first_reason_that_applies(several: list[str]) -> None:
    whole = defects(*several)
    for said in (take(raw(whole)), take(looked_at(raw(whole))), take(*binary({**whole, "id": "e"}))):
        assert isinstance(said, DeadLetter)
        assert said.reason == several[0]


def test_a_bad_time_comes_before_an_unknown_type() -> None:
    said = take(raw(defects("no time", "unknown-type", "invalid-field")))
    assert isinstance(said, DeadLetter)
    assert said.reason == "invalid-envelope"


def test_size_then_json_then_envelope() -> None:
    for headers in ((), [("ce_id", b"")]):
        too_large, no_json = take(b"{" * (64 * KIB + 1), headers), take(b"{", headers)
        assert isinstance(too_large, DeadLetter)
        assert isinstance(no_json, DeadLetter)
        assert (too_large.reason, no_json.reason) == ("too-large", "invalid-json")


def rfc3339(micros: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat(timespec="microseconds")


@pytest.mark.parametrize("shift", [0, DAY, 400 * DAY])
def test_time_too_old_is_exact_to_the_microsecond(shift: int) -> None:
    headers = [("attendance-received", rfc3339(RECEIVED - shift).encode())]
    oldest = RECEIVED - shift - MAX_AGE
    for time, good in ((oldest, True), (oldest - 1, False), (oldest + DAY, True), (0, False)):
        value = raw(spoiled("attendance.check_in", "time", rfc3339(time)))
        for said in (take(value, headers), take(looked_at(value), headers)):
            assert isinstance(said, Event) == good, (time, said)
            assert good or said.reason == "time-too-old"  # type: ignore[union-attr]


def test_the_largest_age_is_a_setting() -> None:
    value = raw(spoiled("attendance.check_in", "time", rfc3339(RECEIVED - DAY)))
    assert isinstance(take(value, max_age=DAY), Event)
    assert isinstance(take(value, max_age=DAY - 1), DeadLetter)
    assert isinstance(take(GOOD, max_age=0), Event)


EARLY, EARLIER = b"2026-11-22T09:00:00.0000019+00:00", b"2026-11-22T08:00:00Z"
HOUR = 3_600_000_000
RECEIVED_BY_HEADERS: list[tuple[str, list[tuple[str, bytes | None]], int]] = [
    ("none", [], RECEIVED),
    ("earlier", [("attendance-received", EARLY)], RECEIVED - HOUR + 1),
    ("another zone", [("attendance-received", b"2026-11-22T10:00:00+01:00")], RECEIVED - HOUR),
    ("lower case", [("attendance-received", b"2026-11-22t09:00:00z")], RECEIVED - HOUR),
    ("later", [("attendance-received", b"2026-11-22T10:00:00.000001Z")], RECEIVED),
    ("no offset", [("attendance-received", b"2026-11-22T09:00:00")], RECEIVED),
    ("no time", [("attendance-received", b"yesterday")], RECEIVED),
    ("not UTF-8", [("attendance-received", b"\xff")], RECEIVED),
    ("empty", [("attendance-received", b"")], RECEIVED),
    ("null", [("attendance-received", None)], RECEIVED),
    ("repeated", [("attendance-received", EARLIER), ("attendance-received", EARLY)], RECEIVED - 2 * HOUR),
    ("repeated, the other way", [("attendance-received", EARLY), ("attendance-received", EARLIER)], RECEIVED - 2 * HOUR),
    ("one of two is none", [("attendance-received", b"x"), ("attendance-received", EARLIER)], RECEIVED - 2 * HOUR),
    ("another header", [("received", EARLIER), ("ce-time", EARLIER)], RECEIVED),
]


@pytest.mark.parametrize(
    ("headers", "received"), [row[1:] for row in RECEIVED_BY_HEADERS], ids=[r[0] for r in RECEIVED_BY_HEADERS]
)
def test_received_is_the_timestamp_or_an_earlier_header(headers: Headers, received: int) -> None:
    for value in (GOOD, looked_at(GOOD)):
        event = take(value, headers)
        assert isinstance(event, Event)
        assert event.received == received
    data, attributes = binary(document())
    event = take(data, [*attributes, *headers])
    assert isinstance(event, Event)
    assert event.received == received


@pytest.mark.parametrize("max_age", [0, DAY // 24, MAX_AGE])
@pytest.mark.parametrize("received", [b"0001-01-01T00:00:00+10:00", b"0001-01-01T00:00:00+23:59", b"0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", TIME])
def test_the_ends_of_time_raise_nothing(time: str, received: bytes, max_age: int) -> None:
    value = raw(spoiled("attendance.check_in", "time", time))
    decode(value, [("attendance-received", received)], RECEIVED_MS, max_age=max_age)
