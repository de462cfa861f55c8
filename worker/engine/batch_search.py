"""Leaves out the records of a fetch in which a search finds nothing.

Who looks for a few records of a long log spends nearly all of the time on making an object of each other record. Searched as
bytes, a log is read many times as fast: first the record batches, several at once where they are small, then the records of
those that hold something.
"""

import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint

MayHold = Callable[[bytes | bytearray], bool]
"""Whether bytes may hold what is looked for: keys, values and headers of a record, or of several, one after the other."""

#: Bytes of small record batches that are searched at once.
_AT_ONCE = 256 * 1024
#: Bytes of a record batch that is read whole in less time than it is searched.
_SMALL = 8 * 1024
#: Records of a batch that are searched at once: of most of these none holds anything.
_CHUNK = 32
_HEADER_BYTES = _DefaultRecordBatchPy.HEADER_STRUCT.size


def _gunzip(content: bytes) -> bytes:
    # half the time of Python's GzipFile, which aiokafka takes
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    records = stream.decompress(content)
    return gzip_decode(content) if stream.unused_data or not stream.eof else records


_DECODERS: dict[int, Callable[[bytes], bytes]] = {
    _DefaultRecordBatchPy.CODEC_NONE: bytes,
    _DefaultRecordBatchPy.CODEC_GZIP: _gunzip,
    _DefaultRecordBatchPy.CODEC_SNAPPY: snappy_decode,
    _DefaultRecordBatchPy.CODEC_LZ4: lz4_decode,
    _DefaultRecordBatchPy.CODEC_ZSTD: zstd_decode,
}


class SearchedRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """The record batches of a fetch response without the records in which nothing is found."""

    def __init__(self, content: bytes, may_hold: MayHold) -> None:
        super().__init__(content)
        self._may_hold = may_hold
        self._batches = self._search()
        self._next: Any = None

    def has_next(self) -> bool:
        # only when it is asked for: an error counts for the offset behind the batches before it
        if self._next is None:
            self._next = next(self._batches, None)
        return self._next is not None

    def next_batch(self, *_: Any) -> Any:
        batch, self._next = self._next if self.has_next() else None, None
        return batch

    def _search(self) -> Iterator[Any]:
        group: list[tuple[Any, memoryview, bytes]] = []
        size = 0
        while (content := self._next_slice) is not None:
            try:
                batch = super().next_batch()
            except CorruptRecordException:
                yield from self._search_group(group)
                raise
            records = _decompressed(content, batch)
            if records is not None:
                group.append((batch, content, records))
                size += len(records)
            if records is None or size > _AT_ONCE:
                yield from self._search_group(group)
                group, size = [], 0
            if records is None:
                yield batch
        yield from self._search_group(group)

    def _search_group(self, group: list[tuple[Any, memoryview, bytes]]) -> Iterator[Any]:
        """The batches in which something is found; between them, one for all those that are left out."""
        is_found = self._may_hold(b"\n".join([records for _, _, records in group]))
        skipped = None
        for batch, content, records in group:
            if not batch.validate_crc():
                found = batch
            elif is_found and self._may_hold(records):
                found = batch if len(records) < _SMALL else _FoundRecords(batch, content, records, self._may_hold)
            else:
                skipped = batch
                continue
            if skipped is not None:
                yield _Skipped(skipped)
                skipped = None
            yield found
        if skipped is not None:
            yield _Skipped(skipped)


class _Skipped:
    """In place of record batches that are left out: it has no records, and moves the position behind the last of them."""

    is_control_batch = is_transactional = False
    producer_id = None

    def __init__(self, last: Any) -> None:
        self.next_offset = last.next_offset

    def validate_crc(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _FoundRecords:
    """A record batch with only those records that may hold what is looked for."""

    def __init__(self, batch: Any, content: memoryview, records: bytes, may_hold: MayHold) -> None:
        self._batch = batch
        self._content = content
        self._records = records
        self._may_hold = may_hold

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        reader = _DefaultRecordBatchPy(self._content[:_HEADER_BYTES])
        bounds = _bounds_of(self._records, reader._num_records)  # noqa: SLF001
        chunks = [bounds[start : start + _CHUNK + 1] for start in range(0, len(bounds) - 1, _CHUNK)]
        found = [chunk for chunk in chunks if self._may_hold(self._records[chunk[0] : chunk[-1]])]
        if not chunks or 2 * len(found) > len(chunks):
            # its own reader finds what is corrupt, and takes less time where many records are found
            yield from self._batch
            return
        reader._buffer, reader._decompressed = bytearray(self._records), True  # noqa: SLF001
        for begin, end in (each for chunk in found for each in pairwise(chunk)):
            if self._may_hold(self._records[begin:end]):
                reader._pos = begin  # noqa: SLF001
                yield reader._read_msg()  # noqa: SLF001


def _decompressed(content: memoryview, batch: Any) -> bytes | None:
    """The records of a batch; None if its own reader is to read them.

    That is so for the formats before Kafka 0.11, for the ends of transactions, and for what cannot be decompressed.
    """
    if content[_MemoryRecordsPy.MAGIC_OFFSET] < 2 or batch.is_control_batch:
        return None
    try:
        return _DECODERS[batch.compression_type](bytes(content[_HEADER_BYTES:]))
    except Exception:  # noqa: BLE001 - whatever a decoder raises
        return None


def _bounds_of(records: bytes, count: int) -> list[int]:
    """Where each record begins, and where the last one ends; empty if the records do not fill the batch."""
    at, bounds = 0, [0]
    try:
        for _ in range(count):
            length, at = decode_varint(records, at)
            if length < 0:
                return []
            at += length
            bounds.append(at)
    except (ValueError, IndexError):
        return []
    return bounds if at == len(records) else []
