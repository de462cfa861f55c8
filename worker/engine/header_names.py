"""Reads record batches with header names that are not UTF-8.

Kafka accepts them and other clients read them, but aiokafka's decoder raises an error: a single record of such a producer
would stop its partition. Here, the bytes of such a name that are not ASCII are read as question marks.
"""

from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint


class TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """The record batches of a fetch response. Like aiokafka's `MemoryRecords`, but several times slower."""

    def next_batch(self, *_: Any) -> Any:
        content = self._next_slice
        if content is None:
            return None
        self._cache_next()
        return _Batch(content)


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _maybe_uncompress(self) -> None:
        if not self._decompressed:
            super()._maybe_uncompress()
            _replace_names(self._buffer, self._pos, self._num_records)


def _replace_names(buffer: bytearray, at: int, records: int) -> None:
    """Replaces header names that are not UTF-8 by ASCII, in place. Raises an error if the records are corrupt."""
    for _ in range(records):
        length, at = decode_varint(buffer, at)
        end = at + length
        for _ in range(3):  # attributes, timestamp and offset
            _, at = decode_varint(buffer, at)
        for _ in range(2):  # key and value
            at = _skip(buffer, at, end)
        count, at = decode_varint(buffer, at)
        for _ in range(count):
            size, at = decode_varint(buffer, at)
            if size < 0:
                raise CorruptRecordException(f"a header name of size {size}")
            name = buffer[at : at + size]
            try:
                name.decode()
            except UnicodeDecodeError:
                buffer[at : at + size] = bytes(byte if byte < 0x80 else ord("?") for byte in name)
            at = _skip(buffer, at + size, end)
        at = end


def _skip(buffer: bytearray, at: int, end: int) -> int:
    """The index after a field that begins with its length."""
    size, at = decode_varint(buffer, at)
    at += max(size, 0)
    if at > end:
        raise CorruptRecordException(f"a field of a record extends beyond its end at {end}")
    return at
