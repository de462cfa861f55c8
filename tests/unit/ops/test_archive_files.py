"""Files of archives: every record comes back as it was, and what is damaged or huge is named or cut, never taken whole."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import cramjam
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from worker.ops import archive_format, archive_reader
from worker.ops.archive_format import ArchivedRecord, ArchiveError, ArchiveFile, Manifest, decode_line, encode_line, locked
from worker.ops.archive_reader import BadLine, Source, find_sources, read_lines, read_records, read_source

CONTENT = st.none() | st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
HEADERS = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=10), CONTENT), max_size=3)
RECORDS = st.builds(
    ArchivedRecord,
    st.sampled_from(["attendance.events", "t\x7f"]),
    st.integers(0, 500),
    st.integers(0, 2**63 - 1),
    st.integers(-1, 2**53),
    CONTENT,
    CONTENT,
    HEADERS,
    st.just(False),
)
FIELDS = ("name", "topic", "partition", "begin", "end", "count", "firstTimestamp", "lastTimestamp", "size", "sha256")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": lambda content: bytes(cramjam.zstd.compress(content)),
}
each_compression = pytest.mark.parametrize("compression", COMPRESS)


def record(value: bytes | None, offset: int = 0) -> ArchivedRecord:
    return ArchivedRecord("t", 0, offset, 1000, b"k", value, [("h", b"x")])


@given(RECORDS)
def test_a_record_comes_back_as_it_was(original: ArchivedRecord) -> None:
    line = encode_line(original)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line[:-1]) == original


@pytest.mark.parametrize("value", ['é€😀\x01\\"\n' * 20, "plain " * 40, b"\xff\0" * 60], ids=["characters", "plain", "bytes"])
def test_a_line_that_is_too_long_loses_a_part_of_its_value(value: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    content = value.encode() if isinstance(value, str) else value
    original = ArchivedRecord("t", 3, 5, 7, b',"value":', content, [("h", b',"value":"')])
    line = encode_line(original)[:-1]
    begin = line.index(b',"value":') + len(b',"value":{"base64":"')
    for most in range(begin, len(line) - 1):
        monkeypatch.setattr(archive_format, "MOST_LINE_BYTES", most)
        cut = decode_line(line[: most + 1])
        assert cut == original._replace(value=cut.value, is_cut=True)
        assert cut.value is not None
        assert content.startswith(cut.value)
        # all but a part of a character, or of three bytes
        assert len(content) - len(cut.value) <= (len(line) - most) + 11


@each_compression
def test_a_line_of_any_size_takes_little_memory(compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (archive_format, archive_reader):
        monkeypatch.setattr(module, "MOST_LINE_BYTES", 4 * 1024 * 1024)
    monkeypatch.setattr(archive_format, "_CUT_BYTES", 256 * 1024)
    path = tmp_path / "huge.jsonl"
    huge = encode_line(record(b"a" * 40 * 1024 * 1024))
    with path.open("wb") as file:
        for at in range(0, len(huge), 1024 * 1024):
            file.write(COMPRESS[compression](huge[at : at + 1024 * 1024]))
        file.write(COMPRESS[compression](encode_line(record(b"after", 1))))
    del huge
    tracemalloc.start()
    first, second = (item for _, item in read_source(Source(path, None)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 1024 * 1024
    assert isinstance(first, ArchivedRecord)
    assert first.is_cut
    assert first.value is not None
    assert set(first.value) == {ord("a")}
    assert second == record(b"after", 1)


@each_compression
def test_a_file_is_read_however_it_is_named(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    parts = [encode_line(record(b"%d" % offset, offset)) for offset in range(3)]
    # of several gzip members or zstd frames, as `cat` joins them; without an end of the last line
    path.write_bytes(b"".join(COMPRESS[compression](part) for part in [*parts[:2], b"", b"\n", parts[2][:-1]]))
    assert list(read_records(find_sources([path]))) == [record(b"%d" % offset, offset) for offset in range(3)]


def test_frames_that_zstd_users_put_between_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    frame = bytes(cramjam.zstd.compress(encode_line(record(b"1"))))
    path.write_bytes(b"\x50\x2a\x4d\x18\3\0\0\0abc" + frame + b"\x5f\x2a\x4d\x18\0\0\0\0")
    assert list(read_records(find_sources([path]))) == [record(b"1")]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_file_that_is_damaged_is_named(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.jsonl"
    whole = COMPRESS[compression](b"".join(encode_line(record(b"%d" % n * 50, n)) for n in range(500)))
    for end in range(5, len(whole), 17):
        path.write_bytes(whole[:end])
        with pytest.raises(ArchiveError, match=r"damaged\.jsonl: damaged"):
            list(read_lines(path))
    path.write_bytes(whole + b"\0\0\0\1garbage")
    with pytest.raises(ArchiveError, match=r"damaged\.jsonl: damaged"):
        list(read_lines(path))


def test_a_frame_larger_than_an_archive_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reader, "_MOST_BLOCKS", 8)
    path = tmp_path / "large.zst"
    path.write_bytes(bytes(cramjam.zstd.compress(b"\n" * 900 * 1024)))
    assert sum(size for _, size in read_lines(path)) == 900 * 1024
    path.write_bytes(bytes(cramjam.zstd.compress(b"\n" * 1100 * 1024)))
    with pytest.raises(ArchiveError, match="decompress it with zstd"):
        list(read_lines(path))


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"nonsense",
        b"\xff",
        b'{"topic": 1, "partition": 0, "offset": 0, "timestamp": 0, "key": null, "headers": [], "value": null}',
        b'{"topic": "t", "partition": "0", "offset": 0, "timestamp": 0, "key": null, "headers": [], "value": null}',
        b'{"topic": "t", "partition": 0, "offset": 0, "timestamp": 0, "key": 5, "headers": [], "value": null}',
        b'{"topic": "t", "partition": 0, "offset": 0, "timestamp": 0, "key": null, "headers": ["a"], "value": null}',
        b'{"topic": "t", "partition": 0, "offset": 0, "timestamp": 0, "key": null, "headers": [], "value": {"base64": "?"}}',
    ],
)
def test_a_line_that_is_no_record_has_its_number(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(encode_line(record(b"1")) + b"\n" + line + b"\n" + encode_line(record(b"2", 1)))
    items = list(read_source(Source(path, None)))
    assert [number for number, _ in items] == [1, 3, 4]
    assert isinstance(items[1][1], BadLine)
    assert items[1][1].line == 3
    with pytest.raises(ArchiveError, match=r"file\.jsonl:3: "):
        list(read_records([Source(path, None)]))


def archive_of(folder: Path, **changes: object) -> Manifest:
    """A folder with files of two topics and two partitions, a record each."""
    manifest = Manifest()
    for topic, partition, begin in (("b", 1, 5), ("b", 0, 7), ("a", 0, 0), ("b", 1, 0)):
        name = f"{topic}-{partition}-{begin:020}.jsonl"
        content = encode_line(ArchivedRecord(topic, partition, begin, 0, None, b"v", []))
        (folder / name).write_bytes(content)
        digest = sha256(content).hexdigest()
        manifest.files.append(ArchiveFile(name, topic, partition, begin, begin + 1, 1, 0, 0, len(content), digest))
    archive_format.write_manifest(folder, manifest)
    return manifest


def test_an_archive_is_read_by_partition_and_offset(tmp_path: Path) -> None:
    archive_of(tmp_path)
    (tmp_path / "b-0-00000000000000000099.jsonl").write_text("no file of the manifest")

    def places(**choice: object) -> list[tuple[str, int, int]]:
        return [(each.topic, each.partition, each.offset) for each in read_records(find_sources([tmp_path], **choice))]  # type: ignore[arg-type]

    assert places() == [("a", 0, 0), ("b", 0, 7), ("b", 1, 0), ("b", 1, 5)]
    assert places(topic="b") == [("b", 0, 7), ("b", 1, 0), ("b", 1, 5)]
    assert places(topic="b", partitions=[1]) == [("b", 1, 0), ("b", 1, 5)]


def test_nothing_of_a_file_unlike_its_manifest_is_read(tmp_path: Path) -> None:
    name = archive_of(tmp_path).files[0].name
    path = tmp_path / name
    path.write_bytes(path.read_bytes().replace(b'"v"', b'"w"'))
    for sources in (find_sources([tmp_path], "b", [1]), find_sources([path])):
        read = []
        with pytest.raises(ArchiveError, match=f"{name}: differs from its manifest"):
            read += [each.offset for each in read_records(sources)]
        assert read == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "damaged"),
        ('{"files": [{}]}', "damaged"),
        ('{"format": 3}', "use the version"),
        (
            json.dumps({"files": [{**dict.fromkeys(FIELDS, 0), "name": "../x", "topic": "t", "sha256": ""}]}),
            "not in its folder",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(content: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ArchiveError, match=f"manifest.json: .*{error}"):
        find_sources([tmp_path])


def test_a_path_that_is_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no archive, since it has no manifest\.json"):
        find_sources([tmp_path])
    with pytest.raises(ArchiveError, match="absent: No such file or directory"):
        list(read_records(find_sources([tmp_path / "absent"])))


def test_the_documented_line_is_read() -> None:
    text = (Path(__file__).parents[3] / "deploy/README.md").read_text()
    example = next(line for line in text.splitlines() if line.startswith('{"topic"'))
    found = decode_line(example.encode())
    assert (found.topic, found.partition, found.offset, found.key) == ("attendance.events", 3, 41, b"b1")
    assert found.headers == [("attendance-received", b"2026-11-22T10:00:00Z")]
    assert found.value is not None
    assert json.loads(found.value) == {"specversion": "1.0"}


def test_only_what_a_killed_archive_left_is_removed(tmp_path: Path) -> None:
    archive_of(tmp_path)
    kept = {"notes.txt", "notes.partial", "t.events-0-00000000000000000007.jsonl.zst", "backup.jsonl.partial"}
    left = {f"t.events-0-00000000000000000009.jsonl{ending}.partial" for ending in ("", ".gz", ".zst")}
    for name in kept | left | {"manifest.json.partial"}:
        (tmp_path / name).write_text("")
    before = {path.name for path in tmp_path.iterdir()}
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == before - left - {"manifest.json.partial"} | {".lock"}


def test_a_manifest_that_was_still_to_rename_counts(tmp_path: Path) -> None:
    manifest = archive_of(tmp_path)
    before = archive_format.read_manifest(tmp_path)
    assert before == manifest
    new = manifest.files[0]
    manifest.files.append(msgspec.structs.replace(new, name="c-0-00000000000000000000.jsonl", topic="c"))
    partial = tmp_path / "manifest.json.partial"
    partial.write_bytes(msgspec.json.encode(manifest))
    assert archive_format.read_manifest(tmp_path) == before, "the file is not there yet"
    (tmp_path / "c-0-00000000000000000000.jsonl").write_bytes((tmp_path / new.name).read_bytes())
    assert archive_format.read_manifest(tmp_path) == manifest
    with locked(tmp_path):
        assert not partial.exists()
    assert archive_format.read_manifest(tmp_path) == manifest


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"file: .*: choose a path"), locked(tmp_path / "file"):
        raise AssertionError
