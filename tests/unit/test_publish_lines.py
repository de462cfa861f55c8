"""Lines of files that `publish` reads: what a Windows editor or another tool puts before or into them."""

import json
import time
from base64 import b64encode
from typing import Any

import pytest

from schemas.times import format_time
from tests.unit.incoming import document
from worker.ops.publish import BadLine, Outgoing, read_line
from worker.settings import Settings

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
NOW_MS = time.time_ns() // 1_000_000
KINDS = [("attendance.check_in", "attendance.events"), ("booking.upserted", "attendance.bookings")]


def line(kind: str, **data: Any) -> dict[str, Any]:
    return {**document(kind, **data), "time": format_time(NOW_MS * 1000)}


def read(value: bytes) -> Outgoing | BadLine:
    return read_line(value, "file:1", SETTINGS, NOW_MS, backfill=False)


@pytest.mark.parametrize(("kind", "topic"), KINDS)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\0\0\0\0\7", b"\0\0\0\0\7\xef\xbb\xbf"], ids=repr)
def test_what_is_before_the_json_is_not_published(kind: str, topic: str, before: bytes) -> None:
    value = json.dumps(line(kind)).encode()
    assert read(before + value) == Outgoing(topic, "b1", value, [])


@pytest.mark.parametrize(("kind", "topic"), KINDS)
def test_lines_with_data_in_base64_are_published(kind: str, topic: str) -> None:
    whole = line(kind, bookingId=" \ufeffMu\u0308ller")
    whole["data_base64"] = b64encode(json.dumps(whole.pop("data")).encode()).decode()
    value = json.dumps(whole).encode()
    assert read(value) == Outgoing(topic, "M\u00fcller", value, [])


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_a_numeric_booking_id_is_told_to_be_text(kind: str) -> None:
    found = read(json.dumps(line(kind, bookingId=5)).encode())
    assert isinstance(found, BadLine)
    assert "data.bookingId: is the number 5, not text in quotes" in found.detail
