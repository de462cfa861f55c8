"""Writes one file of an archive."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from aiokafka import TopicPartition

from worker.ops import zstd
from worker.ops.archive_format import PARTIAL, ArchiveFile, KafkaRecord, encode_line, sync
from worker.ops.archive_plan import Compression

#: Uncompressed bytes of a zstd frame: the reader decompresses whole frames.
_FRAME_BYTES = 1024 * 1024


class FileWriter:
    """Writes one file of an archive. Created when its first records come, or when it is finished without any.

    Args:
        folder: of the archive.
        compression: of the file.
        tp: the partition of its records.
        begin: its first offset.
        name: of the file; None: made of the partition, the offset and the compression.
    """

    def __init__(self, folder: Path, compression: Compression, tp: TopicPartition, begin: int, name: str | None = None) -> None:
        self.tp = tp
        self.begin = begin
        self.size = 0
        self._path = folder / (name or f"{tp.topic}-{tp.partition}-{begin:020}.jsonl{compression.ending}")
        self._partial = self._path.with_name(self._path.name + PARTIAL)
        self._file: Any = None
        self._compressor = _COMPRESSORS[compression]()
        self._digest = sha256()
        self._count = 0
        self._first: int | None = None
        self._last: int | None = None

    @property
    def paths(self) -> tuple[Path, Path]:
        """While it is written, and under its name."""
        return self._partial, self._path

    def append(self, records: Sequence[KafkaRecord]) -> None:
        """Writes records."""
        self.append_lines(b"".join(map(encode_line, records)))
        if records:
            times = [record.timestamp for record in records]
            self._first = min(times) if self._first is None else min(self._first, *times)
            self._last = max(times) if self._last is None else max(self._last, *times)
            self._count += len(records)

    def append_lines(self, content: bytes) -> None:
        """Writes lines, or a part of one, as they are; who does counts their records."""
        self._write(self._compressor.compress(content))

    def finish(self, end: int) -> ArchiveFile:
        """Completes the file: it is on disk then, and gets its name with the manifest."""
        self._write(self._compressor.flush())
        file, self._file = self._file, None
        with file:
            file.flush()
            sync(file.fileno())
        return ArchiveFile(
            name=self._path.name,
            topic=self.tp.topic,
            partition=self.tp.partition,
            begin=self.begin,
            end=end,
            count=self._count,
            first_timestamp=self._first,
            last_timestamp=self._last,
            size=self.size,
            sha256=self._digest.hexdigest(),
        )

    def discard(self) -> None:
        """Removes a file that was not finished."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        if self._file is None:
            self._file = self._partial.open("wb", buffering=0)
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(content)
        self.size += len(content)


class _Compressor(Protocol):
    def compress(self, content: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _ZstdFrames:
    """Compresses to frames of `_FRAME_BYTES`."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def compress(self, content: bytes, /) -> bytes:
        self._rest += content
        frames = []
        while len(self._rest) >= _FRAME_BYTES:
            frames.append(zstd.compress(bytes(self._rest[:_FRAME_BYTES])))
            del self._rest[:_FRAME_BYTES]
        return b"".join(frames)

    def flush(self) -> bytes:
        # a frame in any case: a file without records is a zstd file too
        return zstd.compress(bytes(self._rest))


class _Plain:
    def compress(self, content: bytes, /) -> bytes:
        return content

    def flush(self) -> bytes:
        return b""


#: Level 3 of zlib: twice as fast as its default, and a tenth larger.
_COMPRESSORS: dict[Compression, Callable[[], _Compressor]] = {
    Compression.ZSTD: _ZstdFrames,
    Compression.GZIP: lambda: zlib.compressobj(3, wbits=16 + zlib.MAX_WBITS),
    Compression.NONE: _Plain,
}
