"""What is copied to the topics of another prefix: to the partition of its key, once, as it was received."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.decoding.explain import received_at
from schemas.events import MAX_BOOKING_BYTES, MIRRORED_HEADER, OFFSET_HEADER, RECEIVED_HEADER
from worker.ops.mirror import Copies
from worker.settings import Settings, load_settings
from worker.stream.originals import first_offset
from worker.topics import partition_of


def settings(topic_prefix: str, partitions: int) -> Settings:
    return load_settings(_env_file=None, topic_prefix=topic_prefix, partitions=partitions)


OLD, NEW = settings("old", 4), settings("new", 6)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "Attendance-Received", RECEIVED_HEADER, OFFSET_HEADER, MIRRORED_HEADER, "other"]),
        st.sampled_from([b"old", b"older", b"7", b"2026-11-01T10:00:00.000001Z", b"", None]),
    ),
    max_size=4,
)


def record(topic: str, **fields: Any) -> Any:
    given = {"topic": topic, "partition": 3, "offset": 9, "timestamp": 1_795_341_600_123, "key": b"BK-1", "value": b"{}"}
    return SimpleNamespace(**{**given, "headers": [], **fields})


@given(_HEADERS, st.sampled_from(["events", "bookings"]), st.one_of(st.none(), st.binary(max_size=20)), st.integers(0, 20))
def test_a_copy_is_received_when_its_original_was(headers: Any, topic: str, key: bytes | None, offset: int) -> None:
    original = record(f"old.{topic}", headers=headers, key=key, offset=offset)
    (copy,) = Copies(OLD, NEW).of([original])
    assert (copy.topic, copy.key, copy.value) == (f"new.{topic}", key, b"{}")
    assert copy.partition in range(6)
    later = original.timestamp + 86_400_000
    assert received_at(copy.headers, later) == received_at(headers, original.timestamp)
    if topic == "bookings":
        assert first_offset(copy.headers, 1000) == first_offset(headers, offset)
    # what is none of ours goes along
    assert [each for each in copy.headers if each[0] == "other"] == [each for each in headers if each[0] == "other"]
    # and it is not copied back
    assert Copies(NEW, OLD).of([record(copy.topic, headers=copy.headers)]) == []
    assert len(Copies(NEW, settings("newer", 2)).of([record(copy.topic, headers=copy.headers)])) == 1


def test_a_copy_goes_to_the_partition_of_its_booking() -> None:
    names = [f"BK-{number}" for number in range(50)]
    copies = Copies(OLD, NEW).of([record("old.events", key=name.encode()) for name in names])
    assert [each.partition for each in copies] == [partition_of(name, 6) for name in names]


def test_what_nobody_can_use_is_copied_as_far_as_it_may_be_sent() -> None:
    """The value stays unusable; a key of no booking stays one."""
    (copy,) = Copies(OLD, NEW).of([record("old.bookings", key=b"k" * 2**20, value=b"v" * 2**24)])
    assert copy.key is not None
    assert copy.value is not None
    assert len(copy.key) < 2**16
    assert MAX_BOOKING_BYTES < len(copy.value) < 2 * MAX_BOOKING_BYTES
    (copy,) = Copies(OLD, NEW).of([record("old.events", key=None, value=None)])
    assert (copy.key, copy.value, copy.partition) == (None, None, 3)
