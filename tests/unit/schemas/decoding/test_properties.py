"""Whatever comes, `decode` raises nothing, and its quick way, its explaining way and many at once say the same."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.decoding.explain import decode_all
from schemas.events import MAX_EVENT_BYTES, RECEIVED_HEADER, Booking, BookingGone, DeadLetter, Event, EventType
from tests.support.examples import examples
from tests.support.incoming import (
    BOOKING_DATA,
    DATA,
    GUID,
    MAX_AGE,
    RECEIVED_MS,
    Polled,
    decode,
    decode_booking,
    document,
    looked_at,
    raw,
    take,
)

FIELDS = ["specversion", "id", "source", "type", "time", "data", "x"]
DATA_FIELDS = [
    "bookingId",
    "sessionId",
    "participantId",
    "numberOfAttendees",
    "status",
    "sessions",
    "numberOfParticipants",
    "x",
]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(codec=None, categories=None), max_size=5),
    st.sampled_from(
        ["", " ", "1.0", GUID, f" {GUID} ", "x" * 257, "x" * 250, "ATTENDED", "CANCELED", "2026-11-22t10:00:60.5z"]
    ),
    st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", *DATA, *BOOKING_DATA]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["attendance-received", "content-type", "ce_id", "ce_time", "ce_type", "ce_source", "ce_specversion", "x", ""]
        ),
        st.one_of(st.none(), st.binary(max_size=40), TEXTS.map(lambda t: t.encode(errors="replace"))),
    ),
    max_size=6,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid CloudEvent with up to two fields changed, added or left out."""
    whole = document(draw(st.sampled_from([*DATA, *BOOKING_DATA])))
    for _ in range(draw(st.integers(0, 2))):
        inside = draw(st.booleans()) and isinstance(whole.get("data"), dict)
        target, names = (whole["data"], DATA_FIELDS) if inside else (whole, FIELDS)
        name = draw(st.sampled_from(names))
        if draw(st.booleans()):
            target[name] = draw(VALUES)
        else:
            target.pop(name, None)
    return whole


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """The bytes of a CloudEvent with some cut out, put in or changed."""
    value = bytearray(json.dumps(draw(documents()), ensure_ascii=draw(st.booleans())).encode(errors="replace"))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        value[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(value)


@given(
    st.one_of(st.none(), st.binary(), torn(), documents().map(raw)),
    HEADERS,
    st.integers(0, 2**42),
    st.integers(0, 2**52),
)
def test_decode_raises_nothing(
    value: bytes | None, headers: list[tuple[str, bytes | None]], timestamp: int, max_age: int
) -> None:
    said = decode(value, headers, timestamp, max_age=max_age)
    assert isinstance(said, Event | DeadLetter)
    if isinstance(said, Event):
        assert 0 < len(said.booking_id) <= 128
        assert said.received <= timestamp * 1000
        assert said.time >= said.received - max_age
    else:
        assert said.detail.isprintable()
        assert said.detail == said.detail.strip() != ""


@given(
    st.one_of(st.none(), st.binary(), torn(), documents().map(raw)), HEADERS, st.one_of(st.none(), st.binary(), st.just(b"b1"))
)
def test_decode_booking_raises_nothing(value: bytes | None, headers: list[tuple[str, bytes | None]], key: bytes | None) -> None:
    assert isinstance(decode_booking(value, headers, key), Booking | BookingGone | DeadLetter)


@settings(max_examples=examples(500))
@given(documents(), st.booleans())
@example(document(bookingId="b" * 128, sessionId=" s "), True)
@example({**document(), "x": "\ud800"}, True)
def test_fast_and_explaining_decoders_agree(whole: dict[str, Any], escaped: bool) -> None:
    value = json.dumps(whole, ensure_ascii=escaped).encode(errors="replace")
    if value[:2] == b'{"':
        assert take(value) == take(looked_at(value))


@settings(max_examples=examples(500))
@given(torn())
@example(raw(document())[:-1] + b',"id":"again"}')
@example(raw(document())[:-1] + b',"x":-0.0e-999}')
def test_fast_and_explaining_decoders_agree_on_torn_values(value: bytes) -> None:
    if value[:2] != b'{"' or b"NaN" in value or b"Infinity" in value:  # these two have a test of their own
        return
    quick, explained = take(value), take(looked_at(value))
    assert quick.__class__ is explained.__class__
    if isinstance(quick, Event):
        assert quick == explained
    else:
        assert quick[0] == explained[0]


@given(documents())
def test_spaces_and_order_of_fields_mean_nothing(whole: dict[str, Any]) -> None:
    turned = {name: whole[name] for name in reversed(whole)}
    if isinstance(whole.get("data"), dict):
        turned["data"] = {name: whole["data"][name] for name in reversed(whole["data"])}
    said = [decode(value, (), RECEIVED_MS, max_age=MAX_AGE) for value in (raw(whole), json.dumps(turned, indent=1).encode())]
    assert said[0].__class__ is said[1].__class__
    if isinstance(said[0], Event):
        assert said[0] == said[1]


USUAL = [Polled(raw(document(kind)), [], RECEIVED_MS) for kind in DATA if kind != EventType.BOOKING_ERASED]
TORN = st.builds(Polled, st.one_of(st.none(), torn(), documents().map(raw)), HEADERS, st.just(RECEIVED_MS))
ODD = [
    Polled(raw(document()), [(RECEIVED_HEADER, b"2026-11-01T10:00:00Z")], RECEIVED_MS),
    Polled(raw(document()), [], RECEIVED_MS + MAX_AGE // 1000 + 86_400_000),
    Polled(raw({**document(), "x": "x" * MAX_EVENT_BYTES}), [], RECEIVED_MS),
    Polled(json.dumps(document(bookingId="b\a")).encode(), [], RECEIVED_MS),
    Polled(raw(document(bookingId="b?")).replace(b"?", b"\x7f"), [], RECEIVED_MS),
    Polled(raw(document())[:-1] + b',"x":"\xff"}', [], RECEIVED_MS),
    Polled(b"", [], RECEIVED_MS),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("at", [0, 70, len(USUAL) * 12])
def test_decode_all_gives_an_odd_record_its_own_result(odd: Polled, at: int) -> None:
    records = USUAL * 12
    records.insert(at, odd)
    _as_each_by_itself(records)


@given(st.lists(TORN, max_size=3), st.integers(0, len(USUAL)))
def test_decode_all_gives_torn_records_their_own_results(found: list[Polled], at: int) -> None:
    _as_each_by_itself([*USUAL[:at], *found, *USUAL[at:]])


def _as_each_by_itself(records: list[Polled]) -> None:
    expected = [decode(each.value, each.headers, each.timestamp, max_age=MAX_AGE) for each in records]
    assert decode_all(records, max_age=MAX_AGE) == expected
