"""The bookings topic as a log: forwarded, read again after crashes, written late, compacted, read by a newcomer."""

import json
from collections.abc import Sequence
from functools import partial, reduce
from random import Random
from typing import NamedTuple
from zlib import compress

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Booking
from schemas.times import parse_time
from tests.support.cores import finished
from tests.support.oracle.make import record as envelope
from tests.support.oracle.reading import normalised
from tests.support.strategies import sized
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import NOWHERE, BookingRecord, Place, apply_records
from worker.domain.rows import encode_reference, load, merge_booking_rows, original_of, place_of
from worker.kafka import Message
from worker.stream.decode_batch import read_bookings
from worker.stream.kafka_sink import append_again, forwarded
from worker.stream.originals import overtaken
from worker.topics import partition_of

PARTITIONS = 3
BOOKINGS = ("b1", "b2", "b3", "88214716-abcd-4ef0-9012-3456789abcde")
OTHER_SPELLINGS = (*(f" {name} " for name in BOOKINGS[:3]), BOOKINGS[3].upper())
KEYS = [name.encode() for name in (*BOOKINGS, *OTHER_SPELLINGS, "no")]
RULES = Rules(0, 0, 0)
START_MS, NOW_MS = 1_795_000_000_000, 1_795_000_900_000


class Published(NamedTuple):
    """A record as somebody writes it. What it says: participants, 0 (deleted) or None (a value that can't be used)."""

    booking: str
    key: bytes
    partition: int
    says: int | None
    is_null: bool
    received: int
    """Milliseconds."""

    @property
    def value(self) -> bytes | None:
        if self.is_null:
            return None
        if self.says is None:
            return b"{"
        kind, data = "booking.deleted", {}
        if self.says:
            kind, data = "booking.upserted", {"numberOfParticipants": self.says}
        return json.dumps(envelope(self.booking, kind, data).event).encode()


class Logged(NamedTuple):
    """A record in its partition, as a worker reads it."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    topic: str = "bookings"


class Topic:
    """The bookings topic."""

    def __init__(self, logs: Sequence[list[Logged]] = ()) -> None:
        self.logs = logs or [[] for _ in range(PARTITIONS)]

    def append(self, record: Published | Message) -> None:
        received = record.received if isinstance(record, Published) else NOW_MS
        headers = [] if isinstance(record, Published) else record.headers
        logged = Logged(record.partition, self.end(record.partition), received, record.key, record.value, headers)
        self.logs[record.partition].append(logged)

    def end(self, partition: int) -> int:
        return self.logs[partition][-1].offset + 1 if self.logs[partition] else 0

    def compacted(self) -> "Topic":
        """The last record of each key, where it was."""
        last = [{record.key: record for record in log} for log in self.logs]
        return Topic([sorted(records.values(), key=lambda record: record.offset) for records in last])


class Group:
    """Workers that read a topic. They die between any two effects; what one has begun to send may come late."""

    def __init__(self, topic: Topic, chance: Random) -> None:
        self.topic = topic
        self._chance = chance
        self._rows: list[dict[str, bytes]] = [{} for _ in range(PARTITIONS)]
        self._committed = [0] * PARTITIONS

    def work(self, deaths: int = 0, *, late: bool = False) -> None:
        """Reads until there is nothing left; so many batches are given up between their effects."""
        delayed: list[Message] = []
        steps = 0
        while waiting := [number for number in range(PARTITIONS) if self._committed[number] < self.topic.end(number)]:
            steps += 1
            assert steps < 2000, "appends follow on appends for ever"
            number = self._chance.choice(waiting)
            unread = [record for record in self.topic.logs[number] if record.offset >= self._committed[number]]
            batch = unread[: self._chance.randint(1, 6)]
            messages = self.take(number, batch)
            sent = len(messages)
            if deaths and self._chance.random() < 0.4:
                deaths, sent = deaths - 1, self._chance.randint(0, sent)
                delayed += messages[sent:] if late else []
            else:
                self._committed[number] = batch[-1].offset + 1
            for message in messages[:sent]:
                self.topic.append(message)
            if delayed and self._chance.random() < 0.3:
                self.topic.append(delayed.pop(0))

    def known(self) -> dict[str, int]:
        """Participants of the bookings that are known."""
        states = [load(name, {}, row, RULES) for rows in self._rows for name, row in rows.items()]
        return {state.booking_id: state.booking.participants for state in states if state.booking is not None}

    def take(self, number: int, batch: Sequence[Logged]) -> list[Message]:
        """Folds and stores a batch; what is then to be sent."""
        intake = finished(read_bookings(batch, lambda booking_id: partition_of(booking_id, PARTITIONS) == number))
        rows = self._rows[number]
        loaded = [(load(name, {}, rows.get(name), RULES), (), records) for name, records in intake.booking_records.items()]
        for change in apply_records(loaded, RULES):
            if change.record is not None:
                rows[change.state.booking_id] = encode_reference(change.record, change.state.removed_unprojected)
        last_places = intake.contents.last_places
        kept = overtaken(last_places, [rows.get(name) for name in last_places])
        forwards = [forwarded(*forward, topic="bookings", partitions=PARTITIONS) for forward in intake.contents.forwards]
        return [*forwards, *(append_again("bookings", number, each) for each in kept)]


def holds(log: Sequence[Logged], booking: str) -> tuple[Logged | None, int]:
    """The contract's words for one booking in its partition: its record that holds, and how many participants that says."""
    found: list[tuple[int, int, Logged, int]] = []
    for record in log:
        if record.key != booking.encode():
            continue
        said = [parse_time((content or b"").decode()) for name, content in record.headers if name == "attendance-received"]
        event = json.loads(record.value) if record.value not in (None, b"{") else None
        if event is None or normalised(event["data"]["bookingId"]) == booking:
            participants = event["data"].get("numberOfParticipants", 0) if event else 0
            found.append((min([record.timestamp * 1000, *said]), record.offset, record, participants))
    _, _, record, participants = max(found, default=(0, 0, None, 0))
    return record, participants


@st.composite
def histories(draw: st.DrawFn, rounds: st.SearchStrategy[int]) -> list[Published]:
    """Records of a few producers, each of which has a key and a partition; those of one may be received at the same time."""
    found = []
    for _ in range(draw(st.integers(1, 14))):
        booking, key = draw(st.sampled_from(BOOKINGS)), draw(st.sampled_from(KEYS))
        right = partition_of(booking, PARTITIONS)
        partition = draw(st.sampled_from([right, right, *range(PARTITIONS)]))
        key = draw(st.sampled_from([booking.encode(), booking.encode(), key]))
        is_null = draw(st.sampled_from([False, False, False, True])) and key != b"no"
        says = 0 if is_null else draw(st.sampled_from([1, 2, 3, 4, 5, 6, 0, None]))
        received = START_MS + 100 * draw(rounds) + PARTITIONS * KEYS.index(key) + partition
        found.append(Published(normalised(key.decode()) if is_null else booking, key, partition, says, is_null, received))
    return found


def published_last(history: Sequence[Published]) -> dict[str, int]:
    """Participants of the bookings that are known, by when what was published was received, in the order of a producer."""
    held: dict[str, tuple[int, int, int]] = {}
    for at, record in enumerate(history):
        booking: str | None = record.booking
        if record.says is None:
            named = record.key.decode()
            is_own = named in BOOKINGS and record.partition == partition_of(named, PARTITIONS)
            booking = named if is_own else None
        if booking is not None:
            held[booking] = max(held.get(booking, (0, 0, 0)), (record.received, at, record.says or 0))
    return {booking: participants for booking, (*_, participants) in held.items() if participants}


def _agree(history: Sequence[Published], seed: int, *, late: bool) -> None:
    chance = Random(seed)
    topic = Topic()
    group = Group(topic, chance)
    for record in history:
        topic.append(record)
        if chance.random() < 0.3:
            group.work(chance.randint(0, 2), late=late)
    group.work(3, late=late)
    group.work()
    expected = published_last(history)
    assert group.known() == expected
    for booking in BOOKINGS:
        log = topic.logs[partition_of(booking, PARTITIONS)]
        record, participants = holds(log, booking)
        assert participants == expected.get(booking, 0)
        last = [each for each in log if each.key == booking.encode()]
        assert record is None or last[-1] == record, "compaction keeps another record than the one that holds"
    newcomer = Group(topic.compacted(), chance)
    newcomer.work()
    assert newcomer.known() == expected


@given(histories(st.integers(0, 2)), st.integers())
@sized(200)
def test_the_last_received_holds_after_any_crash(history: list[Published], seed: int) -> None:
    """For the group, in the log as it stands, and for a newcomer who reads it compacted."""
    _agree(history, seed, late=False)


@given(st.permutations(range(14)).flatmap(lambda order: histories(st.sampled_from(order))), st.integers())
@sized(100)
def test_workers_that_send_late_change_nothing(history: list[Published], seed: int) -> None:
    """Records received at different times."""
    once = {record.received: record for record in history}
    _agree(list(once.values()), seed, late=True)


def test_a_copy_appended_again_outruns_no_record_of_its_instant() -> None:
    """A record is read with an older one behind it, and appended again behind another one of its own instant."""
    key, right = b"b1", partition_of("b1", PARTITIONS)
    first, older, second = (
        Published("b1", key, right, says, False, START_MS + at) for says, at in ((1, 200), (2, 100), (3, 200))
    )
    topic = Topic()
    group = Group(topic, Random(0))
    for record in (first, older, second):
        topic.append(record)
    (again,) = group.take(right, topic.logs[right][:2])
    topic.append(again)
    group.work()
    assert group.known() == {"b1": 3}
    assert holds(topic.logs[right], "b1") == (topic.logs[right][-1], 3)


PLACES = st.builds(Place, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


@st.composite
def booking_rows(draw: st.DrawFn) -> bytes:
    """Rows of one booking, known or not."""
    booking = draw(
        st.none() | st.builds(Booking, st.just("b1"), st.integers(1, 2), *[st.booleans()] * 2, st.none(), st.just(0))
    )
    return encode_reference(BookingRecord(draw(PLACES), booking, b"as it came"), draw(st.sets(st.sampled_from(["s1", "s2"]))))


@given(st.lists(booking_rows(), min_size=1, max_size=5), st.randoms(use_true_random=False))
@sized(200)
def test_rows_of_a_booking_merge_to_a_maximum(rows: list[bytes], chance: Random) -> None:
    """In any order, any of them twice: a record received earlier revives nothing."""
    merged = reduce(partial(merge_booking_rows, b""), rows)
    again = [*rows, *chance.choices(rows, k=3)]
    chance.shuffle(again)
    assert reduce(partial(merge_booking_rows, b""), again) == merged
    assert place_of(merged) == max(map(place_of, rows))
    assert original_of(merged) == b"as it came"


@given(st.binary(max_size=40), st.integers(0, 120))
@sized(100)
def test_originals_come_out_as_they_went_in(some: bytes, copies: int) -> None:
    """Of any length, stored as they are or compressed, as the version before did with short ones, too."""
    original = some * copies
    row = encode_reference(BookingRecord(NOWHERE, None, original))
    assert original_of(row) == original
    assert len(row) < 1_200
    before = encode_reference(BookingRecord(NOWHERE, None, b"")).removesuffix(compress(b"", 0))
    assert original_of(before + compress(original, 1)) == original
