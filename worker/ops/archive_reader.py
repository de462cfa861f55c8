"""Reads archives: the records of folders that `attendance archive` wrote, or of single files of them.

A file may be plain, gzip or zstd; its first bytes decide. Memory is bounded, whatever a file or a line holds.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, NamedTuple

from worker.ops import publish, zstd
from worker.ops.archive_erased import ErasedBookings
from worker.ops.archive_format import (
    MANIFEST,
    MOST_LINE_BYTES,
    ArchivedRecord,
    ArchiveError,
    ArchiveFile,
    decode_line,
    read_manifest,
    unusable,
)

_READ_BYTES = 256 * 1024
_GZIP = b"\x1f\x8b"
_ZSTD, _SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
#: A block of zstd expands to so much at most.
_BLOCK_BYTES = 128 * 1024
#: Blocks of a frame that are decompressed at once: 64 MiB. `attendance archive` writes frames of 1 MiB.
_MOST_BLOCKS = 512

Stop = Callable[[], bool]


class Source(NamedTuple):
    """A file to read."""

    path: Path
    file: ArchiveFile | None
    """As the manifest describes it; None if the file belongs to no archive."""
    erased: ErasedBookings | None = None
    """Bookings whose records are left out."""


class BadLine(NamedTuple):
    """A line that is no record of an archive, and why."""

    line: int
    detail: str


def find_sources(paths: Iterable[Path], topic: str | None = None, partitions: Iterable[int] | None = None) -> list[Source]:
    """The files of archives, each partition in the order of its offsets; single files as they are given.

    Args:
        paths: folders of archives, or files of JSON lines.
        topic: of archives take only this topic's files.
        partitions: of archives take only the files of these partitions.

    Raises:
        ArchiveError: a path is missing, is a folder without manifest, or its manifest cannot be read.
    """
    wanted = None if partitions is None else frozenset(partitions)
    sources: list[Source] = []
    for path in paths:
        if path.is_dir():
            manifest = read_manifest(path)
            if manifest is None:
                raise ArchiveError(
                    f"{path}: no archive, since it has no {MANIFEST}: name a folder of `attendance archive`, or files"
                )
            erased = ErasedBookings.of(manifest)
            sources += [
                Source(path / file.name, file, erased)
                for file in manifest.in_order()
                if topic in (None, file.topic) and (wanted is None or file.partition in wanted)
            ]
        else:
            manifest = read_manifest(path.parent)
            files = [] if manifest is None else [file for file in manifest.files if file.name == path.name]
            sources.append(Source(path, files[0] if files else None, ErasedBookings.of(manifest)))
    return sources


def read_records(sources: Iterable[Source], *, check: bool = True) -> Iterator[ArchivedRecord]:
    """The records of files, one file after the other.

    Raises:
        ArchiveError: a line is no record, or as `read_source` raises it.
    """
    for source in sources:
        for line, item in read_source(source, check=check):
            if isinstance(item, BadLine):
                raise ArchiveError(f"{source.path}:{line}: {item.detail}")
            yield item


def read_source(source: Source, *, check: bool = True) -> Iterator[tuple[int, ArchivedRecord | BadLine]]:
    """The records of a file with the numbers of their lines, from 1; empty lines and records of erased bookings are left out.

    Args:
        source: the file.
        check: compare size and SHA-256 with the manifest first, so that nothing of a damaged file is read.

    Raises:
        ArchiveError: the file cannot be read, is damaged, or differs from its manifest.
    """
    if check:
        check_file(source)
    for number, (line, _) in enumerate(read_lines(source.path), 1):
        if line.strip():
            try:
                record = decode_line(line)
            except ValueError as error:
                yield number, BadLine(number, str(error))
                continue
            kept = record if source.erased is None else source.erased.kept(record)
            if kept is not None:
                yield number, kept


def check_file(source: Source, stop: Stop = bool) -> None:
    """Compares size and SHA-256 with the manifest, if there is one.

    Raises:
        ArchiveError: they differ, or the file cannot be read.
    """
    path, file, _ = source
    if file is None:
        return
    digest, size = sha256(), 0
    try:
        with path.open("rb") as content:
            while (part := content.read(_READ_BYTES)) and not stop():
                digest.update(part)
                size += len(part)
    except OSError as error:
        raise unusable(path, error) from None
    if not stop() and (size, digest.hexdigest()) != (file.size, file.sha256):
        raise ArchiveError(f"{path}: differs from its {MANIFEST}: restore it from a copy")


def read_parts(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The lines of a file as they are, decompressed, without their ends, each with whether the line ends there.

    Lines that are longer than `MOST_LINE_BYTES` come in several parts, of which the first is longer than that.

    Raises:
        ArchiveError: the file cannot be read, or is damaged.
    """
    with _opened(path) as file:
        line, begins = bytearray(), True
        while chunk := file.read(_READ_BYTES):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                line += end
                yield bytes(line), True
                line, begins = bytearray(), True
            line += rest
            if len(line) > MOST_LINE_BYTES or not begins:
                yield bytes(line), False
                line, begins = bytearray(), False
        if line or not begins:
            yield bytes(line), True


def read_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """The lines of a file, decompressed and cut behind `MOST_LINE_BYTES`, each with its size in bytes.

    Raises:
        ArchiveError: the file cannot be read, or is damaged.
    """
    with _opened(path) as file:
        yield from publish.lines(file, MOST_LINE_BYTES)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file, decompressed."""
    try:
        with path.open("rb", buffering=0) as file:
            yield _decompressed(file)
    except (EOFError, OSError, zlib.error, zstd.DamagedFrame, _Damaged) as error:
        # gzip raises an OSError without a number where the content is damaged
        if isinstance(error, OSError) and error.errno is not None:
            raise unusable(path, error) from None
        raise ArchiveError(f"{path}: damaged ({error}): restore it from a copy") from None


class _Damaged(Exception):
    """A file is no zstd, although it begins so."""


def _decompressed(file: RawIOBase) -> IO[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=BufferedReader(file))  # type: ignore[return-value]
    if magic == _ZSTD or _is_skippable(magic):
        return _Frames(BufferedReader(file))  # type: ignore[return-value]
    return file  # type: ignore[return-value]


class _Frames:
    """Decompresses a file of zstd frames, one frame at each read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._frames = _frames(file)

    def read(self, _: int) -> bytes:
        for frame in self._frames:
            # an empty frame is not the end
            if content := zstd.decompress(frame):
                return content
        return b""


def _frames(file: IO[bytes]) -> Iterator[bytes]:
    """The frames of a file as they are (RFC 8878): whole frames alone are decompressed."""
    while magic := file.read(4):
        if _is_skippable(magic):
            file.seek(int.from_bytes(_exactly(file, 4), "little"), os.SEEK_CUR)
            continue
        if magic != _ZSTD:
            raise _Damaged("no zstd frame where one must begin")
        frame = bytearray(magic + _exactly(file, 1))
        descriptor = frame[4]
        has_one_segment = descriptor >> 5 & 1
        size_bytes = (has_one_segment, 2, 4, 8)[descriptor >> 6]
        frame += _exactly(file, (not has_one_segment) + (0, 1, 2, 4)[descriptor & 3] + size_bytes)
        for _ in range(_MOST_BLOCKS):
            header = _exactly(file, 3)
            block = int.from_bytes(header, "little")
            kind, size = block >> 1 & 3, block >> 3
            if kind == 3 or size > _BLOCK_BYTES:
                raise _Damaged("no zstd block where one must begin")
            frame += header + _exactly(file, 1 if kind == 1 else size)
            if block & 1:
                break
        else:
            raise _Damaged(f"a zstd frame of more than {_MOST_BLOCKS // 8} MiB, which no archive has; decompress it with zstd")
        yield bytes(frame + _exactly(file, 4 * (descriptor >> 2 & 1)))


def _is_skippable(magic: bytes) -> bool:
    return magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise _Damaged("it ends within a zstd frame")
    return content
