"""Records of the bookings topic (schemas/README.md)."""

from typing import Any

import pytest

from schemas.events import Booking, BookingGone, DeadLetter, Window
from tests.support.incoming import (
    BOOKING_DATA,
    DATA,
    GUID,
    MISSING,
    RECEIVED,
    TIME,
    binary,
    document,
    raw,
    spoiled,
    take_booking,
)

UPSERTED, DELETED = "booking.upserted", "booking.deleted"
HOUR = 3_600_000_000


def booking(whole: dict[str, Any], key: bytes = b"b1") -> Booking:
    said = take_booking(raw(whole), key)
    assert isinstance(said, Booking), said
    return said


def letter(whole: dict[str, Any], key: bytes | None = b"b1") -> DeadLetter:
    said = take_booking(raw(whole), key)
    assert isinstance(said, DeadLetter), said
    return said


def test_structured_and_binary_records_give_the_same_booking() -> None:
    expected = Booking("b1", 2, True, False, {"s1": Window(RECEIVED, RECEIVED + HOUR)}, RECEIVED)
    whole = document(UPSERTED)
    assert take_booking(raw(whole)) == expected
    assert take_booking(raw(whole), headers=[("content-type", b"application/cloudevents+json")]) == expected
    value, headers = binary(whole)
    assert take_booking(value, headers=headers) == expected
    assert take_booking(*binary(document(DELETED))[:1], headers=binary(document(DELETED))[1]) == BookingGone("b1")


def test_optional_fields_have_their_defaults() -> None:
    fewest = dict.fromkeys(("walkInsAllowed", "serviceType", "status", "sessions"), MISSING)
    assert booking(document(UPSERTED, **fewest)) == Booking("b1", 2, False, False, None, RECEIVED)


def test_a_deleted_booking_and_a_null_value_are_the_same() -> None:
    assert take_booking(raw(document(DELETED))) == BookingGone("b1")
    assert take_booking(None) == BookingGone("b1")
    assert take_booking(None, GUID.lower().encode()) == BookingGone(GUID.lower())


def test_status_and_sessions_are_read() -> None:
    assert booking(document(UPSERTED, status="CANCELED")).canceled
    assert booking(document(UPSERTED, sessions=[])).sessions == {}
    listed = [{"sessionId": f" {GUID} "}, {"sessionId": "s2", "startsAt": "2026-11-22T11:00:00+01:00", "title": 7}]
    sessions = {GUID.lower(): Window(None, None), "s2": Window(RECEIVED, None)}
    assert booking(document(UPSERTED, sessions=listed)).sessions == sessions


def test_a_session_listed_twice_spans_both_windows() -> None:
    one = {"sessionId": GUID, "startsAt": "2026-11-22T11:00:00Z", "endsAt": "2026-11-22T12:00:00Z"}
    two = {"sessionId": GUID.lower(), "startsAt": TIME, "endsAt": "2026-11-22T11:30:00Z"}
    for listed in ([one, two], [two, one], [two, {"sessionId": GUID}, one]):
        assert booking(document(UPSERTED, sessions=listed)).sessions == {GUID.lower(): Window(RECEIVED, RECEIVED + 2 * HOUR)}


@pytest.mark.parametrize("number", [1, 99_999, 100_000])
def test_number_of_participants_is_1_to_100000(number: int) -> None:
    assert booking(document(UPSERTED, numberOfParticipants=number)).participants == number


ILL_TYPED: list[tuple[str, list[Any]]] = [
    ("bookingId", [MISSING, None, 1, "", "  ", "x" * 129, "a\nb", "\n b1", "b1\x7f", "\ud800", []]),
    ("numberOfParticipants", [MISSING, None, 0, -1, 100_001, 2**31 - 1, 2.0, "2", True, [], {}]),
    ("walkInsAllowed", ["true", 1, 0, "", [], {}]),
    ("serviceType", ["", "class", "OTHER", 1, True, [], {}]),
    ("status", ["", "canceled", "CANCELLED", "ATTENDED", 1, True, [], {}]),
    ("sessions", ["s1", 1, True, {}, ["s1"], [None], [[]]]),
    ("sessions.0.sessionId", [MISSING, None, 1, "", "  ", "x" * 251, "a\nb", "s1\n", "\ts1", "s1\x7f", "\ud800"]),
    ("sessions.0.startsAt", [1, "", "tomorrow", "2026-11-22T10:00:00", [], {}]),
    ("sessions.0.endsAt", [1, "", "tomorrow", "2026-11-22T10:00:00", [], {}]),
]
CASES = [(path, bad) for path, several in ILL_TYPED for bad in several]


@pytest.mark.parametrize(("path", "bad"), CASES, ids=[f"{path}={bad!a}" for path, bad in CASES])
def test_ill_typed_fields_are_named(path: str, bad: Any) -> None:
    said = letter(spoiled(UPSERTED, f"data.{path}", bad))
    assert said.reason == "invalid-field"
    assert said.detail.startswith(f"data.{path}")


@pytest.mark.parametrize("bad", [MISSING, None, 1, "", "x" * 129, "a\0"], ids=ascii)
def test_a_deleted_booking_needs_its_id(bad: Any) -> None:
    assert letter(document(DELETED, bookingId=bad)).reason == "invalid-field"


def test_ids_are_measured_after_trimming() -> None:
    name = "\N{GRINNING FACE}" * 128
    assert booking(document(UPSERTED, bookingId=f" {name}  "), name.encode()).booking_id == name
    sessions = [{"sessionId": f" {'x' * 250} "}]
    assert booking(document(UPSERTED, sessions=sessions)).sessions == {"x" * 250: Window(None, None)}


@pytest.mark.parametrize("kind", [*DATA, "booking.created", "BOOKING.UPSERTED"])
def test_types_of_the_other_topic_are_unknown(kind: str) -> None:
    said = letter({**document(UPSERTED), "type": kind})
    assert (said.reason, said.detail.split(":")[0]) == ("unknown-type", "type")


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "time"])
@pytest.mark.parametrize("bad", [MISSING, None, 1, []], ids=str)
def test_the_envelope_is_required(name: str, bad: Any) -> None:
    assert letter(spoiled(UPSERTED, name, bad)).reason == "invalid-envelope"


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b"\xff", raw(document(UPSERTED))[:-1] + b',"x":NaN}'], ids=str)
def test_values_that_are_no_json_object(value: bytes) -> None:
    said = take_booking(value)
    assert isinstance(said, DeadLetter)
    assert said.reason == "invalid-json"


@pytest.mark.parametrize("kind", BOOKING_DATA)
@pytest.mark.parametrize("key", [None, b"", b"b2", b" b1", b"B1", b"\xff", b"b1\0"], ids=str)
def test_the_data_names_the_booking_whatever_the_key(kind: str, key: bytes | None) -> None:
    found = take_booking(raw(document(kind)), key)
    assert not isinstance(found, DeadLetter)
    assert found == take_booking(raw(document(kind)))
    assert found.booking_id == "b1"


@pytest.mark.parametrize("key", [GUID, f" {GUID}", GUID.lower(), f"{GUID.lower()} "])
def test_a_null_value_deletes_the_booking_its_key_spells(key: str) -> None:
    assert take_booking(None, key.encode()) == BookingGone(GUID.lower())


@pytest.mark.parametrize("key", [None, b"", b"  ", b"\xff", b"b\n", b"x" * 129], ids=str)
def test_a_null_value_with_a_key_that_is_no_booking_id(key: bytes | None) -> None:
    found = take_booking(None, key)
    assert isinstance(found, DeadLetter)
    assert (found.reason, found.detail.split(":")[0]) == ("invalid-field", "key")


def test_the_first_reason_that_applies() -> None:
    assert letter({**document(UPSERTED, bookingId=5), "id": "", "type": "x"}, b"b2").reason == "invalid-envelope"
    assert letter({**document(UPSERTED, bookingId=5), "type": "x"}, b"b2").reason == "unknown-type"
    assert letter(document(UPSERTED, numberOfParticipants=0), b"b2").reason == "invalid-field"


def test_bookings_are_never_too_old() -> None:
    assert booking(spoiled(UPSERTED, "time", "1970-01-01T00:00:00Z")).time == 0
