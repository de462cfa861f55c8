"""Which bookings are over since before a time, so that they can be erased, and the tallies of their sessions as CSV.

Both changelogs are read, one partition after the other: that of the bookings tells when a booking's last session ended, that of
the attendances at which sessions it has rows, and which bookings were erased before.
"""

import csv
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from schemas.events import Booking
from worker.domain.erasures import ERASED_PREFIX, erased_hash
from worker.domain.rows import PARTITION_GROUP, decode_reference, place_of
from worker.engine.log_reader import find_windows, open_consumer, read_windows
from worker.engine.stores.base import SEPARATOR
from worker.read_model.reader import AttendanceReader
from worker.settings import Settings
from worker.topics import TopicNames

#: Columns of the CSV: those of `GET /v1/sessions`.
COLUMNS = (
    "sessionId",
    "startsAt",
    "endsAt",
    "bookings",
    "attended",
    "notAttended",
    "notSet",
    "attendees",
    "expectedParticipants",
)


class Expired(NamedTuple):
    """The bookings whose last session ended before a time."""

    bookings: Sequence[str]
    sessions: Collection[str]
    """That they list, or at which they have rows."""
    undated: int
    """Bookings that stay because it is not known when their last session ends: they list none, or one without a time."""
    erased: int
    """Bookings that are over and of which nothing is left to erase."""


async def find_expired(
    settings: Settings, before: int, erase_key: bytes, on_progress: Callable[[int], None] = lambda _: None
) -> Expired:
    """Reads the changelogs of the tables to their ends of now.

    Args:
        settings: of the tables.
        before: a session that ends (without a known end: starts) at this time or later is not over, microseconds.
        erase_key: of the hashes of erased bookings.
        on_progress: called with how many records were read in all.

    Raises:
        worker.engine.log_reader.LogUnreadable: a changelog cannot be read.
        aiokafka.errors.KafkaError: the broker refuses.
    """
    names, sessions = list[str](), set[str]()
    undated = erased = read = 0
    topics = TopicNames.of(settings.topic_prefix, settings.tables)
    async with open_consumer(settings.kafka_client()) as consumer:
        for number in range(settings.partitions):
            rows = dict[str, bytes]()
            async for records in _records(settings, consumer, topics.bookings_changelog, number):
                _keep_newest(rows, records)
                on_progress(read := read + len(records))
            over, of_unknown_end = _over(rows, before)
            undated += of_unknown_end
            of_partition = _OfPartition(over)
            async for records in _records(settings, consumer, topics.attendance_changelog, number):
                of_partition.add(records)
                on_progress(read := read + len(records))
            left = of_partition.not_erased(erase_key)
            erased += len(over) - len(left)
            names += left
            sessions.update(*(over[name] | of_partition.sessions[name] for name in left))
    return Expired(sorted(names), sessions, undated, erased)


def last_end(booking: Booking) -> int | None:
    """When the last session of a booking ends, or starts if its end is not known, microseconds; None: that is not known."""
    windows = (booking.sessions or {}).values()
    ends = [window.starts if window.ends is None else window.ends for window in windows]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


async def read_tallies(reader: AttendanceReader, sessions: Collection[str]) -> list[dict[str, Any]]:
    """The tallies of sessions, earliest first, each with the fields of `COLUMNS`; a session without a tally is left out.

    Raises:
        worker.read_model.reader.ReaderError: Redis does not answer, or the read models are not complete.
    """
    return (await reader.named_sessions(sessions)).items


def as_csv(tallies: Iterable[Mapping[str, Any]]) -> str:
    """The tallies as CSV, under a line with the names of the columns."""
    text = StringIO()
    lines = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    lines.writeheader()
    lines.writerows(tallies)
    return text.getvalue()


class _OfPartition:
    """What the rows of one partition say of some of its bookings."""

    def __init__(self, bookings: Collection[str]) -> None:
        self.sessions: dict[str, set[str]] = {name: set() for name in bookings}
        """At which they have rows, by booking."""
        self._markers = set[bytes]()

    def add(self, records: Sequence[ConsumerRecord]) -> None:
        """Takes records of the changelog, in the order of the log."""
        for record in records:
            group, _, suffix = record.key.partition(SEPARATOR)
            if group == PARTITION_GROUP:
                if suffix.startswith(ERASED_PREFIX):
                    self._markers.add(suffix.removeprefix(ERASED_PREFIX))
                continue
            sessions = self.sessions.get(group.decode())
            session, _, participant = suffix.partition(SEPARATOR)
            if sessions is None or not session or participant:
                continue
            if record.value is None:
                sessions.discard(session.decode())
            else:
                sessions.add(session.decode())

    def not_erased(self, key: bytes) -> list[str]:
        """The bookings that have no marker, or have rows again."""
        if not self._markers:
            return list(self.sessions)
        return [name for name, rows in self.sessions.items() if rows or erased_hash(name, key) not in self._markers]


def _over(rows: Mapping[str, bytes], before: int) -> tuple[dict[str, set[str]], int]:
    """The bookings that are over, with the sessions that they list; and how many there are of which that is not known."""
    over, undated = dict[str, set[str]](), 0
    for name, row in rows.items():
        booking = decode_reference(name, row)[0].booking
        if booking is None:
            continue
        end = last_end(booking)
        if end is None:
            undated += 1
        elif end < before:
            over[name] = set(booking.sessions or ())
    return over, undated


def _keep_newest(rows: dict[str, bytes], records: Sequence[ConsumerRecord]) -> None:
    """Takes records of the bookings' changelog: as tables merge them, a row has the record with the greatest place."""
    for record in records:
        name = record.key.partition(SEPARATOR)[0].decode()
        if record.value is None:
            rows.pop(name, None)
        elif name not in rows or place_of(record.value) >= place_of(rows[name]):
            rows[name] = record.value


async def _records(
    settings: Settings, consumer: AIOKafkaConsumer, topic: str, number: int
) -> AsyncGenerator[Sequence[ConsumerRecord]]:
    client: dict[str, Any] = settings.kafka_client()
    windows = await find_windows(client, topic, [number], consumer=consumer)
    async for _, (_, records, _) in read_windows(client, windows):
        yield records
