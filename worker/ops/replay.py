"""Re-applies events: a window of the events topic, or files of JSON lines, is published again into the live system.

Each event keeps the time of its first reception, so the law of the fold makes it harmless: what was applied before changes
nothing, and what is published twice counts once.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError

from schemas.events import BACKFILL_HEADER
from worker.engine.log_reader import find_windows
from worker.kafka import committed_offsets, open_admin
from worker.ops.partitions import partition_counts
from worker.ops.publish import send
from worker.ops.replay_sources import Item, Position, ReplayError, Selection, Source, TopicWindow, count_unusable
from worker.ops.topics import TopicsError
from worker.read_model.operations import Running
from worker.settings import Settings
from worker.stream.group import count_members
from worker.tasks import uncancelled
from worker.topics import TopicNames, partition_of

#: Events that are published between two looks at the clock, and at the stop.
_AT_ONCE = 1_000

#: How often the position is saved, seconds.
_SAVE_SECONDS = 1.0

Progress = Callable[[int], None]
"""Called with the number of records read so far."""


class Bound(NamedTuple):
    """One end of a window: a time in microseconds since the epoch, or an offset, the same in each partition."""

    value: int
    is_time: bool


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
            counts.update(count_unusable(items))
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
        f"the group {settings.group} has members: stop all workers, wait until Kafka has forgotten those that "
        f"died ({settings.session_timeout.total_seconds():.0f} s), then reset again"
    )
    await _committed(settings)
    if await count_members(settings):
        raise refusal
    client, by_time = settings.kafka_client(), bool(begin and begin.is_time)
    begins = await find_windows(client, topic, range(settings.partitions), begin and begin.value, by_time=by_time)
    logs = await find_windows(client, topic, range(settings.partitions))
    # an offset behind the end would have the worker read everything
    windows = {tp: range(min(begins[tp].start, log.stop), log.stop) for tp, log in logs.items()}
    consumer = AIOKafkaConsumer(**settings.kafka_client(), group_id=settings.group, enable_auto_commit=False)
    try:
        await uncancelled(consumer.start())
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
        return await committed_offsets(admin, settings.group, [TopicPartition(topic, each) for each in range(count)])
