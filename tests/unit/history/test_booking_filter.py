"""The filter of a booking never leaves out one of its events, however it is spelled."""

import base64
import json
import sys
import unicodedata
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import ids
from schemas.decoding.explain import decode
from schemas.events import Event
from tests.support.incoming import GUID, MAX_AGE, RECEIVED_MS, TIME
from tests.support.strategies import sized
from worker.history.booking_filter import LOOK_ALIKES, BookingFilter

NAMES = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(
        ["BK-1", "caf\u00e9", 'K;`/"\\', "\u1e69", "\uac00", "\u212b", "\u0958", "data_base64", "\u0344", GUID, GUID.lower()]
    ),
)
FRAMES = st.sampled_from([b"", b"\xef\xbb\xbf", b"\0\xc3\xe4\x85\x01", b"\0\0\0\0\1\xef\xbb\xbf"])


class Polled(NamedTuple):
    key: bytes | None
    value: bytes | None


def document(booking: str) -> dict[str, object]:
    data = {"bookingId": booking, "sessionId": "s1"}
    return {"specversion": "1.0", "id": "1", "source": "/k", "type": "attendance.check_in", "time": TIME, "data": data}


@given(data=st.data(), name=NAMES, frame=FRAMES)
@sized(500)
def test_no_event_of_the_booking_is_left_out(data: st.DataObject, name: str, frame: bytes) -> None:
    form = data.draw(st.sampled_from(["NFC", "NFD", "NFKC", ""]))
    spelled = unicodedata.normalize(form, name) if form else name
    whole = document(data.draw(st.sampled_from([spelled, f" {spelled}\u200b", spelled.upper(), spelled.lower()])))
    text = json.dumps(whole, ensure_ascii=data.draw(st.booleans()), default=str)
    if data.draw(st.booleans()):
        text = text.replace("/", "\\/")
    value = frame + text.encode(errors="surrogatepass")
    if data.draw(st.booleans()):
        encoded = base64.b64encode(json.dumps(whole.pop("data")).encode()).decode()
        value = frame + json.dumps({**whole, "data_base64": encoded}).encode()
    event = decode(value, (), RECEIVED_MS, max_age=MAX_AGE)
    if not isinstance(event, Event):
        return
    found = BookingFilter(event.booking_id)
    assert found.may_hold(value)
    # between the values of a batch are the bytes of its format
    assert found.may_hold(bytearray(b"\x10\0\xe2\x01" + value + b"\0\xc3\x02" + json.dumps(document("\xe9")).encode()))
    assert Polled(None, value) in found.select([Polled(None, b"{}"), Polled(None, value), Polled(None, None)])


@pytest.mark.parametrize("booking", ["BK-1", GUID.lower(), "caf\u00e9", "a/b"])
def test_events_of_other_bookings_are_left_out(booking: str) -> None:
    others = [Polled(b"k%d" % n, json.dumps(document(f"o-{n} \u4e88\u7d04"), ensure_ascii=False).encode()) for n in range(600)]
    assert BookingFilter(booking).select(others) == []
    keyed = Polled(booking.encode(), b"broken")
    assert BookingFilter(booking).select([*others, keyed]) == [keyed]


def test_these_characters_become_others_of_ascii() -> None:
    """All of Unicode that NFC turns into ASCII."""
    found = {}
    for code in range(128, sys.maxunicode + 1):
        composed = unicodedata.normalize("NFC", chr(code)) if not 0xD800 <= code < 0xE000 else ""
        if composed.isascii() and composed:
            found[composed] = chr(code).encode()
    assert found == LOOK_ALIKES
    assert ids.booking_id("\u212a1") == "K1"
