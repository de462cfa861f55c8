"""The alerts topic: replayed, its last record of each alertId is the open alerts; nothing is published twice."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_projection import CONTRADICTED, MISSED
from tests.support import oracle, subject
from tests.support.oracle import BookingRecord, Delivery
from tests.support.oracle.make import SCANNER, at, erased, ev, listed, missed, scan, upsert
from tests.support.oracle.reading import held_records
from tests.support.strategies import Batch, World, sized

OPENED, RESOLVED = "attendance.mismatch.opened", "attendance.mismatch.resolved"
STREAMS = st.one_of(CONTRADICTED, MISSED)
PLAIN = sized(70)


def by_alert(stream: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records of each alertId, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in stream:
        found.setdefault(record["data"]["alertId"], []).append(record)
    return found


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """What the oracle says of an alert, out of a record."""
    data = record["data"]
    attendance = None if data["kind"] == "FREQUENT_NO_SHOWS" else {**data["attendance"]}
    if attendance is not None:
        attendance.pop("id", None)
    return {"openedAt": data["openedAt"], "attendance": attendance}


def key(record: dict[str, Any]) -> tuple[str, str, str | None]:
    """What the alert is about."""
    data = record["data"]
    return data["kind"], data["bookingId"], data.get("sessionId")


@given(STREAMS)
@sized(150)
def test_replayed_stream_is_the_open_alerts(world: World) -> None:
    """The compacted topic holds the current state of each alert."""
    last = [records[-1] for records in by_alert(subject.published(world.batches)).values()]
    found = {key(record): shown(record) for record in last if record["type"] == OPENED}
    assert found == oracle.outcome(world.deliveries, world.records).alerts


@given(STREAMS)
@PLAIN
def test_only_changes_are_published(world: World) -> None:
    """No record repeats the state already published for its alertId, and only what was opened is resolved."""
    for records in by_alert(subject.published(world.batches)).values():
        assert records[0]["type"] == OPENED
        for before, after in pairwise(records):
            assert {before["type"], after["type"]} != {RESOLVED}
            assert (before["type"], before["data"]) != (after["type"], after["data"])
            assert before["id"] != after["id"]


@given(STREAMS)
@PLAIN
def test_alert_id_stands_for_kind_booking_and_session(world: World) -> None:
    """One alertId for each (kind, booking, session) and no other; types and resolvedAt go together."""
    stream = subject.published(world.batches)
    assert {record["type"] for record in stream} <= {OPENED, RESOLVED}
    assert all(("resolvedAt" in record["data"]) == (record["type"] == RESOLVED) for record in stream)
    ids = {(record["data"]["alertId"], key(record)) for record in stream}
    assert len(ids) == len({alert for alert, _ in ids}) == len({about for _, about in ids})


@given(STREAMS)
@PLAIN
def test_duplicates_publish_nothing(world: World) -> None:
    """Every delivery again, and the record of each booking that holds: no further record."""
    last = list(held_records(world.records).values())
    once = subject.published(world.batches)
    assert len(subject.published([*world.batches, world.deliveries, last])) == len(once)
    twice = [batch for batch in world.batches for _ in range(2 if isinstance(batch[0], Delivery) else 1)]
    assert len(subject.published(twice)) == len(once)


NULL = BookingRecord("b1", None)
SCRIPTS: list[tuple[str, str, list[Batch]]] = [
    ("STATUS_COUNT_MISMATCH", "the attendance", [[ev("check_in", at(m), n=n)] for m, n in enumerate((0, 1, 0))]),
    (
        "STATUS_COUNT_MISMATCH",
        "an erasure",
        [[ev("check_in", at(0), n=0)], [erased(at(1))], [ev("check_in", at(2), n=0)]],
    ),
    (
        "PARTICIPANTS_EXCEEDED",
        "the booking",
        [[ev("check_in", at(0), n=3)], [upsert(people=2)], [upsert(people=5)], [upsert(people=1)]],
    ),
    (
        "PARTICIPANTS_EXCEEDED",
        "the attendance",
        [[upsert(people=2)], *([ev("check_in", at(m), n=n)] for m, n in enumerate((3, 2, 4)))],
    ),
    (
        "BOOKING_CANCELED",
        "a null record",
        [[ev("check_in", at(0))], [upsert(status="CANCELED")], [NULL], [upsert(people=7, status="CANCELED")]],
    ),
    (
        "BOOKING_CANCELED",
        "a no-show",
        [[upsert(status="CANCELED")], [ev("check_in", at(0))], [ev("no_show", at(1))], [ev("check_in", at(2))]],
    ),
    (
        "UNKNOWN_SESSION",
        "the booking",
        [[ev("no_show", at(0))], *([upsert(sessions=listed(*s))] for s in ((), ("s1",), ("s2",)))],
    ),
    (
        "CONFLICTING_REPORTS",
        "a set",
        [
            [ev("no_show", at(0)), scan("p1", at(1))],
            [ev("set", at(2), status="ATTENDED")],
            [ev("no_show", at(3)), ev("check_in", at(4), by=SCANNER)],
        ],
    ),
    (
        "CLOCK_AHEAD",
        "a newer event",
        [
            [ev("check_in", at(60), received=at(0))],
            [ev("check_in", at(6))],
            [ev("check_in", at(90), received=at(10))],
        ],
    ),
    (
        "CLOCK_AHEAD",
        "a copy received when its time had come",
        [
            [ev("check_in", at(60), received=at(0))],
            [ev("check_in", at(60), received=at(56))],
            [ev("check_in", at(90), received=at(57))],
        ],
    ),
    (
        "FREQUENT_NO_SHOWS",
        "another session",
        [missed("s1", "s2", "s3"), [ev("deleted", at(9), s="s2")], [ev("no_show", at(10), s="s4")]],
    ),
]


@pytest.mark.parametrize(("kind", "by", "batches"), SCRIPTS, ids=[f"{kind} by {by}" for kind, by, _ in SCRIPTS])
def test_opens_resolves_and_opens_again(kind: str, by: str, batches: list[Batch]) -> None:
    """Each kind resolves when its cause goes, whichever side changed; a second opening has another id."""
    records = [record for record in subject.published(batches) if record["data"]["kind"] == kind]
    assert [record["type"] for record in records] == [OPENED, RESOLVED, OPENED], by
    assert len({record["id"] for record in records}) == len(records)
    assert len({record["data"]["alertId"] for record in records}) == 1


def test_each_erasure_resolves_with_an_id_of_its_own() -> None:
    """Nothing of an erased attendance is left to judge but when it was erased."""
    batches: list[Batch] = [[ev("check_in", at(0), n=0)], [erased(at(1))], [ev("check_in", at(2), n=0)], [erased(at(3))]]
    records = subject.published(batches)
    assert [record["type"] for record in records] == [OPENED, RESOLVED, OPENED, RESOLVED]
    assert len({record["id"] for record in records}) == len(records)


def test_open_alert_follows_the_attendance() -> None:
    """While it stays open a newer attendance is published, with its own openedAt: a function of the state."""
    batches: list[Batch] = [[upsert(people=2)], *([ev("check_in", at(m), n=n)] for m, n in enumerate((3, 4)))]
    records = subject.published(batches)
    assert [record["type"] for record in records] == [OPENED, OPENED]
    assert records[-1]["data"]["openedAt"] == "2026-11-22T10:01:00.000Z"
    assert records[-1]["data"]["attendance"]["numberOfAttendees"] == 4
