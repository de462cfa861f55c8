"""How a tail packs groups of records into record batches; read back by aiokafka's own reader, so no broker is needed.

Holds the private names of aiokafka's `BatchBuilder` that the engine leans on.
"""

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.partition_appender import Record, pack

ROOM = 1000
ENOUGH = 750
Batch = list[Record]


def builder() -> BatchBuilder:
    return BatchBuilder(ROOM, 0)


def unpack(batch: BatchBuilder) -> Batch:
    assert batch.closed()
    buffer = MemoryRecords(bytes(batch._build()))
    records = [record for each in iter(buffer.next_batch, None) for record in each]
    assert [record.offset for record in records] == list(range(batch.record_count()))
    return [(record.key, record.value) for record in records]


def packed(groups: list[Batch]) -> list[tuple[Batch, bool]]:
    return [(unpack(batch), follows) for batch, follows in pack(builder, groups, ENOUGH)]


def group(number: int, records: int, size: int) -> Batch:
    return [(b"%d\0%d" % (number, each), b"x" * size) for each in range(records)]


def fits(records: Batch) -> bool:
    batch = builder()
    return all(batch.append(timestamp=None, key=key, value=value) is not None for key, value in records)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 400)), max_size=30))
def test_order_stays_and_a_group_that_fits_is_in_one_batch(shapes: list[tuple[int, int]]) -> None:
    groups = [group(number, *shape) for number, shape in enumerate(shapes)]
    batches = packed(groups)
    assert [record for batch, _ in batches for record in batch] == [record for each in groups for record in each]
    for each in groups:
        holding = [follows for batch, follows in batches if set(each) & set(batch)]
        assert holding == [False] or not fits(each)
        assert not any(holding[:1])
        assert all(holding[1:])


def test_small_groups_share_batches() -> None:
    batches = packed([group(number, 2, 10) for number in range(100)])
    assert all(len(batch) > 20 for batch, _ in batches[:-1])


def test_a_group_without_room_takes_the_next_batch() -> None:
    first, large = group(0, 1, 600), group(1, 3, 250)
    assert packed([first, large]) == [(first, False), (large, False)]


def test_a_group_too_large_for_one_batch_is_sent_part_after_part() -> None:
    before, large, after = group(0, 1, 10), group(1, 7, 400), group(2, 1, 10)
    batches = packed([before, large, after])
    assert [follows for _, follows in batches] == [False, False, True, True, True, False]
    assert batches[0] == (before, False)
    assert batches[-1] == (after, False)


@pytest.mark.parametrize("size", [ROOM, 10 * ROOM])
def test_a_record_too_large_for_any_batch_is_sent_alone(size: int) -> None:
    large, after = group(0, 1, size), group(1, 1, 1)
    assert packed([large, after]) == [(large, False), (after, False)]


def test_deletions_and_empty_groups_are_packed() -> None:
    gone: Batch = [(b"a\0b", None)]
    assert packed([gone]) == [(gone, False)]
    assert packed([]) == packed([[]]) == []
