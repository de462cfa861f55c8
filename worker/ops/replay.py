"""Re-applies events: a window of the events topic, or files of JSON lines, is published again into the live system.

Each event keeps the time of its first reception, so the law of the fold makes it harmless: what was applied before changes
nothing, and what is published twice counts once.
"""

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic, time_ns
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError

from schemas.decoding.explain import decode, decode_all, decode_booking, received_at
from schemas.events import BACKFILL_HEADER, RECEIVED_HEADER, Booking, BookingGone, DeadLetter, Event, Reason
from schemas.times import format_exact_time
from worker.durations import micros
from worker.engine.log_reader import find_windows, read_windows
from worker.kafka import open_admin
from worker.ops.archive_format import ArchivedRecord, ArchiveError, decode_line
from worker.ops.archive_reader import check_file, find_sources, read_lines
from worker.ops.partitions import committed_offsets, partition_counts
from worker.ops.publish import BadLine, Outgoing, decode_event_line, send
from worker.ops.topics import TopicsError
from worker.read_model.operations import Running
from worker.settings import Settings
from worker.stream.group import has_members
from worker.stream.originals import POSITION_HEADERS, kept_headers
from worker.topics import TopicNames, partition_of

#: Events that are published between two looks at the clock, and at the stop.
_AT_ONCE = 1_000
#: How often the position is saved, seconds.
_SAVE_SECONDS = 1.0
#: Lines of a file that are read together: so many, or so many bytes.
_LINES, _LINES_BYTES = 2_000, 4 * 1024 * 1024
#: Bad lines that are named; others are only counted.
_NAMED_LINES = 20
#: How a line of an archive begins; an event begins with one of its own attributes.
_ARCHIVED = b'{"topic":'
_REASONS = frozenset(reason.value for reason in Reason)
NOTHING = Outgoing("", "", b"", ())
_DROPPED = POSITION_HEADERS | {BACKFILL_HEADER}

Position = dict[str, int]
"""Of each partition (its number) or file (its path), up to where all is done: an offset, or a number of lines."""
Progress = Callable[[int], None]
"""Called with the number of records read so far."""


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


class Bound(NamedTuple):
    """One end of a window: a time in microseconds since the epoch, or an offset, the same in each partition."""

    value: int
    is_time: bool


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
            records = fetched.records
            decoded = decode_all(records, max_age=max_age)
            items = [self._item(record, event) for record, event in zip(records, decoded, strict=True)]
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
                    items = [self._item(path, at, line) for at, line in enumerate(lines, number + 1)]
                    number += len(lines)
                    yield Part(path, items, number)
            except ArchiveError as error:
                raise ReplayError(f"{error}; line {number} was the last that was read") from None
            finally:
                chunks.close()

    def _item(self, path: str, number: int, line: bytes) -> Item:
        if not line.strip():
            return Item(number)
        where = f"{path}:{number}"
        if line.startswith(_ARCHIVED):
            return self._archived(where, number, line)
        read = decode_event_line(line, where, self._settings, self._now_ms, backfill=True)
        if isinstance(read, BadLine):
            return self._bad(where, number, read.detail)
        outgoing, decoded = read
        if not self._selection.has(decoded):
            return Item(number)
        return Item(number, decoded, received_at(outgoing.headers, self._now_ms), outgoing)

    def _archived(self, where: str, number: int, line: bytes) -> Item:
        try:
            record = decode_line(line)
        except ValueError as error:
            return self._bad(where, number, str(error))
        topics, (topic, decoded) = TopicNames.of(self._settings.topic_prefix), self._decoded(record)
        if isinstance(decoded, DeadLetter):
            return self._bad(where, number, f"{decoded.reason}: {decoded.detail}")
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
        return Item(number, reason=reason if reason in _REASONS else Reason.INVALID_JSON.value)


async def find_topic_window(
    settings: Settings, begin: Bound | None, end: Bound | None, selection: Selection
) -> tuple[TopicWindow, int]:
    """The window, and how many records after it the workers have not read yet.

    It ends at the offsets that the group has committed: what comes after them is read by the workers anyway.
    """
    topic, client = TopicNames.of(settings.topic_prefix).events, settings.kafka_client()
    partitions = {partition_of(name, settings.partitions) for name in selection.bookings} or range(settings.partitions)
    committed = await _committed(settings)
    begins, ends, logs = [
        await find_windows(client, topic, partitions, *between, by_time=bool(bound and bound.is_time))
        for bound, between in (
            (begin, (begin and begin.value, None)),
            (end, (None, end and end.value)),
            (None, (None, None)),
        )
    ]
    windows, unread = {}, 0
    for tp, log in logs.items():
        known = max(log.start, committed.get(tp, log.start))
        unread += max(0, log.stop - known)
        start = begins[tp].start
        windows[tp.partition] = range(start, max(start, min(ends[tp].stop, known)))
    return TopicWindow(settings, windows, selection), unread


async def publish_again(source: Source, running: Running, producer: AIOKafkaProducer, control: "Control") -> bool:
    """Publishes what the source has from the operation's position on; returns whether it has reached the end.

    Args:
        source: where to read.
        running: the operation, whose position and counts are saved.
        producer: a started producer.
        control: rate, stop and progress.

    Raises:
        ReplayError: a file cannot be read.
        OperationError: another process has resumed the operation.
        aiokafka.errors.KafkaError: not all is (known to be) published; a `resume` publishes it again, which is harmless.
    """
    position: Position = dict(running.operation.position) or source.start
    counts = Counter(dict(running.operation.counts))
    header = (BACKFILL_HEADER, running.operation.id.encode())
    saved = monotonic()

    async def save(*, now: bool = False) -> None:
        nonlocal saved
        if now or monotonic() - saved >= _SAVE_SECONDS:
            saved = monotonic()
            await running.save(position, counts)
            control.progress(counts["read"])

    async for part in source.read(dict(position)):
        for items in control.portions(part.items):
            sent = [
                item.outgoing._replace(headers=[*item.outgoing.headers, header]) for item in items if item.decoded is not None
            ]
            if sent:
                await send(producer, sent)
            counts["read"] += len(items)
            counts["published"] += len(sent)
            counts.update(f"dead {item.reason}" for item in items if item.reason)
            position[part.name] = items[-1].next
            await control.pace(len(sent), save)
            if control.stop.is_set():
                await save(now=True)
                return False
        position[part.name] = part.end
        await save()
    await save(now=True)
    return True


class Control:
    """How a replay goes: how fast, until when, and who hears of it.

    Args:
        stop: ends it early.
        progress: how many records are read.
        rate: events per second; 0: as fast as possible.
    """

    def __init__(self, stop: asyncio.Event, progress: Progress, rate: float = 0) -> None:
        self.stop = stop
        self.progress = progress
        self._rate = rate
        self._due = monotonic()

    def portions(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """The items in portions of at most a second's events."""
        size = max(1, min(_AT_ONCE, int(self._rate))) if self._rate else _AT_ONCE
        return [items[at : at + size] for at in range(0, len(items), size)]

    async def pace(self, count: int, save: Callable[[], Awaitable[None]]) -> None:
        """Waits as long as the rate asks for after so many events, and saves meanwhile."""
        await save()
        if self._rate:
            now = monotonic()
            self._due = max(self._due, now - 1) + count / self._rate
            while (left := self._due - monotonic()) > 0 and not self.stop.is_set():
                try:
                    await asyncio.wait_for(self.stop.wait(), min(left, _SAVE_SECONDS))
                except TimeoutError:
                    await save()


async def reset_offsets(settings: Settings, begin: Bound | None) -> dict[int, int]:
    """Commits for the group, in every partition of the events topic, the first offset or that of ``begin``.

    Returns the offsets by partition.

    Raises:
        ReplayError: the group has members.
    """
    topic = TopicNames.of(settings.topic_prefix).events
    refusal = ReplayError(
        f"the group {settings.topic_prefix} has members: stop all workers, wait until Kafka has forgotten those that "
        f"died ({settings.session_timeout.total_seconds():.0f} s), then reset again"
    )
    await _committed(settings)
    if await has_members(settings):
        raise refusal
    client, by_time = settings.kafka_client(), bool(begin and begin.is_time)
    begins = await find_windows(client, topic, range(settings.partitions), begin and begin.value, by_time=by_time)
    logs = await find_windows(client, topic, range(settings.partitions))
    # an offset behind the end would have the worker read everything
    windows = {tp: range(min(begins[tp].start, log.stop), log.stop) for tp, log in logs.items()}
    consumer = AIOKafkaConsumer(**settings.kafka_client(), group_id=settings.topic_prefix, enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign(list(windows))
        # of a group with members the broker refuses this commit, since it is no member's
        await consumer.commit({tp: window.start for tp, window in windows.items()})
    except (CommitFailedError, UnknownMemberIdError, IllegalGenerationError):
        raise refusal from None
    finally:
        await consumer.stop()
    return {tp.partition: window.start for tp, window in windows.items()}


async def _committed(settings: Settings) -> dict[TopicPartition, int]:
    """The offsets that the group has committed.

    Raises:
        TopicsError: there is no events topic, or it has another number of partitions.
    """
    topic = TopicNames.of(settings.topic_prefix).events
    # the client waits 40 s for the offsets of a topic that is missing
    (count,) = await partition_counts(settings, topic)
    if count != settings.partitions:
        raise TopicsError(f"ATTENDANCE_PARTITIONS: {topic} has {count} partitions: set this to {count}")
    async with open_admin(settings) as admin:
        return await committed_offsets(admin, settings.topic_prefix, [TopicPartition(topic, each) for each in range(count)])


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
