"""A search of a fetch finds every record, moves over every offset, and fails where a whole read would fail."""

import random
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from worker.engine.batch_search import SearchedRecords

NEEDLE = b"needle"


def batch(rng: random.Random, offset: int, count: int, codec: int, found: float) -> bytes:
    """A record batch of which a share of the records hold the needle, in key, value or header."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2**30)
    for number in range(count):
        value, key = rng.randbytes(rng.randrange(60)), rng.choice((None, b"k"))
        headers: list[tuple[str, bytes | None]] = rng.choice(([], [("name", None)], [("name", b"value")]))
        if rng.random() < found:
            place = rng.randrange(3)
            key, value = (NEEDLE, value) if place == 0 else (key, value + NEEDLE)
            headers = [("name", NEEDLE)] if place == 2 else headers
        assert builder.append(number, 1_000 + number, key, value, headers) is not None
    built = bytearray(builder.build())
    built[:8] = offset.to_bytes(8)
    return bytes(built)


def fetched(seed: int) -> tuple[bytes, list[int]]:
    """The content of a fetch, and where its batches begin."""
    rng, offset, content = random.Random(seed), 0, b""
    begins = []
    for _ in range(rng.randrange(1, 30)):
        count = rng.choice((1, 5, 40, 300))
        begins.append(len(content))
        content += batch(rng, offset, count, rng.randrange(5), rng.choice((0, 0, 0, 0.01, 0.1, 0.7, 1)))
        offset += count + rng.choice((0, 0, 3))
    return content, begins


def read(records: Any, begin: int = 0) -> tuple[list[Any], int, str]:
    """What a consumer takes of a fetch, the offset that it reads next, and the error that ended it."""
    source = PartitionRecords(TopicPartition("t", 0), records, [], begin, None, None, True, 1)
    taken: list[Any] = []
    try:
        taken.extend(source)
    except Exception as error:  # noqa: BLE001 - the same one is wanted twice
        return taken, source.next_fetch_offset, type(error).__name__
    return taken, source.next_fetch_offset, ""


def holds(record: Any) -> bool:
    return NEEDLE in b"".join([record.key or b"", record.value or b"", *(value or b"" for _, value in record.headers)])


def search(content: bytes) -> SearchedRecords:
    return SearchedRecords(content, lambda held: NEEDLE in held)


@pytest.mark.parametrize("seed", range(60))
def test_a_search_finds_what_a_whole_read_finds(seed: int) -> None:
    content, _ = fetched(seed)
    # the fetch may begin within a batch, and end within one
    begin, cut = random.Random(seed).randrange(3), len(content) - random.Random(seed).randrange(2) * 7
    whole, end, error = read(MemoryRecords(content[:cut]), begin)
    found, found_end, found_error = read(search(content[:cut]), begin)
    assert (found_end, found_error) == (end, error)
    assert [each for each in found if holds(each)] == [each for each in whole if holds(each)]
    assert set(map(repr, found)) <= set(map(repr, whole))


@pytest.mark.parametrize("seed", range(60))
def test_a_search_fails_where_a_whole_read_fails(seed: int) -> None:
    content, begins = fetched(seed)
    rng, broken = random.Random(seed), bytearray(content)
    # behind the length, which tells where the next batch begins
    broken[rng.choice(begins) + 17 + rng.randrange(44)] ^= 1 << rng.randrange(8)
    whole, end, error = read(MemoryRecords(bytes(broken)))
    found, found_end, found_error = read(search(bytes(broken)))
    assert (found_end, found_error) == (end, error)
    assert error == "CorruptRecordException"
    assert [each for each in found if holds(each)] == [each for each in whole if holds(each)]


def test_of_a_batch_only_records_that_are_found_are_read() -> None:
    rng = random.Random(1)
    content = batch(rng, 0, 500, 0, 0) + batch(rng, 500, 1, 0, 1)
    planted = bytearray(batch(rng, 501, 1000, 3, 0.01))
    found, end, _ = read(search(content + bytes(planted)))
    assert end == 1501
    assert all(map(holds, found))
    assert 1 < len(found) < 40


def test_batches_of_the_old_format_are_read_whole() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 2**20)
    for number in range(3):
        assert builder.append(number, 1_000, None, b"hay %d" % number) is not None
    found, end, error = read(search(bytes(builder.build())))
    assert ([each.value for each in found], end, error) == ([b"hay 0", b"hay 1", b"hay 2"], 3, "")
