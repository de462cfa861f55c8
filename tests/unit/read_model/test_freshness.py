"""What a watermark says of freshness, and which time a batch counts as its newest."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.times import format_exact_time
from tests.support.incoming import MAX_AGE, RECEIVED, RECEIVED_MS
from worker.domain.rows import APPLIED_SUFFIX, Applied, merge_attendance_rows
from worker.read_model.freshness import STALE_AFTER, Freshness, Partition, find_problems, freshness_of
from worker.stream.decode_batch import read_events

NOW_MS = 1_795_341_600_000
MINUTE = 60_000_000
TOLERANCE = 5 * MINUTE
DECADES = 200 * 365 * 86_400_000_000


def partition(number: int = 0, written: float = 0, confirmed: tuple[float, float] = (0, 0), **fields: Any) -> Partition:
    """A watermark that was written, and whose ends Kafka confirmed, so many seconds ago."""
    ages = zip(("writtenAt", "events.confirmedAt", "bookings.confirmedAt"), (written, *confirmed), strict=True)
    mark = {"events.offset": "7", "events.end": "10", "bookings.offset": "3", "bookings.end": "3", "events.time": "2026"}
    mark |= {name: str(NOW_MS - round(age * 1000)) for name, age in ages}
    given = {name.replace("_", "."): str(value) for name, value in fields.items()}
    return Partition(number, "live", mark | given, NOW_MS)


def test_lag_is_known_while_worker_and_kafka_say_so() -> None:
    assert partition().lag == 3
    assert partition(written=STALE_AFTER - 0.1, confirmed=(STALE_AFTER - 0.1, 0)).lag == 3
    assert partition(events_offset=12).lag == 0, "the heartbeat is older than what was applied since"


def test_unknown_lag_is_no_number_and_is_known_within_5_s() -> None:
    late = STALE_AFTER + 0.01
    assert late < 5
    for each in (partition(written=late), partition(confirmed=(late, 0)), partition(confirmed=(0, late))):
        assert each.lag is None
        assert freshness_of([partition(), each]).lag is None


def test_a_watermark_without_a_heartbeat_is_endlessly_old() -> None:
    never = Partition(2, "not filled yet", {}, NOW_MS)
    assert (never.age, never.kafka_age, never.lag, never.has_owner) == (float("inf"), float("inf"), None, False)
    assert [each.code for each in find_problems([partition(), never])] == ["NO_WORKER"]
    assert "partition 2, no heartbeat yet" in find_problems([never])[0].description


def test_the_newest_of_all_partitions_is_shown() -> None:
    assert freshness_of([partition(events_time="2026"), partition(1, events_time="2027")]) == Freshness("2027", 6)


def test_no_event_time_is_shown_while_one_partition_is_lost() -> None:
    lost = Partition(1, "being repaired", {"writtenAt": str(NOW_MS)}, NOW_MS)
    assert freshness_of([partition(), lost]).event_time is None, "the lost one may have had the newest"


def test_troubles_name_partitions_and_cause() -> None:
    dead = [partition(number, written=60) for number in (0, 1, 2, 5)]
    frozen = [partition(number, confirmed=(30, 0)) for number in (3, 4)]
    stands = partition(6, bookings_unreadable=17)
    found = find_problems([*dead, *frozen, stands])
    assert [(each.code, each.partitions) for each in found] == [
        ("NO_WORKER", [0, 1, 2, 5]),
        ("KAFKA_AWAY", [3, 4]),
        ("UNREADABLE_BATCH", [6]),
    ]
    assert [each.blocks_all_progress for each in found] == [True, True, False]
    assert found[0].description.startswith("no worker owns partitions 0-2, 5, no heartbeat for 60 s: ")
    assert "offset 17 of bookings" in found[2].description
    assert find_problems([partition()]) == []


def test_mostly_bad_events_are_a_trouble_that_stops_nothing() -> None:
    fields = {"events_bad": 700, "events_badReason": "invalid-field", "events_badSource": "/kiosk-{7}"}
    (found,) = find_problems([partition(2, **fields), partition(3, **fields), partition(4, events_bad=400)])
    assert (found.code, found.partitions, found.blocks_all_progress) == ("BAD_EVENTS", [2, 3], False)
    assert found.description.startswith("up to 700 of the last 1,000 events of partitions 2-3 cannot be used, most often ")
    assert "of partitions 2-3 cannot be used, most often invalid-field from /kiosk-{7}: " in found.description


def test_troubles_while_a_partition_is_filled() -> None:
    filling = Partition(4, "being repaired", partition().mark, NOW_MS)
    assert [(each.code, each.partitions) for each in find_problems([filling])] == [("REPAIRING", [4])]


@given(st.lists(st.tuples(st.integers(-DECADES, DECADES), st.integers(0, 10 * MINUTE)), max_size=12))
def test_the_newest_time_of_a_batch_is_effective(offsets: list[tuple[int, int]]) -> None:
    """Whatever the order, and however far ahead a clock is."""
    times = [(RECEIVED + ahead, RECEIVED_MS + later // 1000) for ahead, later in offsets]
    records = [_record(number, time, received) for number, (time, received) in enumerate(times)]
    intake = read_events(records, lambda _: True, 2 * DECADES, TOLERANCE).contents
    assert not intake.dead_letters
    assert intake.newest == max((min(time, 1000 * received + TOLERANCE) for time, received in times), default=None)


def test_what_is_dead_or_of_another_partition_is_not_applied() -> None:
    records = [_record(0, RECEIVED, RECEIVED_MS), _record(1, RECEIVED - 2 * MAX_AGE, RECEIVED_MS)]
    assert read_events(records, lambda _: False, MAX_AGE, TOLERANCE).contents.newest is None


def test_applied_rows_keep_the_newest_of_each() -> None:
    one, other = Applied(5, 9, 100, -7), Applied(6, 8, 99, 3)
    merged = merge_attendance_rows(APPLIED_SUFFIX, one.encode(), other.encode())
    assert Applied.decode(merged) == Applied(6, 9, 100, 3)
    assert Applied.decode(None).merged(one) == one


def _record(number: int, time: int, received_ms: int) -> Any:
    document = {
        "specversion": "1.0",
        "id": str(number),
        "source": "/k",
        "type": "attendance.check_in",
        "time": format_exact_time(time),
        "data": {"bookingId": f"b{number}", "sessionId": "s"},
    }
    return SimpleNamespace(value=json.dumps(document).encode(), headers=(), timestamp=received_ms, key=None)


@pytest.mark.parametrize("age", [0.0, 3.0])
def test_the_clock_of_the_reader_does_not_count(age: float) -> None:
    shifted = {name: str(int(v) + 10**9) if name.endswith("At") else v for name, v in partition(written=age).mark.items()}
    assert Partition(0, "live", shifted, NOW_MS + 10**9).age == age
