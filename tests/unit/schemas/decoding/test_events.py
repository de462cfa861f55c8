"""The rules for what comes in (schemas/README.md): what is accepted, and what each refusal says."""

import json
from typing import Any

import pytest

from schemas.events import DeadLetter, Event
from tests.support.incoming import (
    DATA,
    GUID,
    MISSING,
    RECEIVED,
    TIME,
    binary,
    document,
    event_of,
    letter_of,
    looked_at,
    raw,
    spoiled,
    take,
)

CHECK_IN, SCAN, SET = "attendance.check_in", "attendance.participant_scanned", "attendance.set"
#: (type, field, longest)
IDENTIFIERS = [(CHECK_IN, "bookingId", 128), (CHECK_IN, "sessionId", 250), (SCAN, "participantId", 128)]
NAMES = {"bookingId": "booking_id", "sessionId": "session_id", "participantId": "participant_id"}
CONTROL = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
STRUCTURED: list[list[tuple[str, bytes | None]]] = [
    [],
    [("content-type", b"application/cloudevents+json")],
    [("content-type", b"application/cloudevents+json; charset=utf-8")],
    [("content-type", b"Application/CloudEvents+JSON")],
    [("content-type", b"application/json"), ("ce_id", b"other"), ("ce_type", b"nonsense"), ("ce_traceparent", b"00-1")],
    [("content-type", b"application/json"), ("traceparent", b"00-1"), ("empty", None)],
]


@pytest.mark.parametrize("headers", STRUCTURED, ids=str)
def test_structured_mode_gives_the_event(headers: list[tuple[str, bytes | None]]) -> None:
    expected = Event(CHECK_IN, "b1", "s1", RECEIVED, "/devices/kiosk-7", "e1", "", 2, "", RECEIVED)
    assert take(raw(document()), headers) == expected
    assert take(looked_at(raw(document())), headers) == expected


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"", None, MISSING], ids=str)
def test_binary_mode_gives_the_event(content_type: Any) -> None:
    value, headers = binary(document(SET))
    rest = [header for header in headers if header[0] != "content-type"]
    given = rest if content_type is MISSING else [("content-type", content_type), *rest]
    assert take(value, given) == Event(SET, "b1", "s1", RECEIVED, "/devices/kiosk-7", "e1", "ATTENDED", 2, "", RECEIVED)


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "time"])
@pytest.mark.parametrize("content", [MISSING, None, b"\xff"], ids=["missing", "null", "not UTF-8"])
def test_binary_mode_needs_every_attribute(name: str, content: Any) -> None:
    value, headers = binary(document())
    given = [h for h in headers if h[0] != f"ce_{name}"] + ([] if content is MISSING else [(f"ce_{name}", content)])
    said = take(value, given)
    assert isinstance(said, DeadLetter)
    assert said.reason == "invalid-envelope"


@pytest.mark.parametrize("kind", DATA)
def test_every_type_with_exactly_its_fields(kind: str) -> None:
    data = DATA[kind]
    event = event_of(document(kind))
    assert (event.type, event.booking_id, event.session_id) == (kind, "b1", data.get("sessionId", ""))
    assert (event.status, event.number) == (data.get("status", ""), data.get("numberOfAttendees"))
    assert event.participant_id == data.get("participantId", "")


@pytest.mark.parametrize("kind", DATA)
def test_extra_fields_are_ignored_also_those_of_other_types(kind: str) -> None:
    everything = {
        "participantId": 7,
        "numberOfAttendees": "many",
        "status": ["x"],
        "sessionId": {},
        "bookingID": None,
        "x\ud800": 1,
    }
    extra = {name: value for name, value in everything.items() if name not in DATA[kind]}
    if kind in (CHECK_IN, SET):
        extra.pop("numberOfAttendees", None)
    whole = {**document(kind, **extra), "subject": 5, "datacontenttype": [], "dataschema": None, "traceparent": {"a": "\n"}}
    assert event_of(whole) == event_of(document(kind))


BAD_TEXTS = [MISSING, None, 1, 1.0, True, [], {}, ["x"], ""]


@pytest.mark.parametrize("name", ["specversion", "id", "source", "time"])
@pytest.mark.parametrize("bad", BAD_TEXTS, ids=str)
def test_envelope_fields_are_required_texts(name: str, bad: Any) -> None:
    letter = letter_of(spoiled(CHECK_IN, name, bad))
    assert letter.reason == "invalid-envelope"
    assert letter.detail.startswith(f"{name}: ")


@pytest.mark.parametrize("bad", [bad for bad in BAD_TEXTS if bad != ""], ids=str)
def test_type_is_a_required_text(bad: Any) -> None:
    letter = letter_of(spoiled(CHECK_IN, "type", bad))
    assert (letter.reason, letter.detail.split(":")[0]) == ("invalid-envelope", "type")


@pytest.mark.parametrize("bad", ["1.1", "0.3", "1", " 1.0", "1.0 "])
def test_specversion_is_1_0(bad: str) -> None:
    assert letter_of(spoiled(CHECK_IN, "specversion", bad)).reason == "invalid-envelope"


@pytest.mark.parametrize("name", ["id", "source"])
@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}", "é"])
def test_id_and_source_are_1_to_256_code_points_as_they_come(name: str, letter: str) -> None:
    for text in (letter, letter * 256, f" {letter} ", " "):
        assert getattr(event_of(spoiled(CHECK_IN, name, text)), name) == text
    assert letter_of(spoiled(CHECK_IN, name, letter * 257)).reason == "invalid-envelope"


@pytest.mark.parametrize(
    "bad", ["attendance.checked_in", "booking.upserted", "booking.deleted", "Attendance.check_in", "x" * 999]
)
def test_unknown_types_are_refused(bad: str) -> None:
    letter = letter_of(spoiled(CHECK_IN, "type", bad))
    assert (letter.reason, letter.detail.split(":")[0]) == ("unknown-type", "type")


@pytest.mark.parametrize("bad", [MISSING, None, 1, "{}", [], [{}]], ids=str)
def test_data_is_an_object(bad: Any) -> None:
    # in binary mode the value is the data, and a value that is no object is no event at all
    value = raw(spoiled(CHECK_IN, "data", bad))
    for letter in (take(value), take(looked_at(value))):
        assert isinstance(letter, DeadLetter)
        assert letter.reason == "invalid-field"
        assert letter.detail.startswith("data: ")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in DATA for name in DATA[kind] if name.endswith("Id")])
@pytest.mark.parametrize("bad", [*BAD_TEXTS, "   "], ids=str)
def test_identifiers_are_required_texts(kind: str, name: str, bad: Any) -> None:
    letter = letter_of(spoiled(kind, f"data.{name}", bad))
    assert letter.reason == "invalid-field"
    assert letter.detail.startswith(f"data.{name}: ")


@pytest.mark.parametrize(("kind", "name", "longest"), IDENTIFIERS)
@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}", "é"])
def test_identifiers_are_measured_in_code_points_after_trimming(kind: str, name: str, longest: int, letter: str) -> None:
    for text in (letter, letter * longest):
        for given in (text, f"  {text}   ", f"\u00a0\u3000{text}\u2003"):
            assert getattr(event_of(spoiled(kind, f"data.{name}", given)), NAMES[name]) == text
    assert letter_of(spoiled(kind, f"data.{name}", letter * (longest + 1))).reason == "invalid-field"


@pytest.mark.parametrize("name", ["bookingId", "sessionId"])
@pytest.mark.parametrize("given", [GUID, GUID.upper(), f"  {GUID} "])
def test_guids_are_lower_cased(name: str, given: str) -> None:
    assert getattr(event_of(spoiled(CHECK_IN, f"data.{name}", given)), NAMES[name]) == GUID.lower()


@pytest.mark.parametrize(
    "other", [GUID[:-1], GUID + "A", "{" + GUID[1:-1] + "}", GUID.replace("-", "A"), "G" + GUID[1:], "ABC"]
)
def test_only_guids_are_lower_cased(other: str) -> None:
    event = event_of(document(bookingId=other, sessionId=other))
    assert (event.booking_id, event.session_id) == (other, other)


def test_participants_keep_their_case() -> None:
    assert event_of(document(SCAN, participantId=f" {GUID} ")).participant_id == GUID


@pytest.mark.parametrize(
    ("kind", "path", "reason"),
    [
        (CHECK_IN, "id", "invalid-envelope"),
        (CHECK_IN, "source", "invalid-envelope"),
        (CHECK_IN, "data.bookingId", "invalid-field"),
        ("booking.erased", "data.bookingId", "invalid-field"),
        (CHECK_IN, "data.sessionId", "invalid-field"),
        (SCAN, "data.participantId", "invalid-field"),
    ],
)
def test_control_characters_and_lone_surrogates_are_ill_typed(kind: str, path: str, reason: str) -> None:
    for bad in (*CONTROL, "\ud800", "\udbff", "\udc00", "\udfff"):
        for text in (f"{bad}x", f"x{bad}y", f"x{bad}", bad):
            letter = letter_of(spoiled(kind, path, text))
            assert letter.reason == reason, ascii(text)
            assert letter.detail.startswith(f"{path}: "), ascii(text)


def test_other_odd_characters_are_fine() -> None:
    odd = '"\\/\u00a1\u0301x\u200bx\ue000\uffff\N{GRINNING FACE}'
    for whole in (document(bookingId=odd), spoiled(CHECK_IN, "id", odd)):
        for value in (raw(whole), json.dumps(whole, ensure_ascii=False).encode()):
            event = take(value)
            assert isinstance(event, Event)
            assert odd in event


@pytest.mark.parametrize("kind", [CHECK_IN, SET])
def test_the_number_is_an_integer_from_0_to_100000(kind: str) -> None:
    for good in (0, 1, 100_000):
        assert event_of(document(kind, numberOfAttendees=good)).number == good
    for left_out in (None, MISSING):
        assert event_of(document(kind, numberOfAttendees=left_out)).number is None
    for bad in (-1, 100_001, 2.0, 0.5, "2", "", True, False, [], [2], {}, 10**30, -(10**30), 1e300):
        letter = letter_of(document(kind, numberOfAttendees=bad))
        assert letter.reason == "invalid-field", bad
        assert letter.detail.startswith("data.numberOfAttendees: "), bad


@pytest.mark.parametrize("written", [b"1e2", b"1E2", b"100.0", b"2e0", b"1" * 5000, b"-" + b"1" * 5000])
def test_number_of_attendees_as_json_writes_it(written: bytes) -> None:
    value = raw(document(numberOfAttendees=12345)).replace(b"12345", written)
    for each in (value, looked_at(value)):
        said = take(each)
        assert isinstance(said, DeadLetter)
        assert said.reason == "invalid-field"


@pytest.mark.parametrize("bad", [MISSING, None, "", "attended", "ATTENDED ", "CONFIRMED", 1, True, [], {}], ids=str)
def test_set_requires_a_known_status(bad: Any) -> None:
    letter = letter_of(document(SET, status=bad))
    assert (letter.reason, letter.detail.split(":")[0]) == ("invalid-field", "data.status")


@pytest.mark.parametrize("status", ["NOT_SET", "ATTENDED", "NOT_ATTENDED"])
@pytest.mark.parametrize("number", [None, 0, 3])
def test_set_takes_contradictions(status: str, number: int | None) -> None:
    event = event_of(document(SET, status=status, numberOfAttendees=number))
    assert (event.status, event.number) == (status, number)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        (TIME, RECEIVED),
        ("2026-11-22t10:00:00z", RECEIVED),
        ("2026-11-22T15:30:00+05:30", RECEIVED),
        ("2026-11-22T09:29:00-00:31", RECEIVED),
        ("2026-11-22T10:00:00.1Z", RECEIVED + 100_000),
        ("2026-11-22T10:00:00.1234569Z", RECEIVED + 123_456),
        ("2026-11-22T10:00:00.000000999999999999Z", RECEIVED),
        ("2026-11-22T09:59:60Z", RECEIVED),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
    ],
)
def test_times_are_read_to_the_microsecond(text: str, micros: int) -> None:
    assert event_of(spoiled(CHECK_IN, "time", text)).time == micros


@pytest.mark.parametrize(
    "bad",
    ["2026-11-22T10:00:00", "2026-11-22", "2026-11-22 10:00:00Z", "20261122T100000Z", "2026-11-22T10:00Z", "1795341600"]
    + ["2026-02-30T10:00:00Z", "2026-11-22T25:00:00Z", "2026-11-22T10:00:00.Z", "2026-11-22T10:00:00+0100", f" {TIME}"]
    + [
        "2026-W47-7T10:00:00Z",
        f"{TIME}\n",
        "2026-11-22T10:00:61Z",
        "٢٠٢٦-11-22T10:00:00Z",
        "\ud800",
        "2026-11-22T10:00:00+24:00",
    ],
)
def test_times_that_are_not_rfc_3339_are_refused(bad: str) -> None:
    letter = letter_of(spoiled(CHECK_IN, "time", bad))
    assert (letter.reason, letter.detail.split(":")[0]) == ("invalid-envelope", "time")
