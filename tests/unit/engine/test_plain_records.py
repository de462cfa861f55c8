"""Plain records are those that aiokafka itself returns, however its batches are, and however many are taken at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import example, given
from hypothesis import strategies as st

from worker.engine.plain_records import FEW, make_plain, take_plain

COMMITTED = 1
Batch = tuple[int, int, bool, int]
"""Records, producer, whether it is a transaction's, and the codec."""

counts = st.integers(1, 9) | st.integers(FEW, FEW + 9)
batches = st.lists(st.tuples(counts, st.integers(0, 2), st.booleans(), st.sampled_from([0, 1, 3])), max_size=6)


def log_of(found: Sequence[Batch], control: Sequence[int], *, magic: int = 2) -> bytes:
    """A log from offset 0; behind the batches of these indexes a transaction marker, an abort."""
    content, offset = bytearray(), 0
    for index, (count, producer, is_transactional, codec) in enumerate(found):
        if magic == 2:
            builder: Any = DefaultRecordBatchBuilder(2, codec, is_transactional, producer, 0, 0, 1 << 20)
        else:
            builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
        for number in range(count):
            builder.append(number if magic == 2 else offset + number, 0, b"k%d" % (offset + number), b"v", [])
        content += placed(builder.build(), offset) if magic == 2 else builder.build()
        offset += count
        if magic == 2 and index in control:
            content += marker(offset, producer)
            offset += 1
    return bytes(content)


def placed(batch: bytearray, offset: int) -> bytearray:
    """A batch at an offset of the log; its checksum does not cover that."""
    batch[:8] = offset.to_bytes(8, "big")
    return batch


def marker(offset: int, producer: int) -> bytearray:
    """The end of an aborted transaction."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, producer, 0, 0, 1 << 20)
    builder.append(0, 0, b"\0\0\0\0", b"\0\0\0\0\0\0", [])
    batch = builder.build()
    batch[22] |= 0x20  # attributes: a control batch
    return placed(batch, offset)


def source_of(content: bytes, begin: int, aborted: Sequence[tuple[int, int]] = ()) -> PartitionRecords:
    tp = TopicPartition("topic", 0)
    return PartitionRecords(tp, MemoryRecords(content), list(aborted), begin, None, None, False, COMMITTED)


def seen(records: Sequence[Any]) -> list[tuple[int, bytes, bytes]]:
    return [(record.offset, record.key, record.value) for record in records]


def taken_of(source: PartitionRecords, at_once: int) -> list[Any]:
    """All records, so many at a time, and fewer only at the end."""
    taken, count = list[Any](), at_once
    make_plain(source)
    while count == at_once:
        some: list[Any] = []
        take_plain(source, some, at_once)
        count = len(some)
        assert count <= at_once
        taken += some
    return taken


@given(batches, st.sets(st.integers(0, 5)), st.integers(0, 8), st.integers(1, 12), st.sets(st.integers(0, 2)))
@example([(9, 0, False, 0)], set(), 4, 3, set())
@example([(FEW + 9, 0, False, 0)], set(), 4, 3, set())
@example([(3, 1, True, 1), (3, 2, False, 0)], {0}, 0, 100, {1})
def test_plain_records_are_those_of_the_client(
    found: list[Batch], control: set[int], begin: int, at_once: int, aborted: set[int]
) -> None:
    """Of any batches, from any offset of the first; never more than are asked for, and fewer only at the end."""
    begin %= found[0][0] if found else 1  # a broker returns no batch that ends before
    content, transactions = log_of(found, sorted(control)), [(producer, 0) for producer in aborted]
    expected = source_of(content, begin, transactions)
    wanted = seen(list(expected))
    source = source_of(content, begin, transactions)
    taken = taken_of(source, at_once)
    assert seen(taken) == wanted
    assert source.next_fetch_offset == expected.next_fetch_offset


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_old_formats_are_read(magic: int, codec: int, at_once: int) -> None:
    content = log_of([(3, 0, False, codec)], (), magic=magic)
    wanted = seen(list(source_of(content, 0)))
    assert len(wanted) == 3
    assert seen(taken_of(source_of(content, 0), at_once)) == wanted


@pytest.mark.parametrize("count", [3, FEW + 1])
@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_records_before_one_that_cannot_be_decoded_come(at_once: int, count: int) -> None:
    content = bytearray(log_of([(2, 0, False, 0), (count, 0, False, 0)], ()))
    content[content.rindex(b"k%d" % (count + 1)) - 1] = 0x7F  # the length of the last key
    source, taken = source_of(bytes(content), 0), list[Any]()
    make_plain(source)
    taking = (take_plain(source, taken, len(taken) + at_once) for _ in repeat(None))
    with pytest.raises(CorruptRecordException):
        list(taking)
    assert [record.key for record in taken] == [b"k%d" % offset for offset in range(count + 1)]
    assert source.next_fetch_offset == count + 1
