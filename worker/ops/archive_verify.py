"""Compares an archive with its manifest, and with what the topics still hold."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from worker.engine.log_reader import LogUnreadable, find_windows, read_windows
from worker.ops.archive import Progress
from worker.ops.archive_erased import ErasedBookings
from worker.ops.archive_format import PARTIAL, ArchivedRecord, ArchiveError, ArchiveFile, Gap, Manifest, read_manifest
from worker.ops.archive_reader import BadLine, Source, check_file, read_source
from worker.ops.partitions import partition_counts
from worker.ops.topics import TopicsError
from worker.settings import Settings
from worker.topics import TopicNames

#: Problems that are kept; all are counted.
MOST_PROBLEMS = 100
_AT_ONCE = 5000


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is wrong."""

    files: int = 0
    records: int = 0
    compared: int = 0
    """Records that the topic still has."""
    gaps: list[Gap] = field(default_factory=list)
    """Those that the manifest records; they are no problems of the archive."""
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    """The first of them, a line each."""
    is_stopped: bool = False

    def add(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


async def verify(
    settings: Settings, folder: Path, progress: Progress, stop: asyncio.Event, *, with_topics: bool = True
) -> Verified:
    """Verifies an archive: sizes, hashes, counts, times, offsets; and that the records are those of the topics.

    Args:
        settings: of the broker.
        folder: of the archive.
        progress: called with the number of records that were looked at so far.
        stop: ends early.
        with_topics: compare with the topics; without it the files alone are read.

    Raises:
        ArchiveError: there is no manifest, or it cannot be read.
        aiokafka.errors.KafkaError, worker.engine.log_reader.LogUnreadable: a topic cannot be read.
    """
    # before the manifest: a running archive names a file no later than the file is there
    names = _names(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArchiveError(f"{folder}: no archive, since it has no manifest: name a folder of `attendance archive`")
    verified = Verified(gaps=manifest.gaps)
    _find_surplus(folder, names, manifest, verified)
    available = await _available(settings, manifest) if with_topics else {}
    erased = ErasedBookings.of(manifest)
    compacted = TopicNames.of(settings.topic_prefix).bookings
    for (topic, partition), files in groupby(manifest.in_order(), key=lambda file: (file.topic, file.partition)):
        # in a thread: it reads the first file
        check = await asyncio.to_thread(
            _PartitionCheck, folder, list(files), verified, stop.is_set, may_lack=topic == compacted, erased=erased
        )
        tp = TopicPartition(topic, partition)
        for run in check.runs() if tp in available else ():
            window = range(max(run.start, available[tp].start), min(run.stop, available[tp].stop))
            try:
                async with aclosing(read_windows(settings.kafka_client(), {tp: window})) as reading:
                    async for _, (begin, records, end) in reading:
                        await asyncio.to_thread(check.compare, begin, records, end)
                        progress(verified.records)
                        if stop.is_set():
                            break
            except LogUnreadable as error:
                raise ArchiveError(f"{error}, or verify with --no-topic") from None
        while not stop.is_set() and await asyncio.to_thread(check.read_on):
            progress(verified.records)
    verified.is_stopped = stop.is_set()
    return verified


class _PartitionCheck:
    """The files of one partition, read once in the order of their offsets."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[ArchiveFile],
        verified: Verified,
        stop: Callable[[], bool],
        *,
        may_lack: bool,
        erased: ErasedBookings | None = None,
    ) -> None:
        self._folder = folder
        self._files = files
        self._erased = erased
        self._verified = verified
        self._stop = stop
        self._may_lack = may_lack
        """Whether the topic is compacted: it may lack records that the archive has."""
        self._unreadable: set[str] = set()
        self._records = self._read()
        self._next = next(self._records, None)

    def runs(self) -> list[range]:
        """The offsets of the files, those that follow on joined."""
        runs: list[range] = []
        for file in self._files:
            if runs and file.begin <= runs[-1].stop:
                runs[-1] = range(runs[-1].start, max(runs[-1].stop, file.end))
            else:
                runs.append(range(file.begin, file.end))
        return runs

    def compare(self, begin: int, records: Sequence[Any], end: int) -> None:
        """Compares with records of the topic: all that exist at the offsets [begin, end)."""
        for record in records if self._erased is None else self._erased.all_kept(records):
            self._pass(begin, record.offset)
            if self._next is not None and self._next.offset == record.offset:
                self._verified.compared += 1
                if fields := _differences(self._next, record):
                    self._add(record, f"{', '.join(fields)} differs from the topic's")
                self._advance()
            elif self._is_covered(record.offset):
                self._add(record, "the archive lacks this record of the topic")
        self._pass(begin, end)

    def read_on(self) -> bool:
        """Reads some records that the topic does not have; False at the end."""
        for _ in range(_AT_ONCE):
            if self._next is None:
                return False
            self._advance()
        return True

    def _pass(self, begin: int, end: int) -> None:
        while self._next is not None and self._next.offset < end:
            if self._next.offset >= begin and not self._may_lack:
                self._add(self._next, "the topic has no record at this offset: it was created again, or is another one")
            self._advance()

    def _advance(self) -> None:
        self._next = next(self._records, None)

    def _is_covered(self, offset: int) -> bool:
        index = bisect_right(self._files, offset, key=lambda file: file.begin) - 1
        file = self._files[index]
        return file.begin <= offset < file.end and file.name not in self._unreadable

    def _add(self, record: Any, problem: str) -> None:
        self._verified.add(f"{record.topic}, partition {record.partition}, offset {record.offset}: {problem}")

    def _read(self) -> Iterator[ArchivedRecord]:
        """The records of the files, each file compared with the manifest; of one that differs the problem alone."""
        end = 0
        for file in self._files:
            if self._stop():
                return
            self._verified.files += 1
            source = Source(self._folder / file.name, file)
            if file.begin < end:
                self._verified.add(f"{source.path}: begins at offset {file.begin}, before the end of the file before it, {end}")
            end = max(end, file.end)
            try:
                check_file(source, self._stop)
                yield from self._read_file(source, file)
            except ArchiveError as error:
                self._unreadable.add(file.name)
                self._verified.add(str(error))

    def _read_file(self, source: Source, file: ArchiveFile) -> Iterator[ArchivedRecord]:
        last, count = file.begin - 1, 0
        first_time: int | None = None
        last_time: int | None = None
        for line, record in read_source(source, check=False):
            if self._stop():
                return
            if isinstance(record, BadLine):
                self._verified.add(f"{source.path}:{line}: {record.detail}")
                continue
            count += 1
            self._verified.records += 1
            is_there = (record.topic, record.partition) == (file.topic, file.partition)
            if not is_there or not last < record.offset < file.end:
                where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
                self._verified.add(f"{source.path}:{line}: {where} does not belong here, behind offset {last}")
                continue
            last = record.offset
            first_time = record.timestamp if first_time is None else min(first_time, record.timestamp)
            last_time = record.timestamp if last_time is None else max(last_time, record.timestamp)
            if self._erased is not None and self._erased.kept(record) is not record:
                self._verified.add(
                    f"{source.path}:{line}: names a booking that was erased: erase it again with "
                    "`attendance erase --booking ID --archives FOLDER`"
                )
                continue
            yield record
        if (count, first_time, last_time) != (file.count, file.first_timestamp, file.last_timestamp):
            self._verified.add(
                f"{source.path}: has {count} records, of the times {first_time} to {last_time}, unlike its manifest"
            )


def _differences(archived: ArchivedRecord, record: Any) -> list[str]:
    """The names of the fields in which a record differs from the topic's."""
    value = record.value
    if archived.is_cut and value is not None and archived.value is not None:
        value = value[: len(archived.value)]
    pairs = {
        "timestamp": (archived.timestamp, record.timestamp),
        "key": (archived.key, record.key),
        "value": (archived.value, value),
        "headers": ([tuple(header) for header in archived.headers], [tuple(header) for header in record.headers]),
    }
    return [name for name, (ours, theirs) in pairs.items() if ours != theirs]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jsonl*"))


def _find_surplus(folder: Path, names: Sequence[str], manifest: Manifest, verified: Verified) -> None:
    """Names files that the manifest does not name."""
    known = {file.name for file in manifest.files}
    surplus = [name for name in names if name not in known and not name.endswith(PARTIAL)]
    for name in islice(surplus, MOST_PROBLEMS):
        verified.add(f"{folder / name}: the manifest does not name it: remove it, or restore the manifest that does")


async def _available(settings: Settings, manifest: Manifest) -> dict[TopicPartition, range]:
    """The offsets that the topics of an archive still have; without those of topics that are gone."""
    available: dict[TopicPartition, range] = {}
    for topic in sorted({file.topic for file in manifest.files}):
        try:
            (count,) = await partition_counts(settings, topic)
        except TopicsError:
            continue
        available |= await find_windows(settings.kafka_client(), topic, range(count))
    return available
