"""Ten thousand people scanned into one attendance: the law holds, and no row grows with them."""

import random

from schemas.attendance import AttendanceStatus
from schemas.events import Event
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, apply_records
from worker.domain.rows import changed_rows, load

RULES = Rules(300_000_000, 600_000_000, 30 * 86_400_000_000)
PEOPLE = 10_000
LARGEST_RECORD = 64 * 1024
START = 1_795_000_000_000_000


def scan(who: int, time: int) -> Event:
    kind = "attendance.participant_scanned"
    return Event(kind, "b", "s", time, "/gate", f"{who}-{time}", "", None, f"person-{who}", time)


def check_in(number: int, time: int) -> Event:
    return Event("attendance.check_in", "b", "s", time, "/desk", f"c{time}", "", number, "", time)


class Stored:
    """A booking whose every batch goes through its stored rows."""

    def __init__(self) -> None:
        self.state = BookingState("b")
        self.rows: dict[bytes, bytes] = {}
        self.largest = 0
        self.written = 0

    def fold(self, events: list[Event]) -> None:
        change = next(iter(apply_records([(self.state, events, ())], RULES)), None)
        for suffix, value in changed_rows(change)[0].items() if change else ():
            self.written += 1
            self.largest = max(self.largest, len(suffix) + len(value or b""))
            if value is None:
                self.rows.pop(suffix, None)
            else:
                self.rows[suffix] = value

    def is_what_it_stores(self) -> bool:
        """Whether loading the rows gives the state."""
        return load("b", self.rows, None, RULES) == self.state

    def attendance(self) -> tuple[AttendanceStatus, int]:
        seen = self.state.seen("s")
        assert seen is not None
        return seen.status, seen.number


def test_everybody_counts_once_and_rows_stay_small() -> None:
    stored = Stored()
    arrivals = [scan(who, START + who) for who in range(PEOPLE)]
    is_redelivery = random.Random(3).sample(arrivals, PEOPLE // 2)
    everything = [*arrivals, *is_redelivery]
    random.Random(4).shuffle(everything)
    for first in range(0, len(everything), 700):
        stored.fold(everything[first : first + 700])
    assert stored.attendance() == (AttendanceStatus.ATTENDED, PEOPLE)
    assert stored.largest < LARGEST_RECORD
    assert stored.written < PEOPLE * 1.2, "a batch writes the people it holds, not all of them"
    assert stored.is_what_it_stores()


def test_a_late_base_covers_those_before_it_and_their_rows_go() -> None:
    stored = Stored()
    stored.fold([scan(who, START + who) for who in range(PEOPLE)])
    half = PEOPLE // 2
    stored.fold([check_in(3, START + half - 1)])
    assert stored.attendance() == (AttendanceStatus.ATTENDED, half)
    assert len(stored.rows) == half + 1
    stored.fold([check_in(9000, START + half)])
    assert stored.attendance() == (AttendanceStatus.ATTENDED, 9000), "the desk counted more than the gate"
    assert stored.is_what_it_stores()
