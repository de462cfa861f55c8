"""The events of the demo: a real data set of course attendance, as a term of 16 weeks that ends today.

The data holds how many of 32 classes each of 680 students missed, but not which. They are drawn at random, seeded by the
student's number, so that every run on the same day makes the same events.
"""

import csv
import random
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from schemas.events import RECEIVED_HEADER, EventType
from schemas.times import format_time
from worker.durations import micros
from worker.ops.publish import Outgoing, cloud_event, event
from worker.topics import TopicNames

CLASSES = 32
_FILE = "course-attendance.csv"
_NAMESPACE = UUID("5c1ad2f3-63a4-5d6e-9f0b-0b8f4f0a2b11")
_COURSE = "microeconomics"
_BETWEEN = micros(timedelta(weeks=16)) // CLASSES
_LENGTH = micros(timedelta(minutes=80))
_HOUR = micros(timedelta(hours=1))
_MINUTE = micros(timedelta(minutes=1))
_SECOND = 1_000_000


class Student(NamedTuple):
    """A row of the data set."""

    number: int
    attended: int
    missed: int


def students() -> list[Student]:
    """The data set; see tests/data/README.md for its source."""
    packaged = files("worker.ops").joinpath(_FILE)
    # an editable install has the file only in the folder of the tests
    text = packaged if packaged.is_file() else Path(__file__).parents[2] / "tests" / "data" / _FILE
    rows = csv.DictReader(text.read_text().splitlines())
    return [Student(*(int(row[name]) for name in ("student", "attended", "missed"))) for row in rows]


def outgoing(topics: TopicNames, now: int) -> Iterator[Outgoing]:
    """The bookings, then check-ins and no-shows in the order of time; ``now`` in microseconds."""
    all_students = students()
    yield from (event(topics, _booking(student, now)) for student in all_students)
    absences = {s.number: set(random.Random(s.number).sample(range(CLASSES), s.missed)) for s in all_students}
    for index in range(CLASSES):
        for place, student in enumerate(all_students):
            document, received = _report(student, index, place, absent=index in absences[student.number], now=now)
            yield event(topics, document, [(RECEIVED_HEADER, format_time(received).encode())])


def expected() -> dict[str, int]:
    """The totals after the demo, counted from the file."""
    all_students = students()
    return {
        "bookings": len(all_students),
        "sessions": CLASSES,
        "attended": sum(s.attended for s in all_students),
        "not_attended": sum(s.missed for s in all_students),
        "frequent_no_shows": sum(s.missed >= 3 and s.missed > s.attended for s in all_students),
    }


def booking_id(student: Student) -> str:
    """The bookingId of a student, the same in every run."""
    return str(uuid5(_NAMESPACE, str(student.number)))


def session_id(index: int) -> str:
    """The sessionId of a class, counted from 0."""
    return f"{_COURSE}-{index + 1:02d}"


def _starts(index: int, now: int) -> int:
    """When a class began, microseconds; the last one early enough that all its events are in the past."""
    last = now // _HOUR * _HOUR - 2 * _HOUR
    return last - (CLASSES - 1 - index) * _BETWEEN


def _booking(student: Student, now: int) -> dict[str, Any]:
    sessions = [
        {
            "sessionId": session_id(index),
            "startsAt": format_time(_starts(index, now)),
            "endsAt": format_time(_starts(index, now) + _LENGTH),
        }
        for index in range(CLASSES)
    ]
    data = {
        "bookingId": booking_id(student),
        "numberOfParticipants": 1,
        "serviceType": "COURSE",
        "sessions": sessions,
    }
    return cloud_event(f"booking-{student.number}", "/booking-system", EventType.BOOKING_UPSERTED, _starts(0, now), data)


def _report(student: Student, index: int, place: int, *, absent: bool, now: int) -> tuple[dict[str, Any], int]:
    """(CloudEvent, when it was received): a check-in before the class, or a no-show from the roll call after it."""
    kind = EventType.NO_SHOW if absent else EventType.CHECK_IN
    source = "/devices/roll-call" if absent else f"/devices/kiosk-{place % 4 + 1}"
    time = _starts(index, now) + (_LENGTH + _MINUTE if absent else -(place % 600) * _SECOND)
    data = {"bookingId": booking_id(student), "sessionId": session_id(index)}
    return cloud_event(f"{session_id(index)}-{student.number}", source, kind, time, data), time + 2 * _SECOND
