"""Both changelogs of a partition in the order in which its owner wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from worker.domain.booking_state import BookingRecord, Place
from worker.domain.rows import APPLIED_SUFFIX, Applied, encode_reference
from worker.ops import changelog_steps
from worker.ops.changelog_steps import Parts, read_steps


class Record(NamedTuple):
    key: bytes
    value: bytes | None


def applied(bookings: int) -> Record:
    return Record(b"\0" + APPLIED_SUFFIX, Applied(bookings=bookings).encode())


def row(booking: bytes) -> Record:
    return Record(booking + b"\0s", b"row")


def booking_row(booking: bytes, offset: int) -> Record:
    return Record(booking + b"\0", encode_reference(BookingRecord(Place(offset, offset, offset), None, b"")))


async def parts(records: Sequence[Any], size: int) -> Parts:
    for start in range(0, len(records), size):
        yield None, list(records[start : start + size])  # type: ignore[misc]


def steps(attendance: Sequence[Record], bookings: Sequence[Record], at: int = 0, size: int = 100) -> list[list[bytes]]:
    async def reading() -> list[list[bytes]]:
        reading_steps = read_steps(parts(attendance, size), parts(bookings, size), at)
        return [[record.key for some in step for record in some] async for step in reading_steps]

    return asyncio.run(reading())


ONE, TWO = [applied(3), row(b"a")], [applied(5), row(b"b")]
ROWS = [booking_row(b"a", 2), booking_row(b"b", 3), booking_row(b"c", 4), booking_row(b"d", 5)]


def test_a_batch_has_its_rows_of_both_tables() -> None:
    first, second, rest = steps(ONE + TWO, ROWS)
    assert first == [ONE[0].key, b"a\0s", b"a\0"]
    assert second == [TWO[0].key, b"b\0s", b"b\0", b"c\0"]
    assert rest == [b"d\0"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_records_come_once_however_they_are_fetched(size: int) -> None:
    found = [key for step in steps(ONE + TWO, ROWS, size=size) for key in step]
    assert sorted(found) == sorted(record.key for record in ONE + TWO + ROWS)
    assert found.index(b"a\0") < found.index(b"b\0s")


def test_a_batch_whose_offsets_came_before_is_covered() -> None:
    assert steps([row(b"a")], ROWS[:1], at=3) == [[b"a\0s", b"a\0"]]


def test_a_deleted_row_of_bookings_is_read() -> None:
    assert steps(ONE, [Record(b"x\0", None)]) == [[ONE[0].key, b"a\0s", b"x\0"]]


def test_many_rows_come_in_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog_steps, "_AT_ONCE", 2)
    assert [len(step) for step in steps([], ROWS)] == [2, 2]
    assert [len(step) for step in steps([applied(9)], ROWS)] == [3, 2]
