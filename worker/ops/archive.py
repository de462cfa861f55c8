"""Writes topics, or windows of them, to an archive (`worker.ops.archive_format`): each run goes on where the manifest ends.

The manifest is what was done: an operation that was killed goes on with what the manifest does not name yet.
"""

import asyncio
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition

from schemas.times import format_time
from worker.engine.log_reader import find_windows, read_windows
from worker.ops import zstd
from worker.ops.archive_format import (
    MANIFEST,
    PARTIAL,
    ArchiveError,
    ArchiveFile,
    Gap,
    KafkaRecord,
    Manifest,
    encode_line,
    read_manifest,
    sync,
    unusable,
    write_manifest,
)
from worker.ops.partitions import partition_counts
from worker.read_model.operations import ENDED, Operation, OperationError, Operations, Running, State
from worker.settings import Settings
from worker.topics import TopicNames

COMMAND = "archive"
#: Size of a file, on disk, after which the next one is begun.
ROTATE_BYTES = 256 * 1024 * 1024
#: Records that are written by one call in a thread.
_AT_ONCE = 1000
#: Uncompressed bytes of a zstd frame: the reader decompresses whole frames.
_FRAME_BYTES = 1024 * 1024

Progress = Callable[[int], None]
"""Called with the number of offsets that were archived so far."""


class Compression(StrEnum):
    """Of an archive's files."""

    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"

    @property
    def ending(self) -> str:
        return {"zstd": ".zst", "gzip": ".gz", "none": ""}[self.value]


class Bound(NamedTuple):
    """Where a window begins or ends: a time in microseconds since the epoch, or an offset."""

    value: int
    is_time: bool

    def __str__(self) -> str:
        return format_time(self.value) if self.is_time else f"offset {self.value}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an archive will write."""

    folder: Path
    windows: Mapping[TopicPartition, range]
    """What was asked for, offsets that are archived already included."""
    compression: Compression = Compression.ZSTD
    rotate_bytes: int = ROTATE_BYTES
    gaps: Sequence[Gap] = ()
    """Offsets that the topics lost since the last archive."""
    missing: Mapping[TopicPartition, list[range]] = field(default_factory=dict)
    """The parts of the windows that are not archived yet."""

    @property
    def total(self) -> int:
        """Offsets that are not archived yet."""
        return sum(len(part) for parts in self.missing.values() for part in parts)

    @property
    def target(self) -> str:
        """The folder as operations name it."""
        return f"{socket.gethostname()}:{self.folder}"

    def request(self) -> dict[str, Any]:
        """What a later process needs to resume."""
        return {
            "folder": str(self.folder),
            "windows": [[*tp, window.start, window.stop] for tp, window in self.windows.items()],
            "compression": self.compression.value,
            "rotateBytes": self.rotate_bytes,
        }


async def make_plan(
    settings: Settings,
    folder: Path,
    topics: Sequence[str],
    begin: Bound | None = None,
    end: Bound | None = None,
    compression: Compression = Compression.ZSTD,
    rotate_bytes: int = ROTATE_BYTES,
) -> Plan:
    """Plans an archive of topics, up to what they hold now.

    Args:
        settings: of the broker.
        folder: of the archive, its absolute path.
        topics: their names.
        begin: of the window; None: of each partition where its archive ends, or what the topic still has.
        end: of the window; None: now.
        compression: of new files.
        rotate_bytes: see `ROTATE_BYTES`.

    Raises:
        ArchiveError: the folder's manifest cannot be used, or is of another topic.
        TopicsError: a topic is missing.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    manifest = _manifest(folder)
    windows: dict[TopicPartition, range] = {}
    gaps: list[Gap] = []
    for topic, partitions in zip(topics, await partition_counts(settings, *topics), strict=True):
        available = await find_windows(settings.kafka_client(), topic, range(partitions))
        begins = {tp: window.start for tp, window in available.items()}
        ends = {tp: window.stop for tp, window in available.items()}
        if begin is not None:
            found = await find_windows(settings.kafka_client(), topic, range(partitions), begin.value, by_time=begin.is_time)
            begins = {tp: window.start for tp, window in found.items()}
        if end is not None:
            found = await find_windows(settings.kafka_client(), topic, range(partitions), None, end.value, by_time=end.is_time)
            ends = {tp: min(ends[tp], window.stop) for tp, window in found.items()}
        for tp in available:
            if covered := manifest.covered(*tp):
                archived = covered[-1].stop
                if archived > available[tp].stop:
                    raise ArchiveError(
                        f"{folder}: its {MANIFEST} goes to offset {archived} of {topic}, partition {tp.partition}, which ends "
                        f"at {available[tp].stop}: the topic was created again; archive it to another folder"
                    )
                if begin is None and archived < begins[tp] <= ends[tp]:
                    gaps.append(Gap(topic, tp.partition, archived, begins[tp]))
                if begin is None:
                    begins[tp] = archived
            windows[tp] = range(begins[tp], max(begins[tp], ends[tp]))
    return _without_archived(Plan(folder, windows, compression, rotate_bytes, gaps), manifest)


def plan_of(operation: Operation) -> Plan:
    """What is left of the plan of an operation that was interrupted.

    Raises:
        OperationError: it cannot be resumed here.
        ArchiveError: the folder's manifest cannot be used.
    """
    if operation.command != COMMAND:
        raise OperationError(f"{operation.id} is of `attendance {operation.command}`: resume it there")
    if operation.state in ENDED:
        raise OperationError(f"{operation.id} is {operation.state}: there is nothing to resume")
    plan = _requested(operation)
    if operation.target != plan.target:
        raise OperationError(f"{operation.id} archives to {operation.target}: resume it on that machine")
    return _without_archived(plan, _manifest(plan.folder))


async def begin(operations: Operations, plan: Plan) -> Running:
    """Begins the operation of a plan; interrupted ones of which nothing would be left to do are aborted.

    Raises:
        OperationError: another operation works on the folder.
    """
    await _abort_same(operations, plan)
    return await operations.begin(COMMAND, plan.target, plan.request(), _ends(plan))


async def write(settings: Settings, plan: Plan, running: Running, progress: Progress, stop: asyncio.Event) -> bool:
    """Writes what is planned; the caller holds `archive_format.locked` of the folder.

    Args:
        settings: of the broker.
        plan: of this run.
        running: the operation, whose position and counts are saved.
        progress: see `Progress`.
        stop: ends early, with what was read until then.

    Returns:
        Whether all is written; False if it was stopped first.

    Raises:
        ArchiveError: a file cannot be written.
        OperationError: another process has resumed the operation.
        aiokafka.errors.KafkaError, worker.engine.log_reader.LogUnreadable: a topic cannot be read.
    """
    return await _Run(settings, plan, running, progress, stop).write()


def gaps_of(plan: Plan) -> list[Gap]:
    """Offsets of a plan that the topics lost before they were archived, as the manifest has them.

    Raises:
        ArchiveError: the manifest cannot be used.
    """
    return [gap for gap in _manifest(plan.folder).gaps if _is_within(gap, plan)]


class _Run:
    """One process' part of an operation."""

    def __init__(self, settings: Settings, plan: Plan, running: Running, progress: Progress, stop: asyncio.Event) -> None:
        self._settings = settings
        self._plan = plan
        self._progress = progress
        self._stop = stop
        self._running = running
        done = running.operation
        self._position: dict[str, dict[str, int]] = {topic: dict(ends) for topic, ends in done.position.items()}
        self._counts = Counter({name: done.counts.get(name, 0) for name in ("records", "files", "bytes")})
        self._manifest = _manifest(plan.folder)
        self._counts["gaps"] = sum(_is_within(gap, plan) for gap in self._manifest.gaps)
        self._passed = 0

    async def write(self) -> bool:
        # written first: a folder with files and without a manifest has lost it
        await self._save_manifest()
        await self._save_position()
        for tp, parts in sorted(self._plan.missing.items()):
            for part in parts:
                if self._stop.is_set() or not await self._write_part(tp, part):
                    return False
        return True

    async def _write_part(self, tp: TopicPartition, part: range) -> bool:
        """Writes some offsets of a partition, to one file or several; returns whether it has reached their end."""
        file, at = _FileWriter(self._plan, tp, part.start), part.start
        try:
            async with aclosing(read_windows(self._settings.kafka_client(), {tp: part})) as reading:
                async for _, (begin, records, end) in reading:
                    if begin > at:
                        file = await self._skip(file, at, begin)
                    for chunk, at in _chunks(records, end):
                        await asyncio.to_thread(file.append, chunk)
                        if file.size >= self._plan.rotate_bytes:
                            file = await self._finish(file, at)
                    self._progress(self._passed + at - part.start)
                    if self._stop.is_set():
                        break
                else:
                    if at < part.stop:
                        file = await self._skip(file, at, part.stop)
                        at = part.stop
            await self._finish(file, at)
        except OSError as error:
            raise unusable(self._plan.folder, error) from None
        finally:
            file.discard()
        self._passed += at - part.start
        self._progress(self._passed)
        return at == part.stop

    async def _skip(self, file: "_FileWriter", at: int, end: int) -> "_FileWriter":
        """Goes on behind offsets that the topic has lost."""
        tp = file.tp
        await self._finish(file, at)
        gap = Gap(tp.topic, tp.partition, at, end)
        self._manifest.gaps.append(gap)
        self._counts["gaps"] += 1
        await self._save_manifest()
        return _FileWriter(self._plan, tp, end)

    async def _finish(self, file: "_FileWriter", end: int) -> "_FileWriter":
        """Completes a file and names it in the manifest; the next one begins where it ends."""
        if end > file.begin:
            finished = await asyncio.to_thread(file.finish, end)
            self._manifest.files.append(finished)
            await self._save_manifest(file.paths)
            self._counts.update(records=finished.count, files=1, bytes=finished.size)
            self._position.setdefault(file.tp.topic, {})[str(file.tp.partition)] = end
            await self._save_position()
        return _FileWriter(self._plan, file.tp, end)

    async def _save_position(self) -> None:
        await self._running.save(self._position, dict(self._counts))

    async def _save_manifest(self, finished: tuple[Path, Path] | None = None) -> None:
        try:
            await asyncio.to_thread(write_manifest, self._plan.folder, self._manifest, finished)
        except OSError as error:
            raise unusable(self._plan.folder / MANIFEST, error) from None


class _FileWriter:
    """Writes one file of an archive. Created when its first records come, or when it is finished without any."""

    def __init__(self, plan: Plan, tp: TopicPartition, begin: int) -> None:
        self.tp = tp
        self.begin = begin
        self.size = 0
        self._path = plan.folder / f"{tp.topic}-{tp.partition}-{begin:020}.jsonl{plan.compression.ending}"
        self._partial = self._path.with_name(self._path.name + PARTIAL)
        self._file: Any = None
        self._compressor = _COMPRESSORS[plan.compression]()
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
        self._write(self._compressor.compress(b"".join(map(encode_line, records))))
        if records:
            times = [record.timestamp for record in records]
            self._first = min(times) if self._first is None else min(self._first, *times)
            self._last = max(times) if self._last is None else max(self._last, *times)
            self._count += len(records)

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


def _chunks(records: Sequence[KafkaRecord], end: int) -> Iterator[tuple[Sequence[KafkaRecord], int]]:
    """Records in chunks, each with the offset up to which it goes; without records one empty chunk."""
    following = iter(records)
    chunk = list(islice(following, _AT_ONCE))
    while True:
        after = list(islice(following, _AT_ONCE))
        yield chunk, after[0].offset if after else end
        if not after:
            return
        chunk = after


def _manifest(folder: Path) -> Manifest:
    """The manifest of a folder; an empty one if the folder has neither one nor files."""
    manifest = read_manifest(folder)
    if manifest is None and any(folder.glob("*.jsonl*")):
        raise ArchiveError(f"{folder}: has files, but no {MANIFEST}: restore it from a copy, or archive to another folder")
    return manifest or Manifest()


def _without_archived(plan: Plan, manifest: Manifest) -> Plan:
    """The plan with what the manifest does not cover."""
    missing = {}
    for tp, window in plan.windows.items():
        parts, at = [], window.start
        for covered in manifest.covered(*tp):
            if at < min(covered.start, window.stop):
                parts.append(range(at, min(covered.start, window.stop)))
            at = max(at, covered.stop)
        if at < window.stop:
            parts.append(range(at, window.stop))
        if parts:
            missing[tp] = parts
    return Plan(plan.folder, plan.windows, plan.compression, plan.rotate_bytes, plan.gaps, missing)


def _is_within(gap: Gap, plan: Plan) -> bool:
    window = plan.windows.get(TopicPartition(gap.topic, gap.partition), range(0))
    return window.start <= gap.begin and gap.end <= window.stop


def _ends(plan: Plan) -> dict[str, dict[str, int]]:
    ends: dict[str, dict[str, int]] = {}
    for tp, parts in plan.missing.items():
        ends.setdefault(tp.topic, {})[str(tp.partition)] = parts[-1].stop
    return ends


async def _abort_same(operations: Operations, plan: Plan) -> None:
    """Ends interrupted archives of the folder if this one writes all that is left of them: nothing remains to resume."""
    for operation in await operations.all():
        if operation.state is State.PAUSED and operation.command == COMMAND and operation.target == plan.target:
            earlier = _without_archived(_requested(operation), _manifest(plan.folder))
            left = ((tp, part) for tp, parts in earlier.missing.items() for part in parts)
            if all(
                any(each.start <= part.start and part.stop <= each.stop for each in plan.missing.get(tp, ()))
                for tp, part in left
            ):
                await operations.abort(operation.id, COMMAND)


def _requested(operation: Operation) -> Plan:
    request = operation.request
    return Plan(
        Path(request["folder"]),
        {TopicPartition(topic, number): range(begin, end) for topic, number, begin, end in request["windows"]},
        Compression(request["compression"]),
        request["rotateBytes"],
    )


def topic_names(settings: Settings, kinds: Sequence[str]) -> list[str]:
    """The names of the topics of these kinds, of ``events`` and ``bookings``."""
    return [getattr(TopicNames.of(settings.topic_prefix), kind) for kind in kinds]
