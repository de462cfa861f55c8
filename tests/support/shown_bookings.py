"""The records of bookings and the indexes by booking, as the entries of writes make them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import unpack_from
from typing import Any

from schemas.alerts import AlertKind
from schemas.attendance import STATUSES, Attendance, guid_bytes
from worker.read_model import booking_records
from worker.read_model.booking_records import (
    MOST_MARKED,
    NO_ATTENDANCE,
    attendances_of,
    is_frequent,
    is_large,
    number_of,
    status_of,
)
from worker.read_model.keys import booking_bucket, member_of_record
from worker.read_model.write_batch import UNKNOWN, RecordMember


class ShownBookings:
    """What readers find by booking."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self._index: list[set[bytes]] = [set() for _ in STATUSES]
        """By status, the members of its index by booking."""
        self._rated: dict[bytes, float] = {}

    def take(self, entry: bytes) -> None:
        if entry[0] == 1:
            self._move(entry)
            return
        bucket, length = unpack_from(">HH", entry, 1)
        name = entry[5 : 5 + length]
        assert bucket == booking_bucket(name)
        record_member, rate, size = unpack_from(">BdH", entry, 5 + length)
        record = entry[16 + length :]
        assert len(record) == size
        if record:
            self.records[name] = record
        else:
            self.records.pop(name, None)
        if RecordMember(record_member) is RecordMember.ADD:
            self._index[0].add(member_of_record(name))
        elif RecordMember(record_member) is RecordMember.REMOVE:
            self._index[0].discard(member_of_record(name))
        if rate < 0:
            self._rated[name] = -rate
        elif rate > 0:
            self._rated.pop(name, None)

    def _move(self, entry: bytes) -> None:
        (length,) = unpack_from(">H", entry, 1)
        end = 3 + length
        member, now, before = entry[3:end] + b"\0" + entry[end : end + 16], entry[end + 16], entry[end + 17]
        for status, members in enumerate(self._index):
            if before != UNKNOWN:
                # what the entry says was before is what is there
                assert (member in members) == (before == status)
            if status == now:
                members.add(member)
            else:
                members.discard(member)

    def check(self, attendances: Iterable[Attendance | None], alerts: Mapping[str, Mapping[str, Any]]) -> None:
        """Fails where they are not those of these attendances and open alerts."""
        self.check_bookings(attendances)
        frequent = {each["bookingId"].encode() for each in alerts.values() if each["kind"] == AlertKind.FREQUENT_NO_SHOWS}
        assert frequent == {name for name, record in self.records.items() if is_frequent(record)}

    def check_bookings(self, attendances: Iterable[Attendance | None]) -> None:
        """Fails where they are not those of these attendances."""
        reported: dict[bytes, dict[bytes, tuple[int, int]]] = {name: {} for name in self.records}
        for each in attendances:
            if each is not None:
                values = STATUSES.index(each["status"]), min(each["numberOfAttendees"], MOST_MARKED)
                reported[each["bookingId"].encode()][guid_bytes(each["id"])] = values
        index: list[set[bytes]] = [set() for _ in STATUSES]
        for name, found in reported.items():
            record = self.records[name]
            marked = attendances_of(record)
            assert is_large(record) == (len(found) > booking_records.MOST_IN_RECORD)
            if is_large(record):
                assert not marked
            else:
                assert [(identity, (status_of(mark), number_of(mark))) for mark, identity in marked] == sorted(found.items())
            for identity, (status, _) in found.items():
                stands_for_it = status == 0 and not is_large(record)
                index[status].add(member_of_record(name) if stands_for_it else name + b"\0" + identity)
        assert self._index == index
        assert NO_ATTENDANCE not in {status for found in reported.values() for status, _ in found.values()}
        rates = {name: booking_records.unpack_summary(record)["noShowRate"] for name, record in self.records.items()}
        assert self._rated == {name: rate for name, rate in rates.items() if rate}
