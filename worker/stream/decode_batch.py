"""From the raw records of one poll to what the fold needs: events by booking, dead letters, forwards. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from schemas.decoding.explain import booking_of_key, decode_all, decode_booking, received_at
from schemas.events import Booking, DeadLetter, Event
from worker.domain.booking_state import BookingRecord, Place
from worker.stream.originals import NULL, first_offset, pack_original

Records = Sequence[Any]
IsOurs = Callable[[str], bool]
"""Whether a booking belongs to the partition that the records were in."""


class Intake(NamedTuple):
    """What one batch holds."""

    events: dict[str, list[Event]]
    """By booking."""
    references: dict[str, list[BookingRecord]]
    """Booking records under their booking's key, by booking."""
    last_places: dict[str, Place]
    """Of the last record under a booking's key, also where its data names another booking; by booking."""
    letters: list[tuple[Any, DeadLetter, int]]
    """(record, why it can't be used, received in microseconds)."""
    forwards: list[tuple[Any, str, int]]
    """(record in another partition, or of a booking under another key; its bookingId; received in microseconds)."""
    newest: int | None
    """Newest effective time of its events, or when the newest of its booking records was received; microseconds."""


def read_events(records: Records, is_ours: IsOurs, max_age: int, tolerance: int) -> Intake:
    """Records of the events topic; ``max_age`` and ``tolerance`` (of clocks that are ahead) in microseconds."""
    letters: list[tuple[Any, DeadLetter, int]] = []
    forwards: list[tuple[Any, str, int]] = []
    events: dict[str, list[Event]] = {}
    newest = None
    for record, event in zip(records, decode_all(records, max_age=max_age), strict=True):
        if isinstance(event, DeadLetter):
            letters.append((record, event, received_at(record.headers, record.timestamp)))
            continue
        booking_id, time, received = event[1], event[3], event[9]
        if booking_id in events:
            events[booking_id].append(event)
        elif is_ours(booking_id):
            events[booking_id] = [event]
        else:
            forwards.append((record, booking_id, received))
            continue
        if newest is None or newest < time:
            effective = min(time, received + tolerance)
            newest = effective if newest is None else max(newest, effective)
    return Intake(events, {}, {}, letters, forwards, newest)


def read_bookings(records: Records, is_ours: IsOurs) -> Intake:
    """Records of the bookings topic.

    One that can't be used leaves the booking of its key unknown where it lies in that booking's partition under its
    normalised key, since a compacted topic would show a newcomer no other; elsewhere it changes nothing.
    """
    intake = Intake({}, {}, {}, [], [], None)
    newest = None
    for record in records:
        received = received_at(record.headers, record.timestamp)
        keyed = _booking_keyed(record.key, is_ours)
        found = decode_booking(record.value, record.headers, record.key)
        place = Place(received, first_offset(record.headers, record.offset), record.offset)
        if keyed is not None:
            intake.last_places[keyed] = place
        if isinstance(found, DeadLetter):
            intake.letters.append((record, found, received))
            if keyed is None:
                continue
            # to be appended again as a null value: that says the same, and is no dead letter a second time
            booking, original = None, NULL
        elif found.booking_id != keyed:
            intake.forwards.append((record, found.booking_id, received))
            continue
        else:
            booking = found if isinstance(found, Booking) else None
            original = pack_original(record.headers, record.value)
            newest = received if newest is None else max(newest, received)
        intake.references.setdefault(keyed, []).append(BookingRecord(place, booking, original))
    return intake._replace(newest=newest)


def joined(parts: Iterable[Intake]) -> Intake:
    """What consecutive parts of a batch hold together."""
    whole = Intake({}, {}, {}, [], [], None)
    newest = None
    for part in parts:
        for booking_id, events in part.events.items():
            whole.events.setdefault(booking_id, []).extend(events)
        for booking_id, records in part.references.items():
            whole.references.setdefault(booking_id, []).extend(records)
        whole.last_places.update(part.last_places)
        whole.letters.extend(part.letters)
        whole.forwards.extend(part.forwards)
        newest = max((time for time in (newest, part.newest) if time is not None), default=None)
    return whole._replace(newest=newest)


def _booking_keyed(key: bytes | None, is_ours: IsOurs) -> str | None:
    """The booking under whose own key a record lies: its normalised id, in its partition. Compaction keeps one such record."""
    booking_id = booking_of_key(key)
    return booking_id if booking_id is not None and booking_id.encode() == key and is_ours(booking_id) else None
