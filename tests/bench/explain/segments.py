"""A partition of millions of events, written as the segments of its log.

Through the protocol, a million batches of ten events would take a quarter of an hour. A broker that starts makes the indexes
of segments that have none.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from aiokafka.record.default_records import DefaultRecordBatchBuilder

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_DISTINCT = 200_000
_SEGMENT_BYTES = 1_000_000_000
_BEGIN = datetime(2026, 11, 1)
_KINDS = ("attendance.check_in",) * 6 + ("attendance.participant_scanned",) * 3 + ("attendance.no_show",)
# first fields of a record batch: base offset, length, and the leader's epoch, which the checksum does not cover
_BASE_OFFSET, _EPOCH, _EPOCH_AT = struct.Struct(">q"), struct.Struct(">i"), 12


class Record(NamedTuple):
    """A record of the events topic."""

    key: bytes
    value: bytes


def events(count: int = _DISTINCT) -> Iterator[Record]:
    """Events of devices, 300 to 400 bytes each; half of the bookings are named by GUIDs."""
    rng = random.Random(5)
    for number in range(count):
        booking = f"BK-{rng.randrange(10**9):09}" if number % 2 else _guid(rng)
        kind = rng.choice(_KINDS)
        data: dict[str, object] = {"bookingId": booking, "sessionId": _guid(rng)}
        if kind == "attendance.participant_scanned":
            data["participantId"] = _guid(rng)
        elif kind == "attendance.check_in":
            data["numberOfAttendees"] = rng.randrange(1, 6)
        event = {
            "specversion": "1.0",
            "id": _guid(rng),
            "source": f"/gates/north/scanner-{rng.randrange(200)}",
            "type": kind,
            "time": f"{_BEGIN + timedelta(milliseconds=rng.randrange(86_400_000)):%Y-%m-%dT%H:%M:%S.%f}Z",
            "datacontenttype": "application/json",
            "data": data,
        }
        yield Record(booking.encode(), json.dumps(event).encode())


def write_events(folder: Path, begin: int, count: int, size: int, codec: str, planted: Sequence[Record]) -> int:
    """Appends events to the log of a stopped broker.

    Args:
        folder: of the partition.
        begin: the offset where its log ends.
        count: events to append; they repeat after some 200,000.
        size: events of a record batch.
        planted: the last events of each batch.

    Returns:
        The bytes written.
    """
    step = size - len(planted)
    source = events()
    batches = [_batch([*islice(source, step), *planted], codec) for _ in range(_DISTINCT // step)]
    written, file, room = 0, None, 0
    try:
        for offset, batch in zip(range(begin, begin + count, size), cycle(batches), strict=False):
            if room < len(batch):
                if file is not None:
                    file.close()
                file, room = (folder / f"{offset:020}.log").open("wb", buffering=1024 * 1024), _SEGMENT_BYTES
            _BASE_OFFSET.pack_into(batch, 0, offset)
            assert file is not None
            file.write(batch)
            room -= len(batch)
            written += len(batch)
    finally:
        if file is not None:
            file.close()
    return written


def _batch(records: Sequence[Record], codec: str) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 2**30)
    milliseconds = int(_BEGIN.timestamp() * 1000)
    for number, record in enumerate(records):
        assert builder.append(number, milliseconds, record.key, record.value, []) is not None
    batch = bytearray(builder.build())
    _EPOCH.pack_into(batch, _EPOCH_AT, 0)
    return batch


def _guid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))
