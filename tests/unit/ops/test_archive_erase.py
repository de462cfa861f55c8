"""Bookings that are erased from archives: nothing of them is left in any file, everything else stays as it was."""

from __future__ import annotations

import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import hypothesis.strategies as st
import msgspec
import pytest
from aiokafka import TopicPartition
from hypothesis import given

from schemas import ids
from schemas.times import format_exact_time
from worker.ops import archive_erase, archive_format, archive_reader
from worker.ops.archive_erase import ErasedFromArchive, erase_from_archive, erased_so_far
from worker.ops.archive_format import (
    MANIFEST,
    ArchivedRecord,
    ArchiveError,
    Manifest,
    encode_line,
    locked,
    read_manifest,
    write_manifest,
)
from worker.ops.archive_mentions import Mentions, ids_in
from worker.ops.archive_plan import Compression
from worker.ops.archive_reader import Source, check_file, find_sources, read_lines, read_records
from worker.ops.archive_writer import FileWriter

EVENTS, BOOKINGS = TopicPartition("attendance.events", 0), TopicPartition("attendance.bookings", 0)
NOW = 1_795_732_664_000_000
TOLERANCE = 300_000_000
SECOND = 1_000_000
#: Longer than a session's name, so that it is found wherever it stands.
SECRET = "Geheim-4711 é"
GUID = "88214716-aaaa-4bbb-8ccc-0123456789ab"
each_compression = pytest.mark.parametrize("compression", Compression)


def event(booking_id: str, at: int = NOW - SECOND, **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "1",
        "source": "/k",
        "type": "attendance.check_in",
        "time": format_exact_time(at),
        "data": {"bookingId": booking_id, "sessionId": "s1"},
    } | changes


class Line(NamedTuple):
    """A record of a test, and whether it stays."""

    key: bytes | None
    value: bytes | None
    stays: bool
    headers: Sequence[tuple[str, bytes | None]] = ()
    tp: TopicPartition = EVENTS


def of_event(booking_id: str, at: int = NOW - SECOND, *, stays: bool, key: str | None = None, **changes: Any) -> Line:
    return Line((key or booking_id).encode(), json.dumps(event(booking_id, at, **changes)).encode(), stays)


def of_booking(booking_id: str, *, stays: bool) -> Line:
    data = {"bookingId": booking_id, "numberOfParticipants": 2}
    document = event(booking_id, type="booking.upserted", data=data)
    return Line(booking_id.encode(), json.dumps(document).encode(), stays, tp=BOOKINGS)


BINARY = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/k"), ("ce_type", b"attendance.check_in")]
IN_BINARY = [*BINARY, ("ce_time", format_exact_time(NOW - SECOND).encode())]
DATA = {"bookingId": SECRET, "sessionId": "s1"}
IN_BASE64 = event("", data=None, data_base64=b64encode(json.dumps(DATA).encode()).decode())
LINES: list[Line] = [
    of_event("other", stays=True),
    of_event(SECRET, stays=False),
    of_event(f" {normalize('NFD', SECRET)}\u200b", stays=False),
    of_event(SECRET, stays=False, key="device-7"),
    of_event(SECRET, at=NOW - 3 * 365 * 86_400 * SECOND, stays=False),
    of_event(SECRET, type="booking.erased", at=NOW, data={"bookingId": SECRET}, stays=False),
    of_event(SECRET + "0", stays=True),
    of_event(GUID.upper(), stays=False),
    Line(None, json.dumps(event(SECRET)).encode(), stays=False),
    Line(b"k", json.dumps(DATA).encode(), stays=False, headers=IN_BINARY),
    Line(b"k", json.dumps(IN_BASE64).encode(), stays=False),
    Line(b"k", b"\0\0\0\0\1\xef\xbb\xbf" + json.dumps(event(SECRET), ensure_ascii=False).encode(), stays=False),
    # what cannot be decoded
    Line(SECRET.encode(), b"nonsense", stays=False),
    Line(b"k", b"nonsense", stays=True, headers=[("h", None)]),
    Line(b"k", b"nonsense", stays=False, headers=[("booking", SECRET.encode())]),
    Line(b"k", b"\xff" + SECRET.encode() + b"\xfe", stays=False),
    Line(b"k", json.dumps(event(SECRET))[:-9].encode(), stays=False),
    Line(b"k", json.dumps(event(SECRET) | {"type": "unknown"}).encode(), stays=False),
    Line(b"k", json.dumps({"data": json.dumps(DATA)}).encode(), stays=False),
    Line(b"k", json.dumps(IN_BASE64 | {"type": "unknown"}).encode(), stays=False),
    Line(b"k", f"<booking>{normalize('NFD', SECRET)}</booking>".encode(), stays=False),
    Line(b"k", f"{SECRET}0 nonsense".encode(), stays=True),
    Line(b"k", f"<booking>{GUID.upper()}</booking>".encode(), stays=False),
    Line(GUID.upper().encode(), None, stays=False),
    Line(b"", b"", stays=True),
    of_booking("other", stays=True)._replace(key=b"x"),
    of_booking(SECRET, stays=False),
    Line(SECRET.encode(), None, stays=False, tp=BOOKINGS),
    Line(GUID.encode(), b"nonsense", stays=False, tp=BOOKINGS),
    Line(b"other", None, stays=True, tp=BOOKINGS),
]


def records_of(lines: Iterable[Line]) -> list[ArchivedRecord]:
    return [
        ArchivedRecord(line.tp.topic, line.tp.partition, offset, NOW // 1000 + offset, line.key, line.value, list(line.headers))
        for offset, line in enumerate(lines)
    ]


def archived(folder: Path, records: Sequence[ArchivedRecord], compression: Compression = Compression.ZSTD) -> None:
    """Writes records to an archive, two files a partition."""
    manifest = Manifest()
    with locked(folder):
        for tp in (EVENTS, BOOKINGS):
            of_tp = [each for each in records if (each.topic, each.partition) == tp]
            at = 0
            for part in (of_tp[: len(of_tp) // 2], of_tp[len(of_tp) // 2 :]):
                file = FileWriter(folder, compression, tp, at)
                file.append(part)
                at = part[-1].offset + 1 if part else at + 1
                manifest.files.append(file.finish(at))
                write_manifest(folder, manifest, file.paths)


def erased(folder: Path, bookings: dict[str, int] | None = None, stop: Callable[[], bool] = bool) -> ErasedFromArchive:
    return erase_from_archive(folder, bookings or {SECRET: NOW, GUID: NOW}, TOLERANCE, lambda _: None, stop)


def held(folder: Path) -> list[ArchivedRecord]:
    """The records of the files themselves, by topic and offset; each file is as its manifest describes it."""
    manifest = read_manifest(folder)
    assert manifest is not None
    records = []
    for file in manifest.in_order():
        source = Source(folder / file.name, file)
        check_file(source)
        found = list(read_records([source]))
        times = [each.timestamp for each in found]
        described = (file.count, file.first_timestamp, file.last_timestamp)
        assert described == (len(found), min(times, default=None), max(times, default=None))
        records += found
    return sorted(records, key=lambda each: (each.topic, each.offset))


def sorted_kept(lines: Sequence[Line]) -> list[ArchivedRecord]:
    kept = [record for record, line in zip(records_of(lines), lines, strict=True) if line.stays]
    return sorted(kept, key=lambda each: (each.topic, each.offset))


def ranges(folder: Path) -> list[tuple[Any, ...]]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return [(file.name, file.topic, file.partition, file.begin, file.end) for file in manifest.files]


@each_compression
def test_nothing_of_an_erased_booking_is_left(compression: Compression, tmp_path: Path) -> None:
    archived(tmp_path, records_of(LINES), compression)
    before = ranges(tmp_path)
    found = erased(tmp_path)
    assert found == (sum(not line.stays for line in LINES), 4, True)
    assert held(tmp_path) == sorted_kept(LINES)
    assert ranges(tmp_path) == before, "what a file covers stays"
    content = b"".join(line for path in tmp_path.glob("*.jsonl*") for line, _ in read_lines(path))
    content += (tmp_path / MANIFEST).read_bytes()
    # of another booking, whose id begins as the erased one
    assert content.count(b"4711") == b"".join(map(encode_line, sorted_kept(LINES))).count(b"4711") == 3
    assert GUID.encode() not in content.lower()


def test_erasing_again_changes_nothing(tmp_path: Path) -> None:
    archived(tmp_path, records_of(LINES))
    erased(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert erased(tmp_path) == (0, 0, True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_events_that_are_later_than_the_erasure_stay(tmp_path: Path) -> None:
    lines = [
        of_event(SECRET, at=NOW, stays=False),
        of_event(SECRET, at=NOW + 1, stays=True),
        # a clock that is a year ahead: effective 300 s after its reception
        of_event(SECRET, at=NOW + 365 * 86_400 * SECOND, stays=True),
        of_event(SECRET, at=NOW + 365 * 86_400 * SECOND, stays=False)._replace(
            headers=[("attendance-received", format_exact_time(NOW - TOLERANCE).encode())]
        ),
    ]
    archived(tmp_path, records_of(lines))
    erased(tmp_path)
    assert held(tmp_path) == sorted_kept(lines)
    erased(tmp_path, {SECRET: NOW + 1})
    assert len(held(tmp_path)) == 1
    assert erased(tmp_path, {SECRET: NOW}).records == 0
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.erased is not None
    assert sorted(manifest.erased.hashes.values()) == [NOW, NOW + 1], "the latest erasure holds"


def test_another_booking_under_an_erased_key_keeps_its_event(tmp_path: Path) -> None:
    lines = [of_event("other", stays=True, key=SECRET), of_booking("other", stays=True)._replace(key=SECRET.encode())]
    archived(tmp_path, records_of(lines))
    assert erased(tmp_path) == (0, 2, True)
    assert held(tmp_path) == [each._replace(key=None) for each in sorted_kept(lines)]


def test_what_comes_back_to_a_file_is_not_read(tmp_path: Path) -> None:
    """A file that somebody restored from a backup, with its line of the manifest."""
    archived(tmp_path, records_of(LINES), Compression.NONE)
    earlier = read_manifest(tmp_path)
    contents = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    erased(tmp_path)
    manifest = read_manifest(tmp_path)
    assert earlier is not None
    assert manifest is not None
    manifest.files = earlier.files
    write_manifest(tmp_path, manifest)
    for path, content in contents.items():
        path.write_bytes(content)
    assert sorted(read_records(find_sources([tmp_path])), key=lambda each: (each.topic, each.offset)) == sorted_kept(LINES)
    assert len(held(tmp_path)) == len(LINES)


def test_an_erasure_that_was_stopped_is_run_again(tmp_path: Path) -> None:
    archived(tmp_path, records_of(LINES))
    for most in count():
        calls = count()
        found = erased(tmp_path, stop=lambda calls=calls, most=most: next(calls) >= most)  # type: ignore[misc]
        assert {path.name for path in tmp_path.iterdir()} == {name for name, *_ in ranges(tmp_path)} | {MANIFEST, ".lock"}
        if found.is_complete:
            break
    assert held(tmp_path) == sorted_kept(LINES)


def test_killed_at_any_moment_the_archive_is_whole(tmp_path: Path) -> None:
    lines = LINES[:3] + [of_booking("other", stays=True), of_booking(SECRET, stays=False)]
    archived(tmp_path, records_of(lines))
    file_count = erased(tmp_path).files
    for moment in count(1):
        folder = tmp_path / str(moment)
        archived(folder, records_of(lines))
        ended = _killed_at(folder, moment, lambda folder=folder: erased(folder))  # type: ignore[misc]
        records = held(folder)
        assert [each for each in records if each in sorted_kept(lines)] == sorted_kept(lines)
        if ended:
            break
        erased(folder)
        assert held(folder) == sorted_kept(lines)
        assert erased_so_far(folder) == (len(lines) - len(sorted_kept(lines)), file_count), "killed ones included"
        assert {path.name for path in folder.iterdir()} == {name for name, *_ in ranges(folder)} | {MANIFEST, ".lock"}
    assert moment > 8


def _killed_at(folder: Path, moment: int, work: Callable[[], object]) -> bool:
    """Runs work in a process that is killed before its change of the folder of this number; True if it ends before."""

    def working() -> None:
        numbers = count(1)

        def hook(kind: str, arguments: tuple[Any, ...]) -> None:
            if (
                kind in ("open", "os.rename", "os.remove")
                and str(arguments[0]).startswith(str(folder))
                and next(numbers) == moment
            ):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)  # what else the process of the tests would do at its end costs half a second

    process = get_context("fork").Process(target=working)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def test_a_manifest_ahead_of_its_file_does_not_count(tmp_path: Path) -> None:
    archived(tmp_path, records_of(LINES), Compression.NONE)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    changed = Manifest(files=[msgspec.structs.replace(each, sha256="0" * 64) for each in manifest.files])
    (tmp_path / (MANIFEST + ".partial")).write_bytes(msgspec.json.encode(changed))
    assert read_manifest(tmp_path) == manifest


def test_a_line_of_any_size_stays_as_it_is_or_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (archive_format, archive_reader, archive_erase):
        monkeypatch.setattr(module, "MOST_LINE_BYTES", 64 * 1024)
    monkeypatch.setattr(archive_format, "_CUT_BYTES", 1024)
    monkeypatch.setattr(archive_reader, "_READ_BYTES", 16 * 1024)
    lines = [
        Line(b"k", b"a" * 500_000, stays=True),
        Line(b"k", b"a" * 400_000 + b" " + SECRET.encode() + b" " + b"a" * 90_000, stays=False),
        Line(b"k" * 200_000, b"a", stays=True),
        Line(b"k" * 200_000 + b"-" + SECRET.encode(), b"a", stays=False),
        of_event(SECRET, stays=False),
        of_event("other", stays=True),
    ]
    archived(tmp_path, records_of(lines))
    assert erased(tmp_path).records == 3
    content = b"".join(
        part + b"\n" * ends for path in sorted(tmp_path.glob("*.zst")) for part, ends in archive_reader.read_parts(path)
    )
    assert content == b"".join(map(encode_line, sorted_kept(lines)))


def test_errors_name_the_folder_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="name a folder of `attendance archive`"):
        erased(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    archived(tmp_path, records_of(LINES))
    with locked(tmp_path), pytest.raises(ArchiveError, match="another process"):
        erased(tmp_path)
    (tmp_path / ranges(tmp_path)[0][0]).write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"differs from its manifest.*: restore it from a copy"):
        erased(tmp_path)


def test_versions_without_erasures_refuse_such_a_manifest(tmp_path: Path) -> None:
    archived(tmp_path, records_of(LINES))
    assert json.loads((tmp_path / MANIFEST).read_bytes())["format"] == 1
    erased(tmp_path)
    document = json.loads((tmp_path / MANIFEST).read_bytes())
    assert document["format"] == 2
    assert set(document["erased"]) == {"key", "clockTolerance", "hashes", "records", "recordCount", "fileCount"}


def undecodable(key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> ArchivedRecord:
    return ArchivedRecord(EVENTS.topic, 0, 0, 0, key, value, headers)


IDS = st.text(st.sampled_from('aB1-_.# é/"\\'), min_size=1, max_size=6).map(ids.booking_id).filter(bool)
AROUND = st.text(st.sampled_from('\n <>"=:,'), max_size=5)


@given(st.lists(IDS, min_size=1, max_size=4), st.data(), AROUND, AROUND, st.booleans())
def test_an_id_is_found_in_any_text(names: list[str], data: st.DataObject, before: str, after: str, is_escaped: bool) -> None:
    name = data.draw(st.sampled_from(names))
    text = before + (json.dumps(name)[1:-1] if is_escaped else name) + after
    record = undecodable(None, text.encode(), [])
    assert Mentions(names).are_in(record)


@pytest.mark.parametrize("text", ["BK-10", "xBK-1", "BK-", "BK 1", "\u00e9BK-1"])
def test_an_id_within_a_word_is_another_one(text: str) -> None:
    assert not Mentions(["BK-1"]).are_in(undecodable(None, text.encode(), [("BK-11", b"BK-1a")]))


def test_ids_are_found_where_records_name_them() -> None:
    value = b'{"bookingId": "a\\u002db", "data": "{\\"bookingId\\":\\"c\\"}", "x": "' + GUID.upper().encode()
    record = undecodable(b" key ", value, [("h", b"header"), ("n", None), ("l", b"x" * 10_000)])
    assert {"a-b", "c", "key", "header", GUID} <= ids_in(record)
