"""Explains an attendance: reads its booking's partition of both topics, judges its events, and compares with Redis.

The events of a booking are in its own partition: those that were sent to another one are forwarded there. So nothing else is
read, and the result is that of the worker, which has the same pure functions.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance, attendance_id, guid
from schemas.times import format_exact_time, format_time
from worker.domain.alert_events import open_alert
from worker.domain.alert_rules import FREQUENT, Rules, kinds
from worker.domain.booking_state import NOWHERE, BookingState
from worker.domain.summaries import document as attendance_document
from worker.domain.verdicts import explain as explain_events
from worker.engine.log_reader import AT_ONCE, FETCH_BYTES, LogUnreadable, find_windows, read_windows
from worker.history.collected import Collected
from worker.history.errors import HistoryError
from worker.history.verdict_words import verdict_words
from worker.read_model.errors import ReaderError
from worker.read_model.freshness import Partition, freshness_of
from worker.read_model.reader import AttendanceReader
from worker.settings import Settings
from worker.stream.errors import SettingsConflict
from worker.stream.group import check_settings, latest
from worker.topics import TopicNames, group_changelog, partition_of

#: Events of one attendance that are explained at most.
MOST_EVENTS = 100_000
#: How long Redis may take to apply what was read, before the difference is shown as lag, seconds.
_CATCH_UP_SECONDS = 5.0
_POLL_SECONDS = 0.1
#: How often the topics are read on because Redis is ahead of what was read.
_MOST_ROUNDS = 5

Document = dict[str, Any]
Progress = Callable[[int, int], object]
"""Called with the records read, and how many there are."""


class Pace(NamedTuple):
    """How much is read and searched before other tasks get their turn."""

    records: int = AT_ONCE
    fetch_bytes: int = FETCH_BYTES


class Subject(NamedTuple):
    """What to explain."""

    booking_id: str
    """Normalised, as is ``session_id``."""
    session_id: str
    begin: int | None = None
    """Only what was received from this time on, microseconds; None: all that the topic has."""
    end: int | None = None
    """Only what was received before this time."""

    @property
    def is_whole(self) -> bool:
        return self.begin is None and self.end is None


class _Shown(NamedTuple):
    """What Redis shows of an attendance."""

    attendance: Attendance | None
    alerts: list[AlertData]
    before: Partition
    """The watermark before that was read."""
    after: Partition
    """And after it."""


class Explainer:
    """Explains one attendance.

    Args:
        archived: records of archives; those that the topics still have are left out.
        most_events: events of the attendance at most.
    """

    def __init__(
        self,
        settings: Settings,
        reader: AttendanceReader,
        subject: Subject,
        on_progress: Progress,
        *,
        archived: Iterable[Any] = (),
        pace: Pace = Pace(),  # noqa: B008 - immutable
        most_events: int = MOST_EVENTS,
    ) -> None:
        self._settings = settings
        self._client = settings.kafka_client()
        self._reader = reader
        self._subject = subject
        self._on_progress = on_progress
        self._archived = iter(archived)
        self._pace = pace
        topics = TopicNames.of(settings.topic_prefix)
        self._partitions = settings.partitions
        number = partition_of(subject.booking_id, settings.partitions)
        self._events, self._bookings = TopicPartition(topics.events, number), TopicPartition(topics.bookings, number)
        rules = Rules(**{name: value for name, value in settings.shaping().items() if name != "partitions"})
        self._collected = Collected(subject.booking_id, subject.session_id, rules, most_events)
        self._windows: dict[TopicPartition, range] = {}
        self._read_records = 0

    async def explain(self) -> Document:
        """The history, as the API and ``--json`` show it.

        Raises:
            HistoryError: it has more events than are explained, a record batch cannot be read, or the tables were made with
                other settings.
            worker.read_model.errors.ReaderError: Redis cannot be read.
            aiokafka.errors.KafkaError: the broker refuses.
        """
        subject = self._subject
        if (partitions := len(await self._reader.status())) != self._partitions:
            raise HistoryError(
                f"ATTENDANCE_PARTITIONS: the read models have {partitions} partitions, not {self._partitions}: set {partitions}"
            )
        try:
            _, bookings, events = await asyncio.gather(
                self._check_settings(),
                # the record that holds may be older than the events
                self._find(self._bookings, None, None),
                self._find(self._events, subject.begin, subject.end),
            )
        except (LogUnreadable, SettingsConflict) as error:
            raise HistoryError(str(error)) from None
        await self._read_archived(bookings | events)
        await self._read(bookings | events)
        compared = await self._compare() if subject.is_whole else None
        # of thousands of events, and other requests wait for this one
        return await asyncio.to_thread(self._document, compared)

    async def _check_settings(self) -> None:
        """Raises SettingsConflict if the tables were made by other rules: they hold what these would judge otherwise."""
        topic = group_changelog(self._settings.topic_prefix, await self._reader.tables())
        windows = await find_windows(self._client, topic, [0])
        async with aclosing(read_windows(self._client, windows)) as parts:
            record = latest([each.value async for _, fetched in parts for each in fetched.records])
        if record is not None:
            check_settings(record.settings, self._settings.shaping())

    async def _find(self, tp: TopicPartition, begin: int | None, end: int | None) -> dict[TopicPartition, range]:
        return await find_windows(self._client, tp.topic, [tp.partition], begin, end)

    async def _read_archived(self, windows: Mapping[TopicPartition, range]) -> None:
        """Takes the archived records that lie before what the topics still have."""
        while records := await asyncio.to_thread(lambda: list(islice(self._archived, self._pace.records))):
            for tp, window in windows.items():
                older = [each for each in records if (each.topic, each.partition) == tp and each.offset < window.start]
                await self._collected.add(older, are_events=tp == self._events)

    async def _read(self, windows: Mapping[TopicPartition, range]) -> None:
        for tp, window in windows.items():
            known = self._windows.get(tp, window)
            self._windows[tp] = range(known.start, window.stop)
        total = self._read_records + sum(map(len, windows.values()))
        self._on_progress(self._read_records, total)
        collected, (at_once, fetch_bytes) = self._collected, self._pace
        reading = read_windows(
            self._client, windows, at_once=at_once, fetch_bytes=fetch_bytes, may_hold=collected.filter.may_hold
        )
        try:
            async with aclosing(reading) as parts:
                async for tp, (begin, records, end) in parts:
                    await collected.add(records, are_events=tp == self._events)
                    self._read_records += end - begin
                    self._on_progress(self._read_records, total)
                    # what was fetched ahead is taken without waiting
                    await asyncio.sleep(0)
        except LogUnreadable as error:
            raise HistoryError(str(error)) from None

    async def _compare(self) -> Document:
        """Compares with Redis. Where that is ahead, reads on; where it is behind, gives it a moment."""
        deadline = monotonic() + _CATCH_UP_SECONDS
        watermark = await self._reader.partition(self._events.partition)
        for _ in range(_MOST_ROUNDS):
            shown = await self._read_shown(watermark)
            differences = self._differences(shown)
            while differences and self._lag(shown.before) and monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
                shown = await self._read_shown(shown.after)
                differences = self._differences(shown)
            if not differences or not (ahead := self._ahead(shown.after)):
                break
            await self._read(ahead)
            watermark = shown.after
        return {
            "agrees": not differences,
            "attendance": shown.attendance,
            "differences": differences,
            "reason": self._reason(shown) if differences else None,
            "freshness": freshness_of([shown.after]).document(),
        }

    async def _read_shown(self, before: Partition) -> _Shown:
        """What Redis shows now; ``before`` is the watermark as it was read last."""
        subject, number = self._subject, self._events.partition
        latest = await self._reader.latest(subject.booking_id, subject.session_id)
        alerts = await self._reader.alerts(booking_id=subject.booking_id, session_id=subject.session_id)
        alerts += await self._reader.alerts(booking_id=subject.booking_id, kind=FREQUENT)
        after = await self._reader.partition(number)
        if after.state != "live":
            raise ReaderError(f"partition {number} is being repaired: retry")
        return _Shown(None if latest is None else latest[0], alerts, before, after)

    def _lag(self, partition: Partition) -> int:
        """Records that were read here and that Redis did not have."""
        return sum(
            max(0, self._windows[tp].stop - partition.number_of(f"{name}.offset"))
            for name, tp in (("events", self._events), ("bookings", self._bookings))
        )

    def _ahead(self, partition: Partition) -> dict[TopicPartition, range]:
        """What Redis has and was not read here."""
        windows = {
            tp: range(self._windows[tp].stop, partition.number_of(f"{name}.offset"))
            for name, tp in (("events", self._events), ("bookings", self._bookings))
        }
        return {tp: window for tp, window in windows.items() if window}

    def _differences(self, shown: _Shown) -> list[str]:
        """What Redis shows otherwise, in words."""
        result, found = self._result(), shown.attendance
        differences = []
        if (result is None) != (found is None):
            present, absent = ("Redis", "the events") if result is None else ("the events", "Redis")
            differences.append(f"attendance: there is one by {present}, none by {absent}")
        elif result is not None and found is not None:
            pairs = ((name, value, found[name]) for name, value in result.items())  # type: ignore[literal-required]
            differences += [
                f"{name}: {value} by the events, {other} in Redis" for name, value, other in pairs if value != other
            ]
        by_events = {each["kind"]: each for each in self._open_alerts()}
        in_redis = {each["kind"]: each for each in shown.alerts}
        for kind in AlertKind:
            one, other = by_events.get(kind), in_redis.get(kind)
            if one != other:
                words = "open by the events, not in Redis" if other is None else "open in Redis, not by the events"
                differences.append(f"alert {kind}: {words if None in (one, other) else 'open with other data in Redis'}")
        return differences

    def _reason(self, shown: _Shown) -> str:
        """Why Redis may differ."""
        begin = self._windows[self._events].start
        if lag := self._lag(shown.before):
            return f"the partition is behind by {lag} records: wait, or see `attendance doctor`"
        if begin:
            return f"the topic begins at offset {begin}: events before it are gone, but still count in the tables"
        return "no cause is known: `attendance verify` compares the whole partition"

    def _result(self) -> Attendance | None:
        collected = self._collected
        value = collected.state.seen(collected.session_id)
        return None if value is None else attendance_document(collected.booking_id, collected.session_id, value)

    def _open_alerts(self) -> list[AlertData]:
        state, session_id = self._collected.state, self._collected.session_id
        alerts = [open_alert(kind, state.judged_session(session_id)) for kind in kinds(state.masks.get(session_id, 0))]
        return [*alerts, open_alert(FREQUENT, state.judged())] if state.frequent else alerts

    def _document(self, compared: Document | None) -> Document:
        collected, subject = self._collected, self._subject
        events, bookings = self._windows[self._events], self._windows[self._bookings]
        return {
            "attendanceId": guid(attendance_id(subject.booking_id, subject.session_id)),
            "bookingId": subject.booking_id,
            "sessionId": subject.session_id,
            "partition": self._events.partition,
            "offsets": {
                "events": {"begin": events.start, "end": events.stop},
                "bookings": {"begin": bookings.start, "end": bookings.stop},
            },
            "events": _events(collected),
            "deadLetters": _dead_letters(collected),
            "deadLetterCount": collected.dead_letter_count,
            "bookingRecord": _booking_record(collected.state),
            "rules": _rules(self._open_alerts()),
            "result": self._result(),
            "redis": compared,
        }


def is_unknown(document: Document) -> bool:
    """Whether nothing is known of the attendance of such a document: no event, and none in Redis."""
    compared = document["redis"]
    return not document["events"] and not document["deadLetters"] and not (compared and compared["attendance"])


def _events(collected: Collected) -> list[Document]:
    offsets = [found.offset for found in collected.events]
    explanation = explain_events([found.event for found in collected.events], collected.rules.clock_tolerance)
    documents = []
    for judgement in explanation.judgements:
        event = judgement.event
        document = {
            "offset": offsets[judgement.number],
            "type": event.type,
            "id": event.id,
            "source": event.source,
            "time": format_exact_time(event.time),
            "received": format_exact_time(event.received),
            "effectiveTime": format_exact_time(judgement.effective),
        }
        optional = {"status": event.status, "numberOfAttendees": event.number, "participantId": event.participant_id}
        document |= {name: value for name, value in optional.items() if value not in ("", None)}
        documents.append(
            document
            | {
                "counts": judgement.counts,
                "verdict": judgement.verdict.value,
                "by": None if judgement.by is None else offsets[judgement.by],
                "explanation": verdict_words(judgement, explanation.participants, offsets),
            }
        )
    return documents


def _dead_letters(collected: Collected) -> list[Document]:
    return [
        {
            "offset": found.offset,
            "received": format_exact_time(found.received),
            "reason": found.letter.reason.value,
            "detail": found.letter.detail,
            "namesSession": found.names_session,
            "explanation": f"dead letter: {found.letter.reason.value}: {found.letter.detail}",
        }
        for found in collected.dead_letters
    ]


def _booking_record(state: BookingState) -> Document | None:
    """The booking record that holds; None if there is none, or if it makes the booking unknown."""
    place, booking = state.place, state.booking
    if place == NOWHERE:
        return None
    document: Document = {
        "offset": place.read_at,
        "received": format_exact_time(place.received),
        "isKnown": booking is not None,
    }
    if booking is None:
        return document
    sessions = None
    if booking.sessions is not None:
        sessions = [
            {
                "sessionId": name,
                "startsAt": None if window.starts is None else format_time(window.starts),
                "endsAt": None if window.ends is None else format_time(window.ends),
            }
            for name, window in booking.sessions.items()
        ]
    return document | {
        "numberOfParticipants": booking.participants,
        "walkInsAllowed": booking.walk_ins_allowed,
        "status": "CANCELED" if booking.canceled else "CONFIRMED",
        "sessions": sessions,
    }


def _rules(alerts: list[AlertData]) -> list[Document]:
    messages = {alert["kind"]: alert["message"] for alert in alerts}
    return [{"kind": kind.value, "isOpen": kind in messages, "message": messages.get(kind)} for kind in AlertKind]
