"""Which sources a partition keeps, and the minute of an arrival in a packed row."""

from random import Random

import pytest

from schemas.attendance import AttendanceStatus
from schemas.events import Event
from worker.domain.devices import MOST_DEVICES, Devices, device_rows, devices_of
from worker.domain.fold import NOTHING, fold, order_key
from worker.domain.row_codec import OtherFormat, arrival_minute, pack_status
from worker.domain.rows import merge_attendance_rows
from worker.read_model.devices import unpack_newest
from worker.stream.decode_batch import events_by_source

TOLERANCE = 300_000_000
MINUTE = 60_000_000
SCANNED = "attendance.participant_scanned"
NOW = 1_795_000_000_000_000


def event(time: int, source: str = "/gate", kind: str = "attendance.check_in", received: int = 0, status: str = "") -> Event:
    return Event(kind, "b", "s", time, source, "1", status, None, "p", received or max(time, NOW))


def test_the_newest_event_of_each_source_is_found_in_any_order() -> None:
    chance = Random(5)
    events = [event(NOW + chance.randrange(9) * MINUTE, f"/gate/{chance.randrange(4)}", received=NOW) for _ in range(200)]
    expected = {
        source: max(
            (min(each.time, each.received + TOLERANCE), each.time, each.received) for each in events if each.source == source
        )
        for source in {each.source for each in events}
    }
    for _ in range(5):
        chance.shuffle(events)
        found = events_by_source(events, TOLERANCE)
        assert {source: tuple(unpack_newest(each.newest)) for source, each in found.items()} == expected
        assert all((each.time, each.received) == expected[source][1:] for source, each in found.items())


def test_the_sources_that_are_silent_longest_leave() -> None:
    devices = Devices({}, most=2)
    assert devices.update({"a": b"3", "b": b"5"}) == {"a": b"3", "b": b"5"}
    assert devices.update({"c": b"4"}) == {"a": None, "c": b"4"}
    assert devices.update({"a": b"3", "c": b"6"}) == {"a": None, "c": b"6"}
    assert devices.update({"a": b"7", "d": b"5"}) == {"a": b"7", "b": None, "d": None}
    assert devices.newest() == {"a": b"7", "c": b"6"}
    assert Devices({"a": b"1", "b": b"2", "c": b"2"}, most=2).left == ["a"]
    assert devices.lacking({"a": b"7", "c": b"5", "d": b"5"}) == []
    assert devices.lacking({"a": b"8", "c": b"6", "d": b"6", "b": b"1"}) == ["a", "d"]


def test_many_invented_sources_cost_little_and_leave() -> None:
    devices = Devices({})
    for number in range(3 * MOST_DEVICES):
        devices.update({f"/invented/{number}": b"%08d" % number})
    assert len(devices.newest()) == MOST_DEVICES
    assert f"/invented/{2 * MOST_DEVICES}" in devices.newest()
    assert f"/invented/{2 * MOST_DEVICES - 1}" not in devices.newest()


def test_rows_of_sources_merge_to_the_newest() -> None:
    ((suffix, old),) = device_rows({"/gate/ä": b"1" * 24}).items()
    ((_, new),) = device_rows({"/gate/ä": b"2" * 24}).items()
    assert old is not None
    assert new is not None
    assert merge_attendance_rows(suffix, old, new) == merge_attendance_rows(suffix, new, old) == new
    assert devices_of({suffix: new, b"\x01applied": b"x"}) == {"/gate/ä": b"2" * 24}
    assert device_rows({"/gate/ä": None}) == {suffix: None}
    with pytest.raises(OtherFormat):
        devices_of({suffix: b"\0" + new[1:]})


def test_the_minute_of_an_arrival() -> None:
    check_in, no_show = event(NOW), event(NOW + 5 * MINUTE, kind="attendance.no_show")
    cleared, scan = event(NOW + 7 * MINUTE, kind="attendance.cleared"), event(NOW + 9 * MINUTE, kind=SCANNED)
    set_attended = event(NOW + 8 * MINUTE, kind="attendance.set", status=str(AttendanceStatus.ATTENDED))
    attended = pack_status(0, 1)
    for events, expected in (
        ([check_in], 0),
        ([check_in, event(NOW - MINUTE, kind="attendance.no_show")], 0),
        ([check_in, scan], 9),
        ([no_show, scan], 9),
        ([cleared, scan], 9),
        ([check_in, set_attended], 8),
        ([check_in, set_attended, scan], 9),
    ):
        row, _ = fold(NOTHING, {}, [(order_key(each, TOLERANCE), each) for each in events], -(1 << 63))
        assert arrival_minute(row, attended) == NOW // MINUTE + expected
        assert arrival_minute(row, pack_status(1, 0)) == arrival_minute(row, b"") == 0


@pytest.mark.parametrize(("time", "minute"), [(-5 * MINUTE, 1), (0, 1), (MINUTE, 1), (2 * MINUTE - 1, 1), (2 * MINUTE, 2)])
def test_arrivals_before_1970_count_for_its_first_minutes(time: int, minute: int) -> None:
    each = event(time, received=NOW)
    row, _ = fold(NOTHING, {}, [(order_key(each, TOLERANCE), each)], -(1 << 63))
    assert arrival_minute(row, pack_status(0, 1)) == minute
