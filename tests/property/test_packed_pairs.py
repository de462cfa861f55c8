"""Packed pairs give back what was packed, to Python and to the scripts; a usual one is short enough for a listpack."""

from __future__ import annotations

from struct import Struct
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis as Connection

from schemas.attendance import STATUSES, AttendanceStatus, guid
from schemas.times import format_time
from tests.support.examples import examples
from tests.support.services import Redis
from worker.read_model import documents
from worker.read_model.documents import Contribution, Listing
from worker.read_model.lua_scripts import text_of

_SAYS, _UPDATED = Struct(">BI"), Struct(">Q")
_MINUTE, _HOUR = 60_000_000, 3_600_000_000
_NOW = 1_795_341_600_000_000
_ID = bytes(range(16))
#: What the scripts read of a pair.
_READ = (
    text_of("documents", "window", "minute")
    + """
local has_attendance, status, number, expected, at = head_of_pair(ARGV[1])
return { has_attendance and 1 or 0, status, string.format('%.0f', number), expected, window_of(ARGV[1], at),
  behind_contribution(ARGV[1]) - 1, name_of(ARGV[1]), name_of(ARGV[1], true),
  has_attendance and status == 0 and string.format('%.0f', minute_of(ARGV[1])) or '' }
"""
)

_guids = st.uuids()
_names = (
    st.sampled_from(["s", "c1490-2", "/devices/kiosk-12", "x" * 250, "é" * 127, "é" * 128, "\U0001f39f" * 250])
    | _guids.map(str)
    | _guids.map(lambda each: str(each).upper())
    | _guids.map(lambda each: each.hex)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
)
#: Whole minutes, ms and microseconds, of all years and a day beyond them.
_times = (
    st.integers(0, 1 << 28).map(lambda minute: minute * _MINUTE)
    | st.integers(_NOW - 40 * _HOUR, _NOW + 40 * _HOUR)
    | st.sampled_from([0, -1, (1 << 52) - 1, 1 << 52, (1 << 53) + 1, _NOW])
    | st.integers(-62_135_683_200_000_000, 253_402_387_199_999_999)
)
_lengths = st.sampled_from([0, 30, 60, 8191, 8192]).map(lambda each: each * _MINUTE) | st.integers(-_HOUR, 2000 * _HOUR)
_windows = (
    st.none()
    | st.tuples(_times, _lengths).map(lambda each: (each[0], sum(each)))
    | st.tuples(st.none() | _times, st.none() | _times)
)
_counts = st.sampled_from([0, 1, 2, 15, 16, 100_000, (1 << 32) - 1])


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """What a pair says, and its bytes."""
    window: Listing | None = draw(_windows)
    expected, session, booking = draw(_counts.filter(lambda each: each <= 100_000)), draw(_names), draw(_names)
    known = {"window": window, "expected": expected, "session": session, "booking": booking}
    if draw(st.booleans()) and window is not None:
        return known, documents.pack(documents.contribution(b"", expected, window), session, booking)
    status, number, updated, source = draw(st.integers(0, 2)), draw(_counts), draw(_times), draw(_names)
    usual = min(max(updated // _MINUTE, 1), (1 << 32) - 1)
    minute = draw(st.just(usual) | st.integers(1, (1 << 32) - 1)) if status == 0 else 0
    contributed = documents.contribution(_SAYS.pack(status, number), expected, window)
    known |= {"status": status, "number": number, "updated": updated, "source": source, "minute": minute}
    return known, documents.pack(contributed, session, booking, minute, _UPDATED.pack(updated + 2**63), source)


def _written(window: Listing | None) -> bytes:
    texts = ["" if each is None else str(each // 1000) for each in window or (None, None)]
    return ":".join(texts).encode() if any(texts) else b""


@given(pair=_pairs())
@settings(max_examples=examples(600), deadline=None)
def test_packed_pairs_give_back_what_was_packed(redis_server: Redis, pair: tuple[dict[str, Any], bytes]) -> None:
    known, packed = pair
    has_attendance = "status" in known
    status, number = known.get("status", STATUSES.index(AttendanceStatus.NOT_SET)), known.get("number", 0)
    wanted = Contribution(has_attendance, status, number, known["expected"], _written(known["window"]))
    size = documents.contribution_size(packed)
    assert documents.unpack_contribution(packed) == documents.unpack_contribution(packed[:size]) == wanted
    assert documents.names_of(packed) == (known["session"].encode(), known["booking"].encode())
    attendance = documents.unpack(_ID, packed)
    assert (attendance is None) is not has_attendance
    if attendance is not None:
        assert attendance == {
            "id": guid(_ID),
            "bookingId": known["booking"],
            "sessionId": known["session"],
            "status": STATUSES[status],
            "numberOfAttendees": number,
            "updatedDate": format_time(known["updated"]),
            "source": known["source"],
        }
        assert (documents.updated_of(packed), documents.minute_of(packed)) == (known["updated"], known["minute"])
    with Connection.from_url(redis_server.url) as connection:
        found: Any = connection.eval(_READ, 0, packed)
    names = [known["session"].encode(), known["booking"].encode()]
    minute = b"%d" % known["minute"] if has_attendance and status == 0 else b""
    numbers = [int(has_attendance), status, b"%d" % number, known["expected"]]
    assert found == [*numbers, _written(known["window"]), size, *names, minute]


def test_a_usual_pair_fits_into_a_listpack() -> None:
    start, booking, session = _NOW // _HOUR * _HOUR, str(UUID(int=1)), str(UUID(int=2))
    contributed = documents.contribution(_SAYS.pack(0, 2), 4, (start, start + _HOUR))
    packed = documents.pack(contributed, session, booking, _NOW // _MINUTE, _UPDATED.pack(_NOW + 2**63), "/devices/kiosk-12")
    assert len(packed) <= 64  # hash-max-listpack-value
