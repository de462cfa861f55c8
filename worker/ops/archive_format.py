"""The format of archives: a folder of JSON lines files, a record of a topic in each line, and a manifest that names them.

A new manifest is complete on disk, under a name of its own, before the file that it newly names, or names otherwise, gets its
name; then it replaces the old one in one step. So whatever a killed process leaves behind, a manifest names every complete
file, and no other.
"""

import errno
import fcntl
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import orjson

MANIFEST = "manifest.json"
FORMAT = 1
#: Of a manifest that names erased bookings. A version that does not know them would archive them again, and must not read it.
FORMAT_WITH_ERASED = 2
#: Ending of a file that is being written.
PARTIAL = ".partial"
#: Files that the next archive of the folder removes: only a process that was killed leaves them.
_LEFT_BEHIND = re.compile(r"[\w.-]+-\d+-\d{20}\.jsonl(?:\.gz|\.zst)?\.partial|manifest\.json\.partial").fullmatch
_LOCK = ".lock"

#: A longer line is cut by the reader, bytes. A record that came uncompressed fits, whatever bytes it holds.
MOST_LINE_BYTES = 16 * 1024 * 1024
#: What is kept of a cut value as it stands in its line, bytes: larger than any value that is not refused.
_CUT_BYTES = 4 * 1024 * 1024
#: The last bytes of a cut value may be a part of a character: two escapes of six bytes, but for one byte.
_MOST_OF_CHARACTER = 11
_VALUE = b',"value":'
_BASE64 = b'{"base64":"'

Headers = Sequence[tuple[str, bytes | None]]


class ArchiveError(Exception):
    """An archive cannot be written or read; the message names the file and says what to do."""


class ArchivedRecord(NamedTuple):
    """A record, with the attributes of aiokafka's that decoding takes."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since the epoch, as Kafka has it."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    is_cut: bool = False
    """Whether the reader has cut the value, since its line was longer than `MOST_LINE_BYTES`."""


class KafkaRecord(Protocol):
    """What a line takes of a record of aiokafka."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class ArchiveFile(msgspec.Struct, frozen=True, rename="camel"):
    """A file as the manifest describes it: the records of a partition at the offsets [begin, end), as far as they exist."""

    name: str
    topic: str
    partition: int
    begin: int
    end: int
    count: int
    first_timestamp: int | None
    """The earliest of its records; None: it has none."""
    last_timestamp: int | None
    """The latest."""
    size: int
    sha256: str


class Gap(msgspec.Struct, frozen=True, rename="camel"):
    """Offsets [begin, end) that the topic had deleted before they were archived."""

    topic: str
    partition: int
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.topic}, partition {self.partition}: offsets {self.begin} to {self.end - 1}"


class Erased(msgspec.Struct, frozen=True, rename="camel"):
    """The bookings that were erased from an archive, and do not come back to it."""

    key: str
    """Of the hashes: 16 random bytes of this archive, in hexadecimal digits."""
    clock_tolerance: int
    """How much later than its reception an event may count, microseconds."""
    hashes: dict[str, int]
    """By the keyed hash of a bookingId the time of its erasure, microseconds since the epoch."""
    records: list[tuple[str, int, int]] = msgspec.field(default_factory=list)
    """Topic, partition and offset of records that went since they held a bookingId somewhere: no hash would find them again."""
    record_count: int = 0
    """Records that went from files, by all erasures."""
    file_count: int = 0
    """How often a file was written again."""


class Manifest(msgspec.Struct, rename="camel"):
    """What an archive holds."""

    format: int = FORMAT
    files: list[ArchiveFile] = msgspec.field(default_factory=list)
    gaps: list[Gap] = msgspec.field(default_factory=list)
    erased: Erased | None = None

    def covered(self, topic: str, partition: int) -> list[range]:
        """The offsets of a partition that were archived, or are known to be lost, in ascending order."""
        parts: Iterable[ArchiveFile | Gap] = [*self.files, *self.gaps]
        of_partition = [range(each.begin, each.end) for each in parts if (each.topic, each.partition) == (topic, partition)]
        return sorted(of_partition, key=lambda each: each.start)

    def in_order(self) -> list[ArchiveFile]:
        """The files by topic, partition and offset."""
        return sorted(self.files, key=lambda each: (each.topic, each.partition, each.begin))


# --- lines -----------------------------------------------------------------------------------------------------------


def encode_line(record: KafkaRecord) -> bytes:
    """A record as a line. Bytes are a JSON string if they are UTF-8, otherwise ``{"base64": "…"}``; null stays null."""
    line = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _readable(record.key),
        "headers": [(name, _readable(content)) for name, content in record.headers],
        # last, so that of a line that was cut all but a part of the value is read
        "value": _readable(record.value),
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def decode_line(line: bytes) -> ArchivedRecord:
    """The record of a line; one that is longer than `MOST_LINE_BYTES` has been cut.

    Raises:
        ValueError: it is none.
    """
    try:
        return _decode_cut(line) if len(line) > MOST_LINE_BYTES else _record(orjson.loads(line))
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not a record of an archive: write it as deploy/README.md shows") from None


def _record(document: Any) -> ArchivedRecord:
    numbers = document["partition"], document["offset"], document["timestamp"]
    if not isinstance(document["topic"], str) or not all(type(number) is int for number in numbers):
        raise TypeError
    headers = [(_text(name), _bytes(content)) for name, content in document["headers"]]
    return ArchivedRecord(document["topic"], *numbers, _bytes(document["key"]), _bytes(document["value"]), headers)


def _decode_cut(line: bytes) -> ArchivedRecord:
    # within a JSON string a quotation mark is escaped: these bytes stand for the field alone
    at = line.find(_VALUE)
    if at < 0:
        raise ValueError(f"longer than {MOST_LINE_BYTES} bytes, not counting the value")
    record = _record(orjson.loads(line[:at] + _VALUE + b"null}"))
    at += len(_VALUE)
    value = line[at : at + _CUT_BYTES]
    if value.startswith(_BASE64):
        digits = value[len(_BASE64) :]
        return record._replace(value=b64decode(digits[: len(digits) // 4 * 4]), is_cut=True)
    for dropped in range(_MOST_OF_CHARACTER + 1):
        with suppress(orjson.JSONDecodeError):
            return record._replace(value=orjson.loads(value[: len(value) - dropped] + b'"').encode(), is_cut=True)
    raise ValueError("its value is not JSON")


def _readable(content: bytes | None) -> str | dict[str, str] | None:
    if content is None:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(content).decode()}


def _bytes(content: Any) -> bytes | None:
    if content is None or isinstance(content, str):
        return None if content is None else content.encode()
    return b64decode(content["base64"], validate=True)


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError
    return name


# --- folders ---------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none. One that a killed archive had still to rename counts.

    Raises:
        ArchiveError: it cannot be read.
    """
    return _unfinished_manifest(folder) or _read_manifest(folder / MANIFEST)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(path, error) from None
    except msgspec.DecodeError as error:
        raise ArchiveError(f"{path}: damaged ({error}): restore it from a copy") from None
    if manifest.format not in (FORMAT, FORMAT_WITH_ERASED):
        raise ArchiveError(f"{path}: format {manifest.format} is not {FORMAT_WITH_ERASED}: use the version that wrote it")
    for file in manifest.files:
        if Path(file.name).name != file.name:
            raise ArchiveError(f"{path}: names {file.name!r}, which is not in its folder: restore it from a copy")
    return manifest


def _unfinished_manifest(folder: Path) -> Manifest | None:
    """The manifest that a killed archive had still to rename, if every file that it names has got its name."""
    with suppress(OSError, ArchiveError):
        manifest = _read_manifest(folder / (MANIFEST + PARTIAL))
        if manifest and all((folder / file.name).stat().st_size == file.size for file in manifest.files):
            earlier = {file.name: file for file in (_read_manifest(folder / MANIFEST) or Manifest()).files}
            if all(_is_renewed(folder, earlier.get(file.name), file) for file in manifest.files):
                return manifest
    return None


def _is_renewed(folder: Path, earlier: ArchiveFile | None, file: ArchiveFile) -> bool:
    """Whether a file of the right size is the one that a manifest names, not the one that it was to replace."""
    if earlier is None or earlier.size != file.size or earlier.sha256 == file.sha256:
        return True
    with (folder / file.name).open("rb") as content:
        return file_digest(content, "sha256").hexdigest() == file.sha256


def write_manifest(folder: Path, manifest: Manifest, finished: tuple[Path, Path] | None = None) -> None:
    """Replaces the manifest of a folder in one step; it is on disk then.

    Args:
        folder: of the archive.
        manifest: the new one.
        finished: the path of a complete file that it newly names, or names otherwise, and the path that the file gets.

    Raises:
        OSError: it cannot be written; the earlier one stays.
    """
    partial = folder / (MANIFEST + PARTIAL)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with partial.open("wb") as file:
        file.write(text + b"\n")
        sync(file.fileno())
    if finished:
        replace_file(*finished)
    replace_file(partial, folder / MANIFEST)


def replace_file(partial: Path, path: Path) -> None:
    """Gives a complete file its name, on disk too."""
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        sync(directory)
    finally:
        os.close(directory)


def sync(number: int) -> None:
    """Waits until a file or directory is on disk."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a directory
            raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder if it is missing, and keeps other archives out of it; ends or removes what a killed one left behind.

    Raises:
        ArchiveError: another process writes there, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("ab")
    except OSError as error:
        raise unusable(folder, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveError(f"{folder}: another process archives to it: wait until it has ended") from None
        except OSError as error:
            raise unusable(folder, error) from None
        if _unfinished_manifest(folder):
            with suppress(OSError):
                replace_file(folder / (MANIFEST + PARTIAL), folder / MANIFEST)
        for path in list(folder.iterdir()):
            if _LEFT_BEHIND(path.name):
                with suppress(OSError):
                    path.unlink()
        yield


def unusable(path: Path, error: OSError) -> ArchiveError:
    """The error of a file or folder that cannot be read or written."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ArchiveError(f"{path}: {reason}: make room, then run the command again; the files of the manifest are complete")
    return ArchiveError(f"{path}: {reason}: choose a path that this user can read and write")
