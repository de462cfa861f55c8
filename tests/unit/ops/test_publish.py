"""Lines of files that `publish` reads: what a Windows editor or another tool puts before or into them."""

import asyncio
import io
import json
import time
import tracemalloc
from base64 import b64encode
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from schemas.times import format_time
from tests.support.incoming import document
from worker.ops import publish, replay_sources
from worker.ops.publish import BadLine, Outgoing, read_line
from worker.settings import Settings

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
NOW_MS = time.time_ns() // 1_000_000
KINDS = [("attendance.check_in", "attendance.events"), ("booking.upserted", "attendance.bookings")]


def line(kind: str, **data: Any) -> dict[str, Any]:
    return {**document(kind, **data), "time": format_time(NOW_MS * 1000)}


def read(value: bytes) -> Outgoing | BadLine:
    return read_line(value, "file:1", SETTINGS, NOW_MS, backfill=False)


@pytest.mark.parametrize(("kind", "decoder"), [("attendance.check_in", "decode"), ("booking.upserted", "decode_booking")])
def test_a_replayed_line_is_decoded_once(kind: str, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, function = [], getattr(publish, decoder)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return function(*arguments, **named)

    for module in (publish, replay_sources):
        monkeypatch.setattr(module, decoder, counted)
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps(line(kind)) + "\n")
    source = replay_sources.Files(SETTINGS, replay_sources.sizes_of([str(file)]), replay_sources.Selection())

    async def reading() -> list[replay_sources.Item]:
        return [item async for part in source.read(source.start) for item in part.items]

    (item,) = asyncio.run(reading())
    assert item.decoded is not None
    assert item.outgoing.booking_id == item.decoded.booking_id == "b1"
    assert len(calls) == 1


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


class _Pipe(io.BytesIO):
    """Gives what it has in pieces, as a pipe does."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)

    def read(self, _: int | None = -1) -> bytes:
        return next(self._pieces, b"")


@given(st.lists(st.lists(st.sampled_from([b"", b"a", b"bc\r", b"x" * 9]), max_size=4).map(b"\n".join).filter(bool)))
def test_lines_are_whole_however_they_come(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    found = list(publish.lines(_Pipe(pieces)))
    assert [line for line, _ in found] == content.split(b"\n")[: len(found)]
    assert content.split(b"\n")[len(found) :] in ([], [b""])
    assert sum(length for _, length in found) == len(content)


def test_of_an_endless_line_little_is_kept() -> None:
    piece = b"x" * 1_000_000
    pipe = _Pipe([piece] * 400 + [b"\nnext\n"])
    tracemalloc.start()
    try:
        (long, length), (following, _) = publish.lines(pipe)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(long), length, following) == (publish.MOST_LINE_BYTES + 1, 400_000_001, b"next")
    assert peak < 10 * publish.MOST_LINE_BYTES
    refused = read(long)
    assert isinstance(refused, BadLine)
    assert refused.detail.startswith("too-large")
