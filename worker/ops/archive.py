"""Writes topics, or windows of them, to an archive (`worker.ops.archive_format`): each run goes on where the manifest ends.

The manifest is what was done: an operation that was killed goes on with what the manifest does not name yet.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path

from aiokafka import TopicPartition

from worker.engine.log_reader import read_windows
from worker.ops.archive_erased import ErasedBookings
from worker.ops.archive_format import MANIFEST, Gap, KafkaRecord, unusable, write_manifest
from worker.ops.archive_plan import COMMAND, Plan, is_within, read_or_begin_manifest, requested, without_archived
from worker.ops.archive_writer import FileWriter
from worker.read_model.operations import Operations, Running, State
from worker.settings import Settings

#: Records that are written by one call in a thread.
_AT_ONCE = 1000

Progress = Callable[[int], None]
"""Called with the number of offsets that were archived so far."""


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
        self._manifest = read_or_begin_manifest(plan.folder)
        self._erased = ErasedBookings.of(self._manifest)
        self._counts["gaps"] = sum(is_within(gap, plan) for gap in self._manifest.gaps)
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
        file, at = self._new_file(tp, part.start), part.start
        try:
            async with aclosing(read_windows(self._settings.kafka_client(), {tp: part})) as reading:
                async for _, (begin, records, end) in reading:
                    if begin > at:
                        file = await self._skip(file, at, begin)
                    for chunk, at in _chunks(records, end):
                        await asyncio.to_thread(self._append, file, chunk)
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

    async def _skip(self, file: FileWriter, at: int, end: int) -> FileWriter:
        """Goes on behind offsets that the topic has lost."""
        tp = file.tp
        await self._finish(file, at)
        gap = Gap(tp.topic, tp.partition, at, end)
        self._manifest.gaps.append(gap)
        self._counts["gaps"] += 1
        await self._save_manifest()
        return self._new_file(tp, end)

    async def _finish(self, file: FileWriter, end: int) -> FileWriter:
        """Completes a file and names it in the manifest; the next one begins where it ends."""
        if end > file.begin:
            finished = await asyncio.to_thread(file.finish, end)
            self._manifest.files.append(finished)
            await self._save_manifest(file.paths)
            self._counts.update(records=finished.count, files=1, bytes=finished.size)
            self._position.setdefault(file.tp.topic, {})[str(file.tp.partition)] = end
            await self._save_position()
        return self._new_file(file.tp, end)

    def _new_file(self, tp: TopicPartition, begin: int) -> FileWriter:
        return FileWriter(self._plan.folder, self._plan.compression, tp, begin)

    def _append(self, file: FileWriter, records: Sequence[KafkaRecord]) -> None:
        file.append(records if self._erased is None else self._erased.all_kept(records))

    async def _save_position(self) -> None:
        await self._running.save(self._position, dict(self._counts))

    async def _save_manifest(self, finished: tuple[Path, Path] | None = None) -> None:
        try:
            await asyncio.to_thread(write_manifest, self._plan.folder, self._manifest, finished)
        except OSError as error:
            raise unusable(self._plan.folder / MANIFEST, error) from None


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


def _ends(plan: Plan) -> dict[str, dict[str, int]]:
    ends: dict[str, dict[str, int]] = {}
    for tp, parts in plan.missing.items():
        ends.setdefault(tp.topic, {})[str(tp.partition)] = parts[-1].stop
    return ends


async def _abort_same(operations: Operations, plan: Plan) -> None:
    """Ends interrupted archives of the folder if this one writes all that is left of them: nothing remains to resume."""
    for operation in await operations.all():
        if operation.state is State.PAUSED and operation.command == COMMAND and operation.target == plan.target:
            earlier = without_archived(requested(operation), read_or_begin_manifest(plan.folder))
            left = ((tp, part) for tp, parts in earlier.missing.items() for part in parts)
            if all(
                any(each.start <= part.start and part.stop <= each.stop for each in plan.missing.get(tp, ()))
                for tp, part in left
            ):
                await operations.abort(operation.id, COMMAND)
