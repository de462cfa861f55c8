"""The partition of a booking is Kafka's own choice."""

from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from worker.topics import murmur2, partition_of


@given(st.binary(max_size=70))
def test_murmur2_is_kafkas(key: bytes) -> None:
    assert murmur2(key) == theirs(key) & 0xFFFFFFFF


def test_partitions_are_those_of_kafkas_partitioner() -> None:
    assert [partition_of(name, 16) for name in ("BK-000123", "a", "")] == [
        (theirs(name.encode()) & 0x7FFFFFFF) % 16 for name in ("BK-000123", "a", "")
    ]
