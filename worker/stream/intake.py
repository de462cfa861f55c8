"""From the raw records of one poll to what the fold needs: events by booking, dead letters, forwards. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from schemas.decode import booking_of_key, decode_all, decode_booking, received_at
from schemas.events import BookingGone, DeadLetter, Event, Reason
from worker.domain.state import Reference

Records = Sequence[Any]
IsOurs = Callable[[str], bool]
"""Whether a booking belongs to the partition that the records were in."""


class Intake(NamedTuple):
    """What one batch holds."""

    events: dict[str, list[Event]]
    """By booking."""
    references: dict[str, list[Reference]]
    """By booking, each with its record's offset, in order."""
    letters: list[tuple[Any, DeadLetter, int]]
    """(record, why it can't be used, received in microseconds)."""
    forwards: list[tuple[Any, str, int]]
    """(record in the wrong partition, its bookingId, received in microseconds)."""
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
    return Intake(events, {}, letters, forwards, newest)


def read_bookings(records: Records, partition: int, is_ours: IsOurs) -> Intake:
    """Records of the bookings topic; one that can't be used leaves the booking of its key unknown."""
    intake = Intake({}, {}, [], [], None)
    newest = None
    for record in records:
        received = received_at(record.headers, record.timestamp)
        said = decode_booking(record.value, record.headers, record.key)
        if isinstance(said, DeadLetter):
            intake.letters.append((record, said, received))
            booking_id = booking_of_key(record.key)
            if booking_id is None or not is_ours(booking_id):
                continue
            said = BookingGone(booking_id)
        elif not is_ours(said.booking_id):
            detail = f"partition {partition}: write bookings with Kafka's default partitioner (murmur2 of the bookingId)"
            intake.letters.append((record, DeadLetter(Reason.WRONG_PARTITION, detail), received))
            continue
        else:
            newest = received if newest is None else max(newest, received)
        intake.references.setdefault(said.booking_id, []).append((record.offset, said))
    return intake._replace(newest=newest)
