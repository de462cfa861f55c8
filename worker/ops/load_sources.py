"""From what new tables are filled; reads the records of a partition from an offset on: from archives, then from the topic."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

from aiokafka import TopicPartition

from worker.engine.fetching import Fetched
from worker.engine.log_reader import read_windows
from worker.ops.archive_format import ArchivedRecord, ArchiveError
from worker.ops.archive_reader import BadLine, Source, read_source
from worker.ops.coverage import LoadError, Part
from worker.stream.booking_store import Bookings
from worker.stream.resources import Resources

#: Records that are folded together: as many as a worker takes at once.
AT_ONCE = 12_000
#: Bytes of archived values that are folded together.
_BYTES_AT_ONCE = 8 * 1024 * 1024
#: Bytes of a partition that are fetched at once.
FETCH_BYTES = 4 * 1024 * 1024

OnReached = Callable[[TopicPartition, int], None]
"""Called with a partition of a topic, and how many of its offsets are done."""


class LoadSource(Protocol):
    """From what new tables are filled."""

    @property
    def total(self) -> int:
        """Offsets to read; some have no record, after a compaction."""

    @property
    def ends(self) -> Mapping[TopicPartition, int]:
        """Up to where the tables then have each partition of the events and the bookings topic."""

    async def fill(
        self, number: int, resources: Resources, bookings: Bookings, stop: asyncio.Event, on_reached: OnReached
    ) -> bool:
        """Fills the tables of a partition, which are recovered, and opens its bookings; returns False if it was stopped.

        What was filled before a stop is taken from the tables, or read again, which changes nothing.
        """


async def read_part(client: Mapping[str, Any], tp: TopicPartition, part: Part, begin: int) -> AsyncGenerator[Fetched]:
    """The records from an offset to the end of a part, some at a time; their offsets follow on.

    Args:
        client: connection settings for aiokafka.
        tp: the partition.
        part: where its records are.
        begin: the first offset to read.

    Raises:
        LoadError: records were deleted meanwhile.
        ArchiveError: a file cannot be read, is damaged, or has a line that is no record.
        LogUnreadable, aiokafka.errors.KafkaError: see `read_windows`.
    """
    at = begin
    for source in part.files:
        if at < part.begin and source.file is not None and source.file.end > at:
            async for fetched in _read_file(source, tp, range(at, min(source.file.end, part.begin))):
                yield fetched
                at = fetched.end
    if at >= part.end:
        return
    window = {tp: range(at, part.end)}
    async with aclosing(read_windows(client, window, at_once=AT_ONCE, fetch_bytes=FETCH_BYTES)) as parts:
        async for _, fetched in parts:
            if fetched.begin > at:
                break
            yield fetched
            at = fetched.end
    if at < part.end:
        raise LoadError(
            f"{tp.topic}, partition {tp.partition}: records from offset {at} on were deleted meanwhile: archive the topic, "
            "then begin again with --archives"
        )


async def _read_file(source: Source, tp: TopicPartition, offsets: range) -> AsyncGenerator[Fetched]:
    """The records of a file at these offsets, to whose end the last part goes."""
    chunks = _chunks(source, tp, offsets)
    try:
        while (fetched := await asyncio.to_thread(next, chunks, None)) is not None:
            yield fetched
    finally:
        with suppress(ValueError):  # a thread is still in it, after a cancellation
            chunks.close()


def _chunks(source: Source, tp: TopicPartition, offsets: range) -> Generator[Fetched]:
    at, size, chunk = offsets.start, 0, list[ArchivedRecord]()
    for line, record in read_source(source):
        if isinstance(record, BadLine):
            raise ArchiveError(f"{source.path}:{line}: {record.detail}: restore it from a copy")
        if (record.topic, record.partition) != tp:
            raise ArchiveError(
                f"{source.path}:{line}: is of {record.topic}, partition {record.partition}: restore it from a copy"
            )
        if record.offset not in offsets:
            continue
        if len(chunk) == AT_ONCE or size > _BYTES_AT_ONCE:
            yield Fetched(at, list[Any](chunk), record.offset)
            at, size, chunk = record.offset, 0, []
        chunk.append(record)
        size += len(record.value or b"")
    yield Fetched(at, list[Any](chunk), offsets.stop)
