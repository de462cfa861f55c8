"""Reads the dead letters: which there are, where they come from, and what became of them.

A dead letter is named by its own place in the topic, ``partition:offset``. What became of it is kept in Redis, see
`worker.read_model.dead_letter_marks`.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from schemas.decoding.explain import decode, decode_booking, received_at
from schemas.decoding.readable import booking_of, document_of, source_of
from schemas.events import REPLAYS_HEADER, Booking, BookingGone, DeadLetter, Event
from schemas.times import format_time, parse_time
from worker.durations import micros
from worker.engine.log_reader import Windows, find_windows, read_windows
from worker.ops.partitions import partition_counts
from worker.read_model.dead_letter_marks import DeadLetterMarks, Mark, Marked
from worker.read_model.keys import dead_letters_key
from worker.read_model.operations import Running
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.kafka_sink import DEAD_LETTER_HEADERS
from worker.topics import TopicNames

#: The target of the operations that change what became of dead letters: one at a time.
TARGET = "dead-letters"
#: Sources that `Stats` tells apart; further ones are counted together.
MOST_SOURCES = 1_000
OTHER_SOURCES = "(others)"
#: Source of those whose own cannot be read, in `Stats` and in a `Selection`.
UNREADABLE_SOURCE = "(unreadable)"
_SAVE_SECONDS = 1.0

Progress = Callable[[int], None]
"""Called with the number of offsets, or of lines, that are done."""
Headers = list[tuple[str, bytes | None]]


class DeadLetterError(Exception):
    """A command on dead letters cannot do what it was asked for; the message says why and what to do."""


class State(StrEnum):
    """What became of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    PARKED = "parked"


class DeadLetterRecord:
    """A record of the dead-letters topic."""

    def __init__(self, record: Any) -> None:
        added = {name: (content or b"").decode(errors="replace") for name, content in record.headers}
        self.partition: int = record.partition
        self.offset: int = record.offset
        self.written = record.timestamp * 1000
        """When the worker wrote it, microseconds."""
        self.key: bytes | None = record.key
        self.value: bytes | None = record.value
        self.headers: Headers = [each for each in record.headers if each[0] not in DEAD_LETTER_HEADERS]
        """Those of the original record."""
        self.reason = added.get("reason", "")
        self.detail = added.get("detail", "")
        self.topic = added.get("topic", "")
        """Where the original record was; so are ``origin_partition`` and ``origin_offset``."""
        self.origin_partition = _number(added.get("partition"))
        self.origin_offset = _number(added.get("offset"))
        self.first_seen = added.get("first-seen", "")
        self.truncated = _number(added["truncated"]) if "truncated" in added else None
        """The size of a value that was cut."""
        self.replays = _number(added.get(REPLAYS_HEADER))
        """How often the event was replayed before it became this dead letter."""

    @property
    def id(self) -> str:
        return f"{self.partition}:{self.offset}"

    @cached_property
    def document(self) -> dict[str, Any] | None:
        """The JSON object of its value; None if it has none."""
        return document_of(self.value)

    @property
    def source(self) -> str | None:
        return source_of(self.document, self.headers)

    @property
    def booking_id(self) -> str | None:
        return booking_of(self.document, self.headers, self.key)

    @property
    def received(self) -> int | None:
        """When the original record was received, microseconds; None if the header cannot be read."""
        try:
            first_seen = parse_time(self.first_seen)
        except ValueError:
            return None
        # the header has milliseconds; a record that was sent on says it to the microsecond
        exact = received_at(self.headers, first_seen // 1000 + 1)
        return exact if format_time(exact) == self.first_seen else first_seen

    def shown(self, state: State) -> dict[str, Any]:
        """What a list shows of it."""
        return {
            "id": self.id,
            "state": state.value,
            "reason": self.reason,
            "source": self.source,
            "bookingId": self.booking_id,
            "topic": self.topic,
            "partition": self.origin_partition,
            "offset": self.origin_offset,
            "firstSeen": self.first_seen,
            "deadLetteredAt": format_time(self.written),
            "replays": self.replays,
            "detail": self.detail,
        } | ({} if self.truncated is None else {"truncated": self.truncated})


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters; a field that is empty or None selects all."""

    reasons: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    topic: str | None = None
    """Name of the topic of the original record."""
    booking: str | None = None
    """A normalised bookingId."""
    begin: int | None = None
    """Written at or after this time, microseconds."""
    end: int | None = None
    """Written before this time."""
    ids: tuple[str, ...] = ()
    state: State | None = State.OPEN

    def matches(self, record: DeadLetterRecord) -> bool:
        """Whether it selects a dead letter, whatever became of it."""
        return (
            (not self.reasons or record.reason in self.reasons)
            and (self.topic is None or record.topic == self.topic)
            and (self.begin is None or record.written >= self.begin)
            and (self.end is None or record.written < self.end)
            and (not self.ids or record.id in self.ids)
            and (not self.sources or (record.source or UNREADABLE_SOURCE) in self.sources)
            and (self.booking is None or record.booking_id == self.booking)
        )


class Selected(NamedTuple):
    """The dead letters that were selected of the offsets [begin, end) of a partition."""

    tp: TopicPartition
    begin: int
    end: int
    records: list[tuple[DeadLetterRecord, State]]
    marked: Marked


@dataclass(slots=True)
class Stats:
    """Dead letters by reason, source and hour."""

    count: int = 0
    unusable: int = 0
    """Those that would be dead letters again."""
    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    hours: Counter[str] = field(default_factory=Counter)
    """By the hour in which the worker wrote them."""

    def add(self, record: DeadLetterRecord) -> None:
        self.count += 1
        self.reasons[record.reason] += 1
        source = record.source or UNREADABLE_SOURCE
        self.sources[source if source in self.sources or len(self.sources) < MOST_SOURCES else OTHER_SOURCES] += 1
        self.hours[f"{format_time(record.written)[:13]}:00Z"] += 1


class Plan(NamedTuple):
    """What is selected, at the time of the plan: later dead letters lie behind its windows."""

    windows: dict[TopicPartition, range]
    stats: Stats


class DeadLetters:
    """The dead-letters topic and the marks in Redis."""

    def __init__(self, settings: Settings, redis: Client) -> None:
        self.settings = settings
        self.topics = TopicNames.of(settings.topic_prefix)
        self.marks = DeadLetterMarks(redis, settings.redis_namespace)
        self._client = settings.kafka_client()

    async def windows(self, selection: Selection) -> dict[TopicPartition, range]:
        """The offsets in which what is selected lies, with the end of now.

        Raises:
            TopicsError: the topic does not exist.
            DeadLetterError: Redis belongs to another topic.
            aiokafka.errors.KafkaError: the broker refuses.
        """
        topic = self.topics.dead_letters
        # before the ends of the topic: others may mark what is appended meanwhile
        marked = await self.marks.last_marked()
        (count,) = await partition_counts(self.settings, topic)
        logs = await find_windows(self._client, topic, range(count))
        key = dead_letters_key(self.settings.redis_namespace)
        if any(offset >= logs.get(TopicPartition(topic, number), range(0)).stop for number, offset in marked.items()):
            raise DeadLetterError(
                f"Redis has marks of dead letters that {topic} lacks: ATTENDANCE_BROKER and ATTENDANCE_REDIS are of two "
                f"systems, or the topic was created again; then delete {key} in Redis"
            )
        await self.marks.drop_outdated({tp.partition: log for tp, log in logs.items()})
        if selection.ids:
            return windows_of(topic, map(place_of, selection.ids), logs)
        if selection.begin is None and selection.end is None:
            return logs
        return await find_windows(self._client, topic, range(count), selection.begin, selection.end)

    async def select(self, windows: Windows, selection: Selection) -> AsyncGenerator[Selected]:
        """Reads the windows, a part of a partition at a time.

        Raises:
            worker.engine.log_reader.LogUnreadable: a record batch cannot be read.
            aiokafka.errors.KafkaError: the broker refuses.
        """
        async with aclosing(read_windows(self._client, windows)) as parts:
            async for tp, fetched in parts:
                records = [record for record in map(DeadLetterRecord, fetched.records) if selection.matches(record)]
                marked = await self.marks.of(tp.partition, [record.offset for record in records])
                states = [(record, state_of(record, marked)) for record in records]
                selected = [each for each in states if selection.state in (None, each[1])]
                yield Selected(tp, fetched.begin, fetched.end, selected, marked)

    async def plan(
        self, selection: Selection, most: int | None = None, progress: Progress = lambda _: None, *, decodes: bool = False
    ) -> Plan:
        """Counts what is selected, at most ``most`` dead letters; the windows of the plan hold no others.

        Args:
            decodes: whether to count the unusable ones as well.
        """
        windows, stats, done = await self.windows(selection), Stats(), 0
        reached = {tp: window.start for tp, window in windows.items()}
        if most is not None and most <= 0:
            return Plan({tp: range(at, at) for tp, at in reached.items()}, stats)
        async with aclosing(self.select(windows, selection)) as parts:
            async for part in parts:
                done += part.end - part.begin
                for record, _ in part.records:
                    stats.add(record)
                    if decodes and isinstance(self.decode(record, record.key, record.value, record.headers), DeadLetter):
                        stats.unusable += 1
                    if stats.count == most:
                        reached[part.tp] = record.offset + 1
                        return Plan({tp: range(window.start, reached[tp]) for tp, window in windows.items()}, stats)
                reached[part.tp] = part.end
                progress(done)
        return Plan(windows, stats)

    async def show(self, dead_letter_id: str) -> tuple[DeadLetterRecord, State]:
        """A dead letter by its id.

        Raises:
            DeadLetterError: there is none.
        """
        selection = Selection(ids=(normal_id(dead_letter_id),), state=None)
        async with aclosing(self.select(await self.windows(selection), selection)) as parts:
            async for part in parts:
                for found in part.records:
                    return found
        raise DeadLetterError(f"no dead letter has the id {dead_letter_id}: `attendance dead-letters list` shows their ids")

    def decode(
        self, record: DeadLetterRecord, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Event | Booking | BookingGone | DeadLetter:
        """What a worker makes of the original record, with this key, value and these headers."""
        if record.topic == self.topics.bookings:
            return decode_booking(value, headers, key)
        timestamp = (record.received or record.written) // 1000
        return decode(value, headers, timestamp, max_age=micros(self.settings.max_event_age))


class Checkpoint:
    """How far an operation is; saved once a second, and when it ends."""

    def __init__(self, running: Running) -> None:
        self.request = running.operation.request
        self.position: dict[str, int] = dict(running.operation.position)
        self.counts: Counter[str] = Counter(running.operation.counts)
        self._running = running
        self._saved = monotonic()

    @property
    def is_due(self) -> bool:
        return monotonic() - self._saved >= _SAVE_SECONDS

    async def save(self, *, at_once: bool = False) -> None:
        """Saves it if it is time to, or ``at_once``.

        Raises:
            worker.read_model.operations.OperationError: another process has resumed the operation.
        """
        if at_once or self.is_due:
            await self._running.save(self.position, dict(+self.counts))
            self._saved = monotonic()


def state_of(record: DeadLetterRecord, marked: Marked) -> State:
    """What became of a dead letter."""
    if marked.has(Mark.REPLAYED, record.offset):
        return State.REPLAYED
    return State.PARKED if marked.has(Mark.PARKED, record.offset) else State.OPEN


def place_of(dead_letter_id: str) -> tuple[int, int]:
    """The partition and offset of an id.

    Raises:
        DeadLetterError: it is no id.
    """
    partition, _, offset = dead_letter_id.partition(":")
    if not (_is_number(partition) and _is_number(offset)):
        raise DeadLetterError(f"{dead_letter_id} is no id of a dead letter: write partition:offset, as 3:117")
    return int(partition), int(offset)


def normal_id(dead_letter_id: str) -> str:
    """An id as lists show it.

    Raises:
        DeadLetterError: it is no id.
    """
    return "{}:{}".format(*place_of(dead_letter_id))


def windows_of(
    topic: str, places: Iterable[tuple[int, int]], logs: Mapping[TopicPartition, range]
) -> dict[TopicPartition, range]:
    """The windows from the first to the last of these places in each partition, within the logs."""
    windows: dict[TopicPartition, range] = {}
    for partition, offset in places:
        tp = TopicPartition(topic, partition)
        if offset in logs.get(tp, ()):
            window = windows.get(tp, range(offset, offset + 1))
            windows[tp] = range(min(window.start, offset), max(window.stop, offset + 1))
    return windows


def packed_windows(windows: Windows) -> dict[str, list[int]]:
    """Windows as the request of an operation holds them."""
    return {str(tp.partition): [window.start, window.stop] for tp, window in windows.items()}


def remaining_windows(topic: str, packed: Mapping[str, list[int]], position: Mapping[str, int]) -> dict[TopicPartition, range]:
    """What is left of `packed_windows` behind a position."""
    return {
        TopicPartition(topic, int(number)): range(max(start, position.get(number, start)), stop)
        for number, (start, stop) in packed.items()
    }


def packed_selection(selection: Selection) -> dict[str, Any]:
    """A selection as the request of an operation holds it: what is not left out."""
    names = ("reasons", "sources", "topic", "booking", "begin", "end", "ids", "state")
    values = {name: getattr(selection, name) for name in names}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value not in (None, ())
    }


def unpacked_selection(packed: Mapping[str, Any]) -> Selection:
    """The selection of `packed_selection`."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in packed.items()}
    return Selection(**(values | {"state": State(packed["state"]) if "state" in packed else None}))


def _number(text: str | None) -> int:
    return int(text) if text and _is_number(text) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
