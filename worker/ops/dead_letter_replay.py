"""Sends dead letters back to the topic they came from, as they are or mended in a file, and parks those that fail for ever.

What was sent is marked in Redis after Kafka has it. Where a replay dies in between, the same records are sent once more when
it is resumed: copies of one event count once. One that still cannot be used becomes a new dead letter, then perhaps two.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from schemas.events import OFFSET_HEADER, RECEIVED_HEADER, REPLAYS_HEADER, DeadLetter
from schemas.times import format_exact_time
from worker.engine.log_reader import Windows
from worker.kafka import Message, send_all
from worker.ops.dead_letter_files import EditedLetter, read_edited
from worker.ops.dead_letters import (
    Checkpoint,
    DeadLetterRecord,
    DeadLetters,
    Progress,
    Selected,
    Selection,
    place_of,
    windows_of,
)
from worker.ops.partitions import partition_counts
from worker.read_model.dead_letter_marks import Mark
from worker.stream.originals import kept_headers
from worker.topics import partition_of

#: One that was replayed so often, and became a dead letter each time, is parked instead.
MOST_REPLAYS = 3
#: Records that are sent before they are marked.
_AT_ONCE = 1_000
_DROPPED_HEADERS = frozenset({RECEIVED_HEADER, OFFSET_HEADER, REPLAYS_HEADER})


class Replay:
    """Replays dead letters: publishes, marks, and counts what it did."""

    def __init__(self, letters: DeadLetters, producer: AIOKafkaProducer, checkpoint: Checkpoint) -> None:
        self._letters = letters
        self._producer = producer
        self._checkpoint = checkpoint
        self._partitions: dict[str, int] = {}

    async def run(self, windows: Windows, selection: Selection, progress: Progress, stop: asyncio.Event) -> bool:
        """Replays what is selected in the windows; returns whether it is done, False if ``stop`` was set first.

        Raises:
            aiokafka.errors.KafkaError: one could not be sent.
            worker.read_model.operations.OperationError: another process has resumed this operation.
        """
        await self._open()
        done = 0
        async with aclosing(self._letters.select(windows, selection)) as parts:
            async for part in parts:
                if stop.is_set():
                    break
                await self._replay(part, {})
                self._checkpoint.position[str(part.tp.partition)] = part.end
                await self._checkpoint.save()
                done += part.end - part.begin
                progress(done)
        await self._checkpoint.save(at_once=True)
        return not stop.is_set()

    async def run_edited(
        self, path: Path, last_line: int, selection: Selection, progress: Progress, stop: asyncio.Event
    ) -> bool:
        """As `run`, but replays the dead letters of a file, with the values they have there, up to a line."""
        await self._open()
        position = self._checkpoint.position
        topic = self._letters.topics.dead_letters
        logs = await self._letters.windows(Selection())
        for batch in read_edited(path, position.get("line", 0), position.get("byte", 0), last_line):
            if stop.is_set():
                break
            windows = windows_of(topic, [place_of(each) for each in batch.edited], logs)
            present = 0
            async with aclosing(self._letters.select(windows, Selection(state=None))) as parts:
                async for part in parts:
                    wanted = [(record, state) for record, state in part.records if record.id in batch.edited]
                    present += len(wanted)
                    chosen = [each for each in wanted if selection.state is each[1] and selection.matches(each[0])]
                    self._checkpoint.counts["notSelected"] += len(wanted) - len(chosen)
                    await self._replay(part._replace(records=chosen), batch.edited)
            self._checkpoint.counts["absent"] += len(batch.edited) - present
            position |= {"line": batch.line, "byte": batch.byte}
            await self._checkpoint.save()
            progress(batch.line)
        await self._checkpoint.save(at_once=True)
        return not stop.is_set()

    async def _open(self) -> None:
        names = self._letters.topics.events, self._letters.topics.bookings
        self._partitions = dict(zip(names, await partition_counts(self._letters.settings, *names), strict=True))

    async def _replay(self, part: Selected, edited: Mapping[str, EditedLetter]) -> None:
        for start in range(0, len(part.records), _AT_ONCE):
            records = [record for record, _ in part.records[start : start + _AT_ONCE]]
            await self._replay_some(part, records, edited)

    async def _replay_some(
        self, part: Selected, records: Sequence[DeadLetterRecord], edited: Mapping[str, EditedLetter]
    ) -> None:
        messages, sent, parked = list[Message](), list[int](), list[int]()
        counts = self._checkpoint.counts
        for record in records:
            replays = 0 if part.marked.has(Mark.UNPARKED, record.offset) else record.replays
            mended = edited.get(record.id)
            if record.topic not in self._partitions:
                counts["otherTopic"] += 1
            elif record.truncated is not None and (mended is None or mended.value == record.value):
                counts["truncated"] += 1
            elif replays >= MOST_REPLAYS:
                parked.append(record.offset)
            else:
                outgoing = self._message(record, replays + 1, mended)
                counts["stillUnusable"] += outgoing.is_unusable
                messages.append(outgoing.message)
                sent.append(record.offset)
        await send_all(self._producer, messages)
        marks = self._letters.marks
        await marks.set(Mark.REPLAYED, part.tp.partition, sent)
        counts["replayed"] += len(sent)
        counts["parked"] += len(parked)
        if parked:
            # before they are marked: who resumes this finds them parked, and must still exit with 1
            await self._checkpoint.save(at_once=True)
        await marks.set(Mark.PARKED, part.tp.partition, parked)

    def _message(self, record: DeadLetterRecord, replays: int, mended: EditedLetter | None) -> "_Outgoing":
        """The record for the topic it came from, in the partition of its booking where that can be read."""
        key, value, headers = mended.applied_to(record) if mended else (record.key, record.value, record.headers)
        decoded = self._letters.decode(record, key, value, headers)
        count = self._partitions[record.topic]
        is_unusable = isinstance(decoded, DeadLetter)
        partition = record.origin_partition % count
        if not isinstance(decoded, DeadLetter):
            key, partition = decoded.booking_id.encode(), partition_of(decoded.booking_id, count)
        received = record.written if record.received is None else record.received
        sent = [
            *kept_headers(headers, _DROPPED_HEADERS),
            (RECEIVED_HEADER, format_exact_time(received).encode()),
            (REPLAYS_HEADER, b"%d" % replays),
        ]
        return _Outgoing(Message(record.topic, partition, key, value, sent), is_unusable)


class _Outgoing(NamedTuple):
    message: Message
    is_unusable: bool
    """Whether it will be a dead letter again."""


async def park(
    letters: DeadLetters,
    windows: Windows,
    selection: Selection,
    checkpoint: Checkpoint,
    progress: Progress,
    stop: asyncio.Event,
) -> bool:
    """Parks what is selected, or opens it again if ``selection`` is of parked ones; returns whether it is done.

    Raises:
        worker.read_model.operations.OperationError: another process has resumed this operation.
    """
    is_parked, done = selection.state == "parked", 0
    async with aclosing(letters.select(windows, selection)) as parts:
        async for part in parts:
            if stop.is_set():
                break
            number, offsets = part.tp.partition, [record.offset for record, _ in part.records]
            if is_parked:
                # in this order: one that is open again must have the mark that its replays do not count
                await letters.marks.set(Mark.UNPARKED, number, offsets)
                await letters.marks.clear(Mark.PARKED, number, offsets)
            else:
                await letters.marks.set(Mark.PARKED, number, offsets)
            checkpoint.counts["unparked" if is_parked else "parked"] += len(offsets)
            checkpoint.position[str(number)] = part.end
            await checkpoint.save()
            done += part.end - part.begin
            progress(done)
    await checkpoint.save(at_once=True)
    return not stop.is_set()
