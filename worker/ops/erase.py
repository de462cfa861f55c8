"""Erases bookings: publishes `booking.erased`, waits until nothing of them is left, and counts what went.

The event's time is the clock tolerance ahead of now: no event that was received before is later, also none that readers do not
see, such as a deletion by a device with a fast clock, whose row would stay. Where something is left all the same, since the
clocks of this machine and of Kafka differ, the event is published again. The owner of the partition then removes the booking's
rows; this follows its changelogs until it has.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
from aiokafka import TopicPartition

from schemas.events import EventType
from schemas.times import format_exact_time, parse_time
from worker.domain.erasures import ERASED_PREFIX, ERASING_PREFIX
from worker.domain.rows import PARTITION_GROUP
from worker.durations import micros
from worker.engine.log_reader import find_windows, open_consumer, read_windows
from worker.engine.stores.base import SEPARATOR
from worker.kafka import open_producer
from worker.read_model.reader import AttendanceReader, NotServing
from worker.settings import Settings
from worker.topics import TopicNames, partition_of

COMMAND = "erase"
#: A source that belongs to this system, as `/api` and all that follows it: nobody else may use it over HTTP.
SOURCE = "/api/erase"
#: What the command says at its end.
RETAINED = (
    "Kafka keeps the events until the retention of the events topic, dead letters until that of theirs, and old records of "
    "compacted topics until it compacts them; the booking record stays until the booking system deletes the booking"
)
#: Bookings that are erased together.
AT_ONCE = 500
#: How often the event is published at most.
_TRIES = 4
_POLL_SECONDS = 0.2
#: How long the workers may take without any progress, seconds.
_PATIENCE = 60.0
_LARGEST_PAGE = 100
_ERASING = PARTITION_GROUP + SEPARATOR + ERASING_PREFIX
_ERASED = PARTITION_GROUP + SEPARATOR + ERASED_PREFIX


class EraseError(Exception):
    """Not everything could be erased; the message says why and what to do."""


class Held(NamedTuple):
    """What readers see of bookings."""

    attendances: int
    alerts: int


class Begun(NamedTuple):
    """What there is of some bookings before their erasure, kept so that one that is resumed counts all that went."""

    attendances: int
    alerts: int
    changelogs: Mapping[str, Mapping[str, int]]
    """From where the changelogs are followed: an offset by topic and partition."""


class Erased(NamedTuple):
    """What went."""

    counts: Counter[str]
    horizons: Mapping[str, int]
    """By booking, the effective time of its erasure, microseconds."""


async def held(reader: AttendanceReader, bookings: Sequence[str]) -> Held:
    """What readers see of these bookings; alerts only of at most `AT_ONCE` bookings, since each is a question."""
    attendances, _ = await _newest(reader, bookings)
    alerts = 0
    for name in bookings if len(bookings) <= AT_ONCE else ():
        alerts += len(await reader.alerts(booking_id=name))
    return Held(attendances, alerts)


async def _newest(reader: AttendanceReader, bookings: Sequence[str]) -> tuple[int, dict[str, int]]:
    """The number of attendances, and the newest effective time of each booking that has some, microseconds, rounded up."""
    newest: dict[str, int] = {}
    attendances = 0
    async for each in _attendances(reader, bookings):
        attendances += 1
        # readers see milliseconds, cut
        updated = parse_time(each["updatedDate"]) + 1_000
        newest[each["bookingId"]] = max(updated, newest.get(each["bookingId"], 0))
    return attendances, newest


async def _attendances(reader: AttendanceReader, bookings: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
    for start in range(0, len(bookings), _LARGEST_PAGE):
        query: dict[str, Any] = {"filter": {"bookingId": {"$in": list(bookings[start : start + _LARGEST_PAGE])}}}
        query["cursorPaging"] = {"limit": _LARGEST_PAGE}
        while True:
            page = await reader.query(query)
            for each in page.attendances:
                yield each
            if page.next is None:
                break
            query = {"cursorPaging": {"limit": _LARGEST_PAGE, "cursor": page.next}}


async def begin(settings: Settings, reader: AttendanceReader, bookings: Sequence[str]) -> Begun:
    """What there is of bookings, at most `AT_ONCE`, before anything is published."""
    found = await held(reader, bookings)
    return Begun(found.attendances, found.alerts, await _changelog_ends(settings, bookings))


async def erase(settings: Settings, reader: AttendanceReader, bookings: Sequence[str], begun: Begun) -> Erased:
    """Erases bookings, and returns once their rows are gone.

    Args:
        settings: with the live tables.
        reader: of the live namespace.
        bookings: at most `AT_ONCE`.
        begun: what there was before this was called first.

    Raises:
        EraseError: the workers do not apply it.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    if begun.changelogs.keys() != {*_changelogs(settings)}:
        # other tables have become live meanwhile
        begun = begun._replace(changelogs=await _changelog_ends(settings, bookings))
    horizons: dict[str, int] = {}
    left, tolerance = list(bookings), micros(settings.clock_tolerance)
    for _ in range(_TRIES):
        _, newest = await _newest(reader, left)
        now = time.time_ns() // 1000
        times = {name: max(now + tolerance, newest.get(name, 0)) for name in left}
        await _wait(reader, await _publish(settings, times))
        horizons |= times
        # what is left now is later by Kafka's clock
        left = sorted((await _newest(reader, left))[1])
        if not left:
            break
    if left:
        raise EraseError(f"{len(left)} bookings still get events that are later: stop their devices, then --resume this")
    counts = await Changelogs(settings, begun.changelogs).follow(set(bookings))
    counts.update(bookings=len(bookings), attendances=begun.attendances, alerts=begun.alerts)
    return Erased(counts, horizons)


async def _publish(settings: Settings, times: Mapping[str, int]) -> dict[int, int]:
    """Publishes the events; returns the offset behind the last one by partition."""
    topic, ends = TopicNames.of(settings.topic_prefix).events, dict[int, int]()
    async with open_producer(settings) as producer:
        sent = [
            await producer.send(
                topic,
                key=name.encode(),
                value=orjson.dumps(_event(name, at)),
                partition=partition_of(name, settings.partitions),
            )
            for name, at in times.items()
        ]
        for record in await asyncio.gather(*sent):
            ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
    return ends


def _event(booking_id: str, at: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": SOURCE,
        "type": EventType.BOOKING_ERASED.value,
        "time": format_exact_time(at),
        "data": {"bookingId": booking_id},
    }


async def _wait(reader: AttendanceReader, ends: Mapping[int, int]) -> None:
    """Waits until the read models have applied these offsets of the events topic."""
    deadline, last = time.monotonic() + _PATIENCE, None
    while True:
        try:
            reached = {each.number: each.number_of("events.offset") for each in await reader.status() if each.state == "live"}
        except NotServing:
            reached = {}
        behind = {number for number, end in ends.items() if reached.get(number, 0) < end}
        if not behind:
            return
        if reached != last:
            deadline, last = time.monotonic() + _PATIENCE, reached
        if time.monotonic() > deadline:
            numbers = ", ".join(map(str, sorted(behind)))
            raise EraseError(
                f"the events are published, but no worker applies partitions {numbers}: start one, then --resume this"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _changelogs(settings: Settings) -> tuple[str, str]:
    names = TopicNames.of(settings.topic_prefix, settings.tables)
    return names.attendance_changelog, names.bookings_changelog


async def _changelog_ends(settings: Settings, bookings: Iterable[str]) -> dict[str, dict[str, int]]:
    """Where the changelogs end now, in the partitions of these bookings: an offset by topic and partition."""
    numbers = sorted({partition_of(name, settings.partitions) for name in bookings})
    ends = {}
    for topic in _changelogs(settings):
        windows = await find_windows(settings.kafka_client(), topic, numbers)
        ends[topic] = {str(tp.partition): window.stop for tp, window in windows.items()}
    return ends


class Changelogs:
    """Follows the changelogs of some partitions from given offsets on."""

    def __init__(self, settings: Settings, offsets: Mapping[str, Mapping[str, int]]) -> None:
        self._settings = settings
        self._offsets = {TopicPartition(topic, int(n)): at for topic, some in offsets.items() for n, at in some.items()}
        self._topics = _changelogs(settings)
        self._markers = set[bytes]()

    async def follow(self, bookings: set[str]) -> Counter[str]:
        """Reads on until the owner has removed the rows of these bookings; returns the deletions of rows, and the markers.

        Raises:
            EraseError: the owners do not remove them.
        """
        counts: Counter[str] = Counter()
        begun, ended, is_first = set[str](), set[str](), True
        deadline = time.monotonic() + _PATIENCE
        names = {name.encode() for name in bookings}
        async with open_consumer(self._settings.kafka_client()) as consumer:
            # the event was applied: a booking that is not among those begun by now had nothing to remove
            while is_first or begun - ended:
                is_first = False
                for topic in self._topics:
                    numbers = [tp.partition for tp in self._offsets if tp.topic == topic]
                    client = self._settings.kafka_client()
                    found = await find_windows(client, topic, numbers, by_time=False, consumer=consumer)
                    windows = {tp: range(self._offsets[tp], window.stop) for tp, window in found.items()}
                    async for tp, fetched in read_windows(client, {tp: each for tp, each in windows.items() if each}):
                        self._offsets[tp] = fetched.end
                        for record in fetched.records:
                            self._count(record, names, counts, begun, ended)
                        deadline = time.monotonic() + _PATIENCE
                if time.monotonic() > deadline:
                    raise EraseError(
                        "the rows of some bookings are not removed yet: look at the log of the workers, then --resume"
                    )
                await asyncio.sleep(_POLL_SECONDS if begun - ended else 0)
        # of an erasure that was published again the owner has written the marker again
        counts["markers"] = len(self._markers)
        return counts

    def _count(self, record: Any, names: set[bytes], counts: Counter[str], begun: set[str], ended: set[str]) -> None:
        key, is_deletion = record.key, record.value is None
        if key.startswith(_ERASING):
            name = key.removeprefix(_ERASING)
            if name in names and is_deletion:
                ended.add(name.decode())
            elif name in names:
                begun.add(name.decode())
                ended.discard(name.decode())
        elif key.startswith(_ERASED):
            self._markers.add(key)
        elif is_deletion and key.partition(SEPARATOR)[0] in names and not self._is_own(record):
            counts["rows"] += 1

    def _is_own(self, record: Any) -> bool:
        """Whether a record is of the row in which the erasure itself stood."""
        return bool(record.topic == self._topics[0] and record.key.endswith(SEPARATOR))
