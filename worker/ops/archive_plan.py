"""Plans archives: the offsets of topics that a folder does not have yet."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from schemas.times import format_time
from worker.engine.log_reader import find_windows
from worker.ops.archive_format import MANIFEST, ArchiveError, Gap, Manifest, read_manifest
from worker.ops.partitions import partition_counts
from worker.read_model.operations import ENDED, Operation, OperationError
from worker.settings import Settings
from worker.topics import TopicNames

COMMAND = "archive"

#: Size of a file, on disk, after which the next one is begun.
ROTATE_BYTES = 256 * 1024 * 1024


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
    manifest = read_or_begin_manifest(folder)
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
    return without_archived(Plan(folder, windows, compression, rotate_bytes, gaps), manifest)


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
    plan = requested(operation)
    if operation.target != plan.target:
        raise OperationError(f"{operation.id} archives to {operation.target}: resume it on that machine")
    return without_archived(plan, read_or_begin_manifest(plan.folder))


def gaps_of(plan: Plan) -> list[Gap]:
    """Offsets of a plan that the topics lost before they were archived, as the manifest has them.

    Raises:
        ArchiveError: the manifest cannot be used.
    """
    return [gap for gap in read_or_begin_manifest(plan.folder).gaps if is_within(gap, plan)]


def read_or_begin_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; an empty one if the folder has neither one nor files."""
    manifest = read_manifest(folder)
    if manifest is None and any(folder.glob("*.jsonl*")):
        raise ArchiveError(f"{folder}: has files, but no {MANIFEST}: restore it from a copy, or archive to another folder")
    return manifest or Manifest()


def without_archived(plan: Plan, manifest: Manifest) -> Plan:
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


def is_within(gap: Gap, plan: Plan) -> bool:
    window = plan.windows.get(TopicPartition(gap.topic, gap.partition), range(0))
    return window.start <= gap.begin and gap.end <= window.stop


def requested(operation: Operation) -> Plan:
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
