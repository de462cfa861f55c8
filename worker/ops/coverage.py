"""Whether topics and archives together reach back to the first record of each partition, and where each offset is read.

New tables are folded from the first record on. What a topic has deleted must be in an archive; offsets that neither has are
named, each range of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aiokafka import TopicPartition

from schemas.times import format_time
from worker.engine.log_reader import find_windows
from worker.kafka import committed_offsets, open_admin
from worker.ops.archive_format import ArchiveFile, Gap
from worker.ops.archive_reader import Source, find_sources
from worker.ops.partitions import partition_counts
from worker.ops.topics import TopicsError
from worker.settings import Settings
from worker.topics import TopicNames

#: Missing ranges that an error names; others are counted.
_MOST_NAMED = 20


class LoadError(Exception):
    """Tables cannot be loaded; the message says why and what to do."""


class Part(NamedTuple):
    """What is read of one partition of a topic."""

    begin: int
    """The first offset that the topic still has: what lies before it is read from archives."""
    end: int
    """What the group of the live tables has committed: others than the live workers read on from there."""
    files: Sequence[Source]
    """Files of archives with offsets before ``begin``, in their order. None is read in vain."""
    missing: Sequence[range] = ()
    """Offsets before ``begin`` that no file has."""


class Coverage(NamedTuple):
    """What is read of the events and the bookings topic."""

    parts: Mapping[TopicPartition, Part]

    @property
    def gaps(self) -> list[Gap]:
        """Offsets that neither topic nor archives have."""
        return [
            Gap(tp.topic, tp.partition, part.start, part.stop)
            for tp, each in sorted(self.parts.items())
            for part in each.missing
        ]

    @property
    def total(self) -> int:
        """Offsets to read; some have no record, after a compaction."""
        return sum(each.end for each in self.parts.values())

    @property
    def archived(self) -> int:
        """Of these, the offsets that are read from archives."""
        return sum(min(each.begin, each.end) for each in self.parts.values())

    @property
    def files(self) -> int:
        """Files of archives that are read."""
        return sum(len(each.files) for each in self.parts.values())

    @property
    def first_time(self) -> str:
        """When the earliest record of these files was received, RFC 3339; empty if none is read."""
        times = [source.file.first_timestamp for each in self.parts.values() for source in each.files if source.file]
        known = [time for time in times if time is not None]
        return format_time(min(known) * 1000) if known else ""

    def check(self) -> None:
        """Raises LoadError if some offsets are missing."""
        gaps = self.gaps
        if gaps:
            lines = [f"{gap} are neither in the topic nor in an archive" for gap in gaps[:_MOST_NAMED]]
            if len(gaps) > _MOST_NAMED:
                lines.append(f"and {len(gaps) - _MOST_NAMED} more ranges")
            cure = "name the archives that have them with --archives DIR; what nobody archived cannot be folded again"
            raise LoadError("\n".join([*lines, cure]))


async def find_coverage(source: Settings, archives: Sequence[Path]) -> Coverage:
    """What there is of both topics, up to what the group of the live tables has committed.

    Args:
        source: settings of the live tables.
        archives: folders of `attendance archive`, or files of them.

    Raises:
        LoadError: an archive goes further than its topic, which was created again.
        ArchiveError: a path is no archive, or its manifest cannot be read.
        TopicsError: a topic is missing, or has another number of partitions.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    topics, numbers = TopicNames.of(source.topic_prefix), range(source.partitions)
    names = (topics.events, topics.bookings)
    for topic, count in zip(names, await partition_counts(source, *names), strict=True):
        if count != source.partitions:
            raise TopicsError(f"ATTENDANCE_PARTITIONS: {topic} has {count} partitions: set this to {count}")
    tps = [TopicPartition(topic, number) for topic in names for number in numbers]
    # before the logs: what is committed has been read, so no log ends before it
    async with open_admin(source) as admin:
        committed = await committed_offsets(admin, source.group, tps)
    parts = {}
    for topic in names:
        logs, files = await find_windows(source.kafka_client(), topic, numbers), find_sources(archives, topic)
        for tp, log in logs.items():
            own = [each for each in files if each.file is not None and each.file.partition == tp.partition]
            parts[tp] = part_of(tp, log, committed.get(tp, log.start), own)
    return Coverage(parts)


def part_of(tp: TopicPartition, log: range, committed: int, files: Sequence[Source]) -> Part:
    """What is read of a partition.

    Args:
        tp: the partition.
        log: the offsets that the topic has.
        committed: by the live group.
        files: of archives, which have the partition, in any order.

    Raises:
        LoadError: a file ends behind the log.
    """
    needed, missing, at = list[Source](), list[range](), 0
    for source, file in sorted(((each, _described(each)) for each in files), key=lambda each: (each[1].begin, -each[1].end)):
        if file.end > log.stop:
            raise LoadError(
                f"{source.path}: goes to offset {file.end} of {tp.topic}, partition {tp.partition}, which ends at {log.stop}: "
                "the topic was created again; leave this archive out"
            )
        if file.end <= at or at >= log.start:
            continue
        if file.begin > at:
            missing.append(range(at, min(file.begin, log.start)))
        if file.begin < log.start:
            needed.append(source)
        at = max(at, file.end)
    if at < log.start:
        missing.append(range(at, log.start))
    return Part(log.start, max(committed, log.start), needed, missing)


def _described(source: Source) -> ArchiveFile:
    assert source.file is not None
    return source.file
