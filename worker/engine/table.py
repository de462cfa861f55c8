"""A table partitioned like its source topic: rows in a store, kept by a changelog that is always ahead of them.

A row's key is its group, NUL and a suffix; the rows of a group are read together and are written in one record batch,
which Kafka appends whole or not at all. Rows must merge: what recovery reads is merged, not replaced, so that neither an
old record appended late by a stalled worker nor reading a record twice changes anything. Compaction does not merge: where
the last record of a key is not the row, the row is written again, by `settle` after a recovery and by `mend` later. The
store's mark waits before such records until that is done, so that a worker which dies meanwhile meets them again.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from zlib import crc32

from aiokafka import AIOKafkaProducer, ConsumerRecord

from worker.engine.partition_appender import Group, Tail, look, read
from worker.engine.stores.base import SEPARATOR, Mark, MemoryStore, Record, Store

__all__ = ["SEPARATOR", "Merge", "Rows", "Table"]

#: Foreign records that are mended at a time.
_MEND_AT_ONCE = 10_000

Rows = Mapping[bytes, bytes | None]
"""Changed rows of one group by suffix; None: the row is gone. Only rows that others make void may be deleted."""
Merge = Callable[[bytes, bytes, bytes], bytes]
"""(suffix, one row, other row) -> the row that holds what both hold."""


@dataclass(slots=True)
class _Partition:
    tail: Tail
    latest: Mark | None
    """The end of what is in the rows; it becomes the store's mark when nothing before it is left to write again."""
    unsettled: dict[bytes, None] = field(default_factory=dict)
    """Keys whose last record in the changelog is not their row."""
    mending: list[range] = field(default_factory=list)
    """Foreign offsets whose keys are not written again yet."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from looking at rows to their being appended, so that no older row follows a newer one."""

    @property
    def mark(self) -> Mark | None:
        """What the store may be told; None: nothing new."""
        return None if self.unsettled or self.mending or self.tail.foreign else self.latest


class Table:
    """The rows of the partitions that this worker owns."""

    def __init__(self, changelog: str, merge: Merge, batch_bytes: int, store: Store | None = None, number: int = 0) -> None:
        """
        Args:
            changelog: name of the changelog topic.
            merge: how two rows of one key become one.
            batch_bytes: the largest record batch of the producers that flush.
            store: where rows rest; None: in memory.
            number: of this table in the store, the same for ever.
        """
        self.changelog = changelog
        self._batch_bytes = batch_bytes
        self._merge = merge
        self._rows = (MemoryStore() if store is None else store).table(number)
        self._partitions: dict[int, _Partition] = {}

    def open(self, partition: int) -> int:
        """Begins to hold a partition, or goes on with what is still there; the changelog offset to read on from.

        Reading on finds again what was to be settled or mended.
        """
        mark = self._rows.mark(partition)
        # made anew: whoever still works on what was held before must not write what it finds
        self._partitions[partition] = _Partition(Tail(self.changelog, partition, self._batch_bytes), mark)
        self._rows.begin_filling(partition)
        return mark.offset if mark else 0

    def close(self, partition: int) -> None:
        """Holds a partition no more; what its store keeps is found when it is opened again."""
        if self._partitions.pop(partition, None) is not None:
            self._rows.release(partition)

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions held."""
        return frozenset(self._partitions)

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        """All rows of each of these groups by suffix, empty where there is none: cheaper than each by itself."""
        return self._rows.rows(partition, groups)

    def get(self, partition: int, keys: Iterable[tuple[bytes, bytes]]) -> list[bytes | None]:
        """The rows of these groups and suffixes, None where there is none: cheaper than each by itself."""
        return self._rows.get(partition, [group + SEPARATOR + suffix for group, suffix in keys])

    def groups(self, partition: int) -> Iterator[bytes]:
        """Every group of a partition; not to be written to meanwhile."""
        return self._rows.groups(partition)

    def mark(self, partition: int) -> Mark | None:
        """Up to where of the changelog the partition's rows surely go."""
        return self._rows.mark(partition)

    def reset(self, partition: int) -> None:
        """Drops a partition's rows, because they are not the changelog's; it is recovered from offset 0."""
        self._rows.release(partition)
        self._rows.drop(partition)
        self.open(partition)

    def recover(self, partition: int, records: list[ConsumerRecord]) -> None:
        """Merges what was read from the changelog. A deletion changes nothing: others make the row void."""
        if not records:
            return
        held = self._partitions[partition]
        rows = {record.key: record.value for record in records}
        differing: dict[bytes, None] = {}
        if len(rows) < len(records):
            rows = self._merge_all(records, differing)
        deleted = [key for key, value in rows.items() if value is None]
        for key in deleted:
            del rows[key]
        for (key, value), old in zip(rows.items(), self._rows.get(partition, list(rows)), strict=True):
            if old is not None and old != value:
                rows[key] = merged = self._merge(key.partition(SEPARATOR)[2], old, value)
                if merged != value:
                    differing[key] = None
        self._note(held, chain(rows, deleted), differing)
        held.tail.next_offset = records[-1].offset + 1
        held.latest = Mark(held.tail.next_offset, checksum(records[-1].key, records[-1].value))
        self._rows.write(partition, rows.items(), held.mark)

    def _merge_all(self, records: Iterable[ConsumerRecord], differing: dict[bytes, None]) -> dict[bytes, bytes | None]:
        """The rows by key that records with repeated keys make; of those that are not their last record the keys."""
        rows: dict[bytes, bytes | None] = {}
        for record in records:
            key, value = record.key, record.value
            old = rows.get(key)
            if value is None:
                rows.setdefault(key, None)
                differing.pop(key, None)
                continue
            if old is None or old == value:
                rows[key] = value
                differing.pop(key, None)
                continue
            rows[key] = merged = self._merge(key.partition(SEPARATOR)[2], old, value)
            if merged != value:
                differing[key] = None
            else:
                differing.pop(key, None)
        return rows

    def _note(self, held: _Partition, keys: Iterable[bytes], differing: Mapping[bytes, None]) -> None:
        if held.unsettled:
            for key in keys:
                held.unsettled.pop(key, None)
        held.unsettled.update(differing)

    def recovered(self, partition: int, end: int) -> None:
        """The changelog was read to this offset; whoever writes there before this table does is foreign."""
        self._partitions[partition].tail.next_offset = end
        self._rows.end_filling(partition)

    async def settle(self, producer: AIOKafkaProducer, partition: int) -> int:
        """Writes the rows again whose last record, as recovery read it, is not the merged one; how many.

        Raises:
            aiokafka.errors.KafkaError: not (known to be) appended; doing the same again is harmless.
        """
        held = self._partitions[partition]
        async with held.lock:
            keys = list(held.unsettled)
            for start in range(0, len(keys), _MEND_AT_ONCE):
                some = keys[start : start + _MEND_AT_ONCE]
                await self._write_again(producer, partition, held, some)
                for key in some:
                    held.unsettled.pop(key, None)
            self._write(partition, held, ())
        return len(keys)

    async def flush(self, producer: AIOKafkaProducer, partition: int, changes: Mapping[bytes, Rows]) -> None:
        """Appends changed rows to the changelog, waits until they are there, then makes them the partition's rows.

        Raises:
            aiokafka.errors.KafkaError: not (known to be) appended; flushing the same again is harmless.
        """
        held = self._partitions[partition]
        groups = [_records(group, rows) for group, rows in changes.items() if rows]
        if groups:
            async with held.lock:
                await self._append(producer, held, groups)
                self._write(partition, held, chain.from_iterable(groups))

    def foreign(self, partition: int) -> bool:
        """Whether somebody else wrote to the partition's changelog, and `mend` is due."""
        held = self._partitions[partition]
        return bool(held.tail.foreign or held.mending)

    async def check(self, client: Mapping[str, Any]) -> None:
        """Asks for the ends of all changelogs held, so that `foreign` also tells of partitions that write nothing.

        Raises:
            aiokafka.errors.KafkaError: the broker cannot be asked.
        """
        await look([held.tail for held in self._partitions.values()], client)

    async def mend(self, producer: AIOKafkaProducer, partition: int, client: Mapping[str, Any]) -> int:
        """Writes the rows again whose keys somebody else wrote, so that compaction keeps ours; how many keys those were.

        A row that is not here is left where it is: what made it is in the source topics, and comes to this owner too. The
        caller makes sure that it still owns the partition.

        Raises:
            Undecided: an open transaction holds some of the foreign records; what came before them is mended.
            TimeoutError: the foreign records cannot be read.
            aiokafka.errors.KafkaError: the same, or not (known to be) appended; doing it again is harmless.
        """
        held, count = self._partitions[partition], 0
        async with held.lock:
            held.mending += held.tail.take_foreign()
            while held.mending:
                span = held.mending[0]
                some = range(span.start, min(span.stop, span.start + _MEND_AT_ONCE))
                records = await read(client, self.changelog, partition, some)
                count += await self._mend(producer, partition, held, records)
                held.mending[:1] = [range(some.stop, span.stop)] if some.stop < span.stop else []
            self._write(partition, held, ())
        return count

    async def _mend(self, producer: AIOKafkaProducer, partition: int, held: _Partition, records: list[ConsumerRecord]) -> int:
        keys = list(dict.fromkeys(record.key for record in records))
        await self._write_again(producer, partition, held, keys)
        if records and (end := records[-1].offset + 1) == held.tail.next_offset:
            held.latest = Mark(end, checksum(records[-1].key, records[-1].value))
        return len(keys)

    async def _write_again(self, producer: AIOKafkaProducer, partition: int, held: _Partition, keys: list[bytes]) -> None:
        groups: dict[bytes, list[Record]] = {}
        for key, value in zip(keys, self._rows.get(partition, keys), strict=True):
            if value is not None:
                groups.setdefault(key.partition(SEPARATOR)[0], []).append((key, value))
        if groups:
            await self._append(producer, held, list(groups.values()))

    async def _append(self, producer: AIOKafkaProducer, held: _Partition, groups: list[Group]) -> None:
        await held.tail.append(producer, groups)
        assert held.tail.next_offset is not None
        held.latest = Mark(held.tail.next_offset, checksum(*groups[-1][-1]))

    def _write(self, partition: int, held: _Partition, records: Iterable[Record]) -> None:
        # a partition that was closed meanwhile may be another worker's; it is read on from where its mark stands
        if self._partitions.get(partition) is held:
            self._rows.write(partition, records, held.mark)


def checksum(key: bytes, value: bytes | None) -> int:
    """32 bits of a record."""
    return crc32(value or b"", crc32(key))


def _records(group: bytes, rows: Rows) -> Group:
    start = group + SEPARATOR
    records = [(start + suffix, value) for suffix, value in rows.items()]
    if None in rows.values():
        # rows that make others void go first: a deletion in a later batch then deletes what is void already
        records.sort(key=_is_deletion)
    return records


def _is_deletion(record: Record) -> bool:
    return record[1] is None
