"""The events and booking records of one booking, as they are read: kept for one session, folded for the others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas import ids
from schemas.decoding.bindings import InvalidRecord, data_of, read_event
from schemas.decoding.explain import booking_of_key, decode, received_at
from schemas.events import DeadLetter, Event, EventType, Reason
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, apply_records
from worker.history.booking_filter import BookingFilter
from worker.history.errors import TooManyEvents
from worker.stream.decode_batch import read_bookings

#: Dead letters that are kept; further ones are only counted.
MOST_DEAD_LETTERS = 1_000
#: All events of the booking, which are folded and not kept, may be so many times those of the attendance.
_BOOKING_FACTOR = 20
_ERASED = EventType.BOOKING_ERASED.value


class FoundEvent(NamedTuple):
    """An event, and where it was read."""

    offset: int
    event: Event


class FoundDeadLetter(NamedTuple):
    """A record that names the booking and cannot be used."""

    offset: int
    received: int
    """Microseconds."""
    letter: DeadLetter
    names_session: bool
    """Whether it names the session; if not, its session cannot be read."""


class Collected:
    """What the topics hold of one attendance, and the booking as a worker holds it.

    Args:
        booking_id: normalised, as is ``session_id``.
        most_events: events of the attendance that are kept at most.
    """

    def __init__(self, booking_id: str, session_id: str, rules: Rules, most_events: int) -> None:
        self.booking_id = booking_id
        self.session_id = session_id
        self.rules = rules
        self.events: list[FoundEvent] = []
        """Of the attendance, and the erasures of its booking; in the order of the topic."""
        self.dead_letters: list[FoundDeadLetter] = []
        self.dead_letter_count = 0
        self.state = BookingState(booking_id)
        """The whole booking."""
        self._most_events = most_events
        self._events_of_booking = 0
        self.filter = BookingFilter(booking_id)

    async def add(self, records: Sequence[Any], *, are_events: bool) -> None:
        """Takes records of the booking's partition of the events or the bookings topic.

        Raises:
            TooManyEvents: of the attendance, or of its booking.
        """
        if are_events:
            self._add_events(records)
        else:
            await self._add_booking_records(records)

    def _add_events(self, records: Sequence[Any]) -> None:
        """Takes records of the events topic from the booking's partition.

        Raises:
            TooManyEvents: more than ``most_events`` are of the attendance, or too many of its booking.
        """
        events: list[Event] = []
        for record in self.filter.select(records):
            event = decode(record.value, record.headers, record.timestamp, max_age=self.rules.max_event_age)
            if isinstance(event, DeadLetter):
                self._add_dead_letter(record, event)
            elif event.booking_id == self.booking_id:
                events.append(event)
                if event.session_id == self.session_id or event.type == _ERASED:
                    self.events.append(FoundEvent(record.offset, event))
        if len(self.events) > self._most_events:
            raise TooManyEvents(f"it has more than {self._most_events:,} events")
        self._events_of_booking += len(events)
        if self._events_of_booking > _BOOKING_FACTOR * self._most_events:
            raise TooManyEvents(f"its booking has more than {_BOOKING_FACTOR * self._most_events:,} events")
        if events:
            apply_records([(self.state, events, ())], self.rules)

    async def _add_booking_records(self, records: Sequence[Any]) -> None:
        """Takes records of the bookings topic from the booking's partition."""
        key = self.booking_id.encode()
        if keyed := [record for record in records if record.key == key]:
            batch = await read_bookings(keyed, lambda _: True)
            booking_records = batch.booking_records.get(self.booking_id, ())
            apply_records([(self.state, (), booking_records)], self.rules)

    def _add_dead_letter(self, record: Any, letter: DeadLetter) -> None:
        booking_id, session_id = self._named(record, letter)
        if booking_id != self.booking_id or session_id not in (None, self.session_id):
            return
        self.dead_letter_count += 1
        if len(self.dead_letters) < MOST_DEAD_LETTERS:
            received = received_at(record.headers, record.timestamp)
            self.dead_letters.append(FoundDeadLetter(record.offset, received, letter, session_id is not None))

    def _named(self, record: Any, letter: DeadLetter) -> tuple[str | None, str | None]:
        """The bookingId (else that of the key) and the sessionId that a record names; None where they cannot be read."""
        keyed, value = booking_of_key(record.key), record.value or b""
        if letter.reason is Reason.INVALID_JSON:
            names_both = all(f'"{each}"'.encode() in value for each in (self.booking_id, self.session_id))
            return (self.booking_id, self.session_id) if names_both else (keyed, None)
        try:
            data = data_of(read_event(value, record.headers))
        except InvalidRecord:
            return keyed, None
        booking_id, session_id = data.get("bookingId"), data.get("sessionId")
        return (
            (ids.booking_id(booking_id) if isinstance(booking_id, str) else None) or keyed,
            ids.session_id(session_id) if isinstance(session_id, str) else None,
        )
