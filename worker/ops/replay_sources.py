"""What a replay reads: a window of the events topic, or files of JSON lines."""

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from time import time_ns
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition

from schemas.decoding.explain import decode, decode_booking, received_at
from schemas.events import BACKFILL_HEADER, RECEIVED_HEADER, Booking, BookingGone, DeadLetter, Event, Reason
from schemas.times import format_exact_time
from worker.durations import micros
from worker.engine.log_reader import read_windows
from worker.ops.archive_erased import ErasedBookings
from worker.ops.archive_format import ArchivedRecord, ArchiveError, decode_line
from worker.ops.archive_reader import check_file, find_sources, read_lines
from worker.ops.publish import BadLine, Outgoing, decode_event_line
from worker.settings import Settings
from worker.stream.originals import POSITION_HEADERS, kept_headers
from worker.topics import TopicNames

#: Lines of a file that are read together: so many, or so many bytes.
_LINES, _LINES_BYTES = 2_000, 4 * 1024 * 1024

#: Bad lines that are named; others are only counted.
_NAMED_LINES = 20
#: Count of the lines of files that cannot be used.
BAD_LINES = "bad lines"

#: How a line of an archive begins; an event begins with one of its own attributes.
_ARCHIVED = b'{"topic":'

_REASONS = frozenset(reason.value for reason in Reason)

NOTHING = Outgoing("", "", b"", ())

_DROPPED = POSITION_HEADERS | {BACKFILL_HEADER}

Position = dict[str, int]
"""Of each partition (its number) or file (its path), up to where all is done: an offset, or a number of lines."""


class ReplayError(Exception):
    """A replay cannot go on; the message says why and what to do."""


class Selection(NamedTuple):
    """What of the events is replayed; an empty set allows all."""

    bookings: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()

    def has(self, decoded: Event | Booking | BookingGone) -> bool:
        """Whether an event is selected. A booking record has no session and no source: those filters leave it out."""
        if self.bookings and decoded.booking_id not in self.bookings:
            return False
        if not isinstance(decoded, Event):
            return not (self.sessions or self.sources or self.types)
        return (
            (not self.sessions or decoded.session_id in self.sessions)
            and (not self.sources or decoded.source in self.sources)
            and (not self.types or decoded.type in self.types)
        )


class Item(NamedTuple):
    """A record of a source."""

    next: int
    """The position after it."""
    decoded: Event | Booking | BookingGone | None = None
    """None: it is not replayed, since it is not selected, or cannot be used."""
    received: int = 0
    """Microseconds."""
    outgoing: Outgoing = NOTHING
    reason: str = ""
    """Why it cannot be used; else empty."""
    is_bad_line: bool = False
    """Whether it cannot be used and was no dead letter before, as those of topics and archives were."""


class Part(NamedTuple):
    """Consecutive records of one partition or file."""

    name: str
    items: Sequence[Item]
    end: int
    """The position after all of them."""


class Source(Protocol):
    """Where the records to replay come from; read as often as needed, always to the same end."""

    @property
    def start(self) -> Position: ...
    def read(self, position: Mapping[str, int]) -> AsyncIterator[Part]: ...


class TopicWindow:
    """A window of the events topic."""

    def __init__(self, settings: Settings, windows: Mapping[int, range], selection: Selection) -> None:
        self.windows = windows
        """Offsets by partition."""
        self._settings = settings
        self._topic = TopicNames.of(settings.topic_prefix).events
        self._selection = selection

    @property
    def start(self) -> Position:
        return {str(partition): window.start for partition, window in self.windows.items()}

    @property
    def end(self) -> Position:
        return {str(partition): window.stop for partition, window in self.windows.items()}

    async def read(self, position: Mapping[str, int]) -> AsyncIterator[Part]:
        max_age = micros(self._settings.max_event_age)
        left = {
            TopicPartition(self._topic, partition): range(position[str(partition)], window.stop)
            for partition, window in self.windows.items()
        }
        async for tp, fetched in read_windows(self._settings.kafka_client(), left):
            items = [
                self._item(each, decode(each.value, each.headers, each.timestamp, max_age=max_age)) for each in fetched.records
            ]
            yield Part(str(tp.partition), items, fetched.end)

    def _item(self, record: Any, event: Event | DeadLetter) -> Item:
        if isinstance(event, DeadLetter):
            return Item(record.offset + 1, reason=event.reason.value)
        if not self._selection.has(event):
            return Item(record.offset + 1)
        received = received_at(record.headers, record.timestamp)
        headers = [*kept_headers(record.headers, _DROPPED), (RECEIVED_HEADER, format_exact_time(received).encode())]
        return Item(record.offset + 1, event, received, Outgoing(self._topic, event.booking_id, record.value, headers))


class Files:
    """Files of JSON lines, plain, gzip or zstd: of events, each of which counts as received at its own time, or of archives.

    A record of an archive counts as received when it first was. Its topic decides whether it is an event or a booking record,
    whatever prefix it had.
    """

    def __init__(self, settings: Settings, sizes: Mapping[str, int], selection: Selection) -> None:
        """
        Args:
            settings: of the system.
            sizes: bytes of each file, by its path.
            selection: what is replayed.

        Raises:
            ReplayError: a file is missing, or has another size.
        """
        for path, size in sizes.items():
            if (found := _size_of(path)) != size:
                raise ReplayError(f"{path}: has {found} bytes instead of {size}: it is not the file of this replay any more")
        self.bad_lines: dict[str, str] = {}
        """What is wrong with the first lines that cannot be used, by file and number."""
        self._settings = settings
        self._paths = list(sizes)
        self._selection = selection
        self._now_ms = time_ns() // 1_000_000

    @property
    def start(self) -> Position:
        return dict.fromkeys(self._paths, 0)

    async def read(self, position: Mapping[str, int]) -> AsyncIterator[Part]:
        for path in self._paths:
            number, chunks = position[path], _chunks(path, position[path])
            try:
                # nothing of a damaged file of an archive is published
                (file,) = find_sources([Path(path)])
                await asyncio.to_thread(check_file, file)
                while lines := await asyncio.to_thread(next, chunks, None):
                    items = [self._item(path, at, line, file.erased) for at, line in enumerate(lines, number + 1)]
                    number += len(lines)
                    yield Part(path, items, number)
            except ArchiveError as error:
                raise ReplayError(f"{error}; line {number} was the last that was read") from None
            finally:
                chunks.close()

    def _item(self, path: str, number: int, line: bytes, erased: ErasedBookings | None) -> Item:
        if not line.strip():
            return Item(number)
        where = f"{path}:{number}"
        if line.startswith(_ARCHIVED):
            return self._archived(where, number, line, erased)
        read = decode_event_line(line, where, self._settings, self._now_ms, backfill=True)
        if isinstance(read, BadLine):
            return self._bad(where, number, read.detail)
        outgoing, decoded = read
        if not self._selection.has(decoded):
            return Item(number)
        return Item(number, decoded, received_at(outgoing.headers, self._now_ms), outgoing)

    def _archived(self, where: str, number: int, line: bytes, erased: ErasedBookings | None) -> Item:
        try:
            record = decode_line(line)
        except ValueError as error:
            return self._bad(where, number, str(error))
        if erased is not None and erased.kept(record) is None:
            return Item(number)
        topics, (topic, decoded) = TopicNames.of(self._settings.topic_prefix), self._decoded(record)
        if isinstance(decoded, DeadLetter):
            return Item(number, reason=decoded.reason.value)
        if not self._selection.has(decoded):
            return Item(number)
        received = received_at(record.headers, record.timestamp)
        headers = [*kept_headers(record.headers, _DROPPED), (RECEIVED_HEADER, format_exact_time(received).encode())]
        target = topics.events if topic == "events" else topics.bookings
        return Item(number, decoded, received, Outgoing(target, decoded.booking_id, record.value, headers))

    def _decoded(self, record: ArchivedRecord) -> tuple[str, Event | Booking | BookingGone | DeadLetter]:
        """The kind of topic that a record is of, and what it holds."""
        kind = record.topic.rpartition(".")[2]
        if kind == "bookings":
            return kind, decode_booking(record.value, record.headers, record.key)
        max_age = micros(self._settings.max_event_age)
        return "events", decode(record.value, record.headers, record.timestamp, max_age=max_age)

    def _bad(self, where: str, number: int, detail: str) -> Item:
        reason, _, _ = detail.partition(":")
        if len(self.bad_lines) < _NAMED_LINES:
            self.bad_lines[where] = detail
        return Item(number, reason=reason if reason in _REASONS else Reason.INVALID_JSON.value, is_bad_line=True)


def count_unusable(items: Iterable[Item]) -> Counter[str]:
    """Records that cannot be used, by reason; the lines among them that are to be corrected as `BAD_LINES`."""
    counts = Counter[str]()
    for item in items:
        if item.reason:
            counts[f"dead {item.reason}"] += 1
        if item.is_bad_line:
            counts[BAD_LINES] += 1
    return counts


def sizes_of(paths: Iterable[str]) -> dict[str, int]:
    """Bytes of each file, by its absolute path; of a folder, those of the archive in it.

    Raises:
        ReplayError: one is missing, or no file.
        ArchiveError: a folder holds no archive.
    """
    files = [file for path in paths for file in (_files_of(path) if os.path.isdir(path) else [path])]
    return {os.path.abspath(path): _size_of(path) for path in files}


def _files_of(folder: str) -> list[str]:
    """The files of an archive: booking records first, so that events are judged by them."""
    files = [(each.path, each.file) for each in find_sources([Path(folder)])]
    return [
        str(path) for path, file in sorted(files, key=lambda each: each[1] is None or not each[1].topic.endswith(".bookings"))
    ]


def _size_of(path: str) -> int:
    try:
        found = os.stat(path)
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}: name a file of JSON lines, or the folder of an archive") from None
    if not stat.S_ISREG(found.st_mode):
        # it is read more than once, and on from a line
        raise ReplayError(f"{path}: is no file: write what it holds to one first")
    return found.st_size


def _chunks(path: str, skipped: int) -> Generator[list[bytes]]:
    """The lines of a file behind the first ``skipped``, some at a time."""
    chunk, size = list[bytes](), 0
    for line, length in islice(read_lines(Path(path)), skipped, None):
        chunk.append(line)
        size += length
        if len(chunk) == _LINES or size >= _LINES_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
