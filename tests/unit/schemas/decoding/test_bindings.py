"""The Kafka binding of CloudEvents: modes, wrappers of the value, data in base64, and details that name the cause."""

import json
from base64 import b64encode
from typing import Any

import pytest

from schemas.decoding.bindings import Headers
from schemas.decoding.explain import decode, received_at
from schemas.events import Booking, DeadLetter, Event
from tests.support.incoming import (
    MISSING,
    RECEIVED,
    RECEIVED_MS,
    binary,
    document,
    raw,
    spoiled,
    take,
    take_booking,
)

FRAME, MARK = b"\0\0\0\0\x2a", b"\xef\xbb\xbf"
GOOD = take(raw(document()))
KNOWN = take_booking(raw(document("booking.upserted")))
KIB = 1024


def in_base64(whole: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = b64encode(raw(whole["data"])).decode()
    return {**{name: value for name, value in whole.items() if name != "data"}, "data_base64": data, **more}


def letter(said: object) -> DeadLetter:
    assert isinstance(said, DeadLetter), said
    return said


@pytest.mark.parametrize("wrapper", [FRAME, MARK, FRAME + MARK, b"\0\\\x7f\xff\xef"], ids=repr)
def test_a_registry_frame_and_then_a_mark_are_dropped(wrapper: bytes) -> None:
    value, headers = binary(document())
    assert take(wrapper + raw(document())) == take(wrapper + value, headers) == GOOD
    upserted = document("booking.upserted")
    assert take_booking(wrapper + raw(upserted)) == take_booking(wrapper + binary(upserted)[0], headers=binary(upserted)[1])
    assert take_booking(wrapper + raw(upserted)) == KNOWN
    assert isinstance(KNOWN, Booking)


@pytest.mark.parametrize("wrapper", [MARK + FRAME, MARK + MARK, FRAME + FRAME, b"\0", b"\0\0\0\0", b" " + MARK], ids=repr)
def test_other_wrappers_are_no_json(wrapper: bytes) -> None:
    assert letter(take(wrapper + raw(document()))).reason == "invalid-json"
    assert letter(take(wrapper)).reason == "invalid-json"


def test_limits_are_of_the_value_as_it_came() -> None:
    def padded(kind: str, size: int) -> bytes:
        value = FRAME + MARK + raw({**document(kind), "x": "?"})
        return value.replace(b"?", b"x" * (size - len(value) + 1))

    assert take(padded("attendance.check_in", 64 * KIB)) == GOOD
    assert letter(take(padded("attendance.check_in", 64 * KIB + 1))).reason == "too-large"
    assert take_booking(padded("booking.upserted", 512 * KIB)) == KNOWN
    assert letter(take_booking(padded("booking.upserted", 512 * KIB + 1))).reason == "too-large"


@pytest.mark.parametrize("name", ["ce_specversion", "CE_SpecVersion", "Ce_specversion"])
@pytest.mark.parametrize("kind", [b"application/cloudevents+json", b"Application/JSON", b"text/plain", None])
def test_binary_mode_is_recognised_by_specversion_alone(name: str, kind: bytes | None) -> None:
    value, headers = binary(document())
    renamed = [(name if header == "ce_specversion" else header.upper(), text) for header, text in headers]
    assert take(value, [*renamed, ("Content-Type", kind)]) == GOOD
    upserted, attributes = binary(document("booking.upserted"))
    assert take_booking(upserted, headers=[*attributes, ("content-type", kind)]) == KNOWN


@pytest.mark.parametrize("extra", [("ce_traceparent", b"00-1"), ("ce_id", b"x"), ("ce-specversion", b"1.0"), ("CE_TYPE", None)])
def test_other_headers_leave_a_structured_event_structured(extra: tuple[str, bytes | None]) -> None:
    assert take(raw(document()), [extra]) == GOOD
    assert take_booking(raw(document("booking.upserted")), headers=[extra]) == KNOWN


def test_received_is_the_earliest_well_formed_header_in_any_case() -> None:
    first, later = b"2026-11-22T08:00:00Z", b"2026-11-22T09:00:00Z"
    headers: Headers = [("Attendance-Received", later), ("attendance-received", b"x"), ("ATTENDANCE-RECEIVED", first)]
    assert received_at(headers, RECEIVED_MS) == RECEIVED - 7_200_000_000
    assert received_at((), RECEIVED_MS) == RECEIVED


@pytest.mark.parametrize("timestamp", [2**63 - 1, -(2**63), 253_402_300_800_000, -1])
def test_no_timestamp_leaves_the_years_1_to_9999(timestamp: int) -> None:
    """What is packed into an order key must fit eight bytes."""
    assert -62_135_596_800_000_000 <= received_at((), timestamp) < 253_402_300_800_000_000
    one = decode(raw(document()), (), timestamp, max_age=2**62)
    assert isinstance(one, Event)
    assert one.received == received_at((), timestamp)


def test_data_in_base64_is_decoded() -> None:
    assert take(raw(in_base64(document()))) == GOOD
    assert take(raw(in_base64(document(), data=None))) == GOOD
    assert take(raw({**document(), "data_base64": None})) == GOOD
    assert take_booking(raw(in_base64(document("booking.upserted")))) == KNOWN


def test_data_twice_is_no_envelope() -> None:
    for given in ({}, document()["data"], "x", 1):
        for encoded in ("", "e30=", 5, {}):
            said = letter(take(raw({**document(), "data": given, "data_base64": encoded})))
            assert (said.reason, said.detail.partition(":")[0]) == ("invalid-envelope", "data_base64")


BAD_BASE64: list[Any] = ["", "e30", "e30==", "{}", "e3 0=", "_-8=", "é", 5, True, {}, []]
NO_OBJECT = [b"", b"[]", b"null", b"1", b'"{}"', b"{", b'{"x":NaN}', b"\xff"]


@pytest.mark.parametrize("encoded", [*BAD_BASE64, *(b64encode(each).decode() for each in NO_OBJECT)], ids=repr)
def test_base64_of_no_object_is_an_invalid_field(encoded: Any) -> None:
    said = letter(take(raw({**in_base64(document()), "data_base64": encoded})))
    assert (said.reason, said.detail.partition(":")[0]) == ("invalid-field", "data_base64")


def test_an_unknown_type_comes_before_what_is_wrong_in_base64() -> None:
    assert letter(take(raw({**in_base64(document()), "data_base64": "!", "type": "x"}))).reason == "unknown-type"
    assert letter(take(raw({**in_base64(document()), "data_base64": "!", "id": ""}))).reason == "invalid-envelope"


def test_base64_of_wrong_fields_names_them() -> None:
    said = letter(take(raw(in_base64(document(bookingId=5)))))
    assert (said.reason, said.detail.partition(":")[0]) == ("invalid-field", "data.bookingId")


def test_headers_of_binary_mode_are_no_data() -> None:
    value, headers = binary(document())
    assert take(value, [*headers, ("ce_data", b"{}"), ("ce_data_base64", b"e30=")]) == GOOD


STRUCTURED, DATA = raw(document()), raw(document()["data"])
HTTP_HEADERS = [(name.replace("_", "-"), text) for name, text in binary(document())[1]]
SOME_HEADERS = [each for each in binary(document())[1] if each[0] != "ce_specversion"]


def quoted(*names: str) -> Headers:
    """Headers of binary mode, these as a JSON serializer writes them."""
    return [(n, json.dumps((v or b"").decode()).encode() if n in names else v) for n, v in binary(document())[1]]


DETAILS: list[tuple[bytes, Headers, str]] = [
    (DATA, quoted("ce_specversion"), "specversion: the header ce_specversion is in quotation marks"),
    (DATA, quoted("ce_time"), "time: the header ce_time is in quotation marks"),
    (DATA, quoted("ce_type"), "type: the header ce_type is in quotation marks"),
    (DATA, HTTP_HEADERS, "specversion: is missing; ce-specversion is a header of the HTTP binding; on Kafka prefix"),
    (DATA, SOME_HEADERS, "specversion: is missing; binary mode needs the header ce_specversion"),
    (json.dumps(STRUCTURED.decode()).encode(), (), "value: is a JSON object encoded twice"),
    (STRUCTURED.decode().encode("utf-16"), (), "value: is UTF-16; write JSON in UTF-8"),
    (raw(spoiled("attendance.check_in", "data", DATA.decode())), (), "data: is a JSON object encoded twice"),
]
FIELD_DETAILS: list[tuple[str, Any, str]] = [
    ("data.bookingId", 88214716, "is the number 88214716, not text in quotes; "),
    ("data.bookingId", True, "is true, not text in quotes; "),
    ("data.bookingId", MISSING, "is missing; "),
    ("data.bookingId", None, "is null; "),
    ("data.bookingId", {}, "is an object; "),
    ("data.bookingId", "\ufeff ", "is empty; "),
    ("data.bookingId", "x" * 200, "has 200 characters; "),
    ("data.sessionId", "a\u009b", "contains the control character U+009B; "),
    ("data.sessionId", "a\ud800", "contains the lone surrogate U+D800; "),
    ("data.numberOfAttendees", "2", 'is the text "2"; write a whole number'),
    ("data.numberOfAttendees", 2.0, "is a number with a fraction or exponent; "),
    ("data.numberOfAttendees", 10**30, "is a number of more than 20 digits; "),
    ("data.numberOfAttendees", 100_001, "is the number 100001; "),
    ("specversion", 1.0, 'is a number with a fraction or exponent, not text in quotes; write "1.0"'),
    ("time", 1795341600, "is the number 1795341600, not text in quotes; write an RFC 3339"),
    ("time", "2026-11-22 10:00", 'is the text "2026-11-22 10:00"; write an RFC 3339'),
    ("source", "a\n", "contains the control character U+000A; "),
]


@pytest.mark.parametrize(("value", "headers", "detail"), DETAILS, ids=[each[2][:40] for each in DETAILS])
def test_details_name_the_cause(value: bytes, headers: Headers, detail: str) -> None:
    assert letter(take(value, headers)).detail.startswith(detail)


@pytest.mark.parametrize(("path", "given", "detail"), FIELD_DETAILS, ids=ascii)
def test_details_of_fields_name_the_cause(path: str, given: Any, detail: str) -> None:
    said = letter(take(raw(spoiled("attendance.check_in", path, given)))).detail
    assert said.startswith(f"{path}: {detail}")
    assert said.isprintable()
