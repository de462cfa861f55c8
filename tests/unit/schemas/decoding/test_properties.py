"""Whatever comes, `decode` raises nothing, and its quick way and its explaining way say the same."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.events import Booking, BookingGone, DeadLetter, Event
from tests.support.examples import examples
from tests.support.incoming import (
    MAX_AGE,
    RECEIVED_MS,
    decode,
    decode_booking,
    document,
    looked_at,
    raw,
    take,
)
from tests.support.odd_records import HEADERS, booking_documents, documents, torn


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
@example(raw(document())[:-1] + b',"x":"\xff"}')
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


@settings(max_examples=examples(500))
@given(booking_documents(), st.booleans())
@example(document("booking.upserted", sessions=[]), True)
@example(document("booking.upserted", sessions=None, status="CANCELED", walkInsAllowed=None), True)
@example(document("booking.upserted", numberOfParticipants=1.0), True)
@example(document("booking.upserted", numberOfParticipants=0), True)
@example(document("booking.deleted", numberOfParticipants=-1), True)
def test_fast_and_explaining_decoders_agree_on_bookings(whole: dict[str, Any], escaped: bool) -> None:
    value = json.dumps(whole, ensure_ascii=escaped).encode(errors="replace")
    if value[:2] == b'{"':
        quick, explained = decode_booking(value, ()), decode_booking(looked_at(value), ())
        assert quick == explained
        if isinstance(quick, Booking) and isinstance(explained, Booking):
            assert list((quick.sessions or {}).items()) == list((explained.sessions or {}).items())


@settings(max_examples=examples(500))
@given(torn(booking_documents()))
@example(raw(document("booking.upserted"))[:-2] + b',"bookingId":"b2"}}')
@example(raw(document("booking.upserted"))[:-1] + b',"data":{"bookingId":"b2"}}')
@example(raw(document("booking.deleted"))[:-1] + b',"type":"booking.upserted"}')
@example(raw(document("booking.upserted"))[:-1] + b',"x":"\xff"}')
def test_decoders_of_bookings_agree_on_torn_values(value: bytes) -> None:
    if value[:2] != b'{"' or b"NaN" in value or b"Infinity" in value:
        return
    quick, explained = decode_booking(value, ()), decode_booking(looked_at(value), ())
    assert quick.__class__ is explained.__class__
    assert quick == explained or (quick[0] == explained[0] and isinstance(quick, DeadLetter))
