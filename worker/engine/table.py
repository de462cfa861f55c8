"""A table partitioned like its source topic: rows in a store, and a changelog to which each change is appended first.

A row's key is its group, NUL and a suffix. The rows of a group are read together and written in one record batch, which
Kafka appends as a whole or not at all. Rows must merge: recovery merges records instead of taking the last one, so that
neither an old record that a stalled worker appends late nor a record that is read twice changes anything. Compaction does
not merge: if the last record of a key is not the row, the row is appended again, after a recovery by `rewrite_recovered`, later
by `rewrite`. Until then the store's checkpoint stays before such records, so that the next recovery reads them again.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from zlib import crc32

from aiokafka import AIOKafkaProducer, ConsumerRecord

from worker.engine.gathering import Gathering
from worker.engine.partition_appender import Group, PartitionAppender, check_ends, read
from worker.engine.stores.base import SEPARATOR, Checkpoint, Record, Store
from worker.engine.stores.memory import MemoryStore

__all__ = ["SEPARATOR", "Merge", "Rows", "Table", "records_of"]

#: Rows that are rewritten at a time.
_REWRITTEN_AT_ONCE = 10_000
#: A flush of so many groups does not wait for those of other partitions.
_FLUSHED_ALONE = 500

Rows = Mapping[bytes, bytes | None]
"""Changed rows of one group by suffix; None: the row is deleted. Only rows that other rows make void may be deleted."""
Merge = Callable[[bytes, bytes, bytes], bytes]
"""(suffix, one row, other row) -> the merged row, which holds what both hold."""


@dataclass(slots=True)
class _Partition:
    appender: PartitionAppender
    latest: Checkpoint | None
    """The end of what the rows contain; it becomes the store's checkpoint once no row is left to rewrite."""
    outdated_keys: dict[bytes, None] = field(default_factory=dict)
    """Keys whose last record in the changelog is not the merged row; they are to be rewritten."""
    foreign_offsets: list[range] = field(default_factory=list)
    """Offsets of foreign writes whose keys are not rewritten yet."""
    deleted_keys: set[bytes] = field(default_factory=set)
    """Keys of rows whose last record in the changelog was a deletion; `recover` does not delete them."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from reading rows until they are appended, so that no older row follows a newer one."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint for the store; None: it stays."""
        return None if self.outdated_keys or self.foreign_offsets or self.appender.foreign_writes else self.latest


class Table:
    """The rows of the partitions that this worker owns."""

    def __init__(
        self,
        changelog: str,
        merge: Merge,
        batch_bytes: int,
        store: Store | None = None,
        number: int = 0,
        gathering: Gathering | None = None,
    ) -> None:
        """
        Args:
            changelog: name of the changelog topic.
            merge: merges two rows of the same key.
            batch_bytes: the largest record batch of the producers that flush.
            store: for the rows; None: in memory.
            number: of this table in the store; it must never change.
            gathering: lets small flushes of several partitions leave together; None: each leaves at once.
        """
        self.changelog = changelog
        self._batch_bytes = batch_bytes
        self._merge = merge
        self._gathering = gathering
        self._rows = (MemoryStore() if store is None else store).table(number)
        self._partitions: dict[int, _Partition] = {}

    def open(self, partition: int) -> int:
        """Opens a partition with the rows that the store has; returns the changelog offset from which to recover.

        The recovery also finds which rows are still to be rewritten.
        """
        checkpoint = self._rows.checkpoint(partition)
        # a new object: tasks of an earlier owner in this process must not write to the store any more
        self._partitions[partition] = _Partition(PartitionAppender(self.changelog, partition, self._batch_bytes), checkpoint)
        self._rows.begin_filling(partition)
        return checkpoint.offset if checkpoint else 0

    def close(self, partition: int) -> None:
        """Closes a partition. Its store may keep the rows for the next `open`."""
        if self._partitions.pop(partition, None) is not None:
            self._rows.release(partition)

    @property
    def partitions(self) -> frozenset[int]:
        """The open partitions."""
        return frozenset(self._partitions)

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        """All rows of each group, by suffix. Cheaper than one call per group."""
        return self._rows.rows(partition, groups)

    def get(self, partition: int, keys: Iterable[tuple[bytes, bytes]]) -> list[bytes | None]:
        """The rows of these (group, suffix), None if there is none. Cheaper than one call per row."""
        return self._rows.get(partition, [group + SEPARATOR + suffix for group, suffix in keys])

    def groups(self, partition: int) -> Iterator[bytes]:
        """Every group of a partition, which must not be written to meanwhile."""
        return self._rows.groups(partition)

    def checkpoint(self, partition: int) -> Checkpoint | None:
        """The changelog offset up to which the partition's stored rows are complete."""
        return self._rows.checkpoint(partition)

    def reset(self, partition: int) -> None:
        """Drops a partition's rows, which are not of this changelog; it is recovered from offset 0."""
        self._rows.release(partition)
        self._rows.drop(partition)
        self.open(partition)

    def recover(self, partition: int, records: list[ConsumerRecord]) -> None:
        """Merges records of the changelog. A deletion changes nothing: other rows make the deleted row void."""
        if not records:
            return
        state = self._partitions[partition]
        rows = {record.key: record.value for record in records}
        if state.deleted_keys:
            state.deleted_keys.difference_update(rows)
        deleted = _deleted(rows)
        state.deleted_keys.update(deleted)
        outdated_keys: dict[bytes, None] = {}
        if len(rows) < len(records):
            rows = self._merge_all(records, outdated_keys)
            deleted = _deleted(rows)
        for key in deleted:
            del rows[key]
        stored = self._rows.get(partition, list(rows))
        if stored.count(None) < len(stored):
            for (key, value), old in zip(rows.items(), stored, strict=True):
                if old is not None and old != value:
                    rows[key] = merged = self._merge(key.partition(SEPARATOR)[2], old, value)
                    if merged != value:
                        outdated_keys[key] = None
        self._note_outdated(state, chain(rows, deleted), outdated_keys)
        state.appender.next_offset = records[-1].offset + 1
        state.latest = Checkpoint(state.appender.next_offset, checksum(records[-1].key, records[-1].value))
        self._rows.write(partition, rows.items(), state.checkpoint)

    def _merge_all(self, records: Iterable[ConsumerRecord], outdated_keys: dict[bytes, None]) -> dict[bytes, bytes | None]:
        """Merges records with repeated keys into rows by key; adds to ``outdated_keys`` if a row is not its last record."""
        rows: dict[bytes, bytes | None] = {}
        for record in records:
            key, value = record.key, record.value
            old = rows.get(key)
            if value is None:
                rows.setdefault(key, None)
                outdated_keys.pop(key, None)
                continue
            if old is None or old == value:
                rows[key] = value
                outdated_keys.pop(key, None)
                continue
            rows[key] = merged = self._merge(key.partition(SEPARATOR)[2], old, value)
            if merged != value:
                outdated_keys[key] = None
            else:
                outdated_keys.pop(key, None)
        return rows

    def _note_outdated(self, state: _Partition, keys: Iterable[bytes], outdated_keys: Mapping[bytes, None]) -> None:
        if state.outdated_keys:
            for key in keys:
                state.outdated_keys.pop(key, None)
        state.outdated_keys.update(outdated_keys)

    def recovered(self, partition: int, end: int) -> None:
        """Ends the recovery at this offset of the changelog: from here on, records of other producers are foreign writes."""
        self._partitions[partition].appender.next_offset = end
        self._rows.end_filling(partition)

    async def rewrite_recovered(self, producer: AIOKafkaProducer, partition: int) -> int:
        """After a recovery: appends the merged rows that are not the last record of their key; returns how many.

        Raises:
            aiokafka.errors.KafkaError: not (known to be) appended; doing the same again is harmless.
        """
        state = self._partitions[partition]
        async with state.lock:
            keys = list(state.outdated_keys)
            for start in range(0, len(keys), _REWRITTEN_AT_ONCE):
                part = keys[start : start + _REWRITTEN_AT_ONCE]
                await self._append_rows(producer, partition, state, part)
                for key in part:
                    state.outdated_keys.pop(key, None)
            self._write(partition, state, ())
        return len(keys)

    async def flush(self, producer: AIOKafkaProducer, partition: int, changes: Mapping[bytes, Rows]) -> None:
        """Appends changed rows to the changelog, waits until Kafka has them, then writes them to the store.

        Raises:
            aiokafka.errors.KafkaError: not (known to be) appended; flushing the same again is harmless.
        """
        await self.flush_groups(producer, partition, [records_of(group, rows) for group, rows in changes.items() if rows])

    async def flush_groups(self, producer: AIOKafkaProducer, partition: int, groups: Sequence[Group]) -> None:
        """As `flush`, of changed rows as records: those of a group together, deletions last (see `records_of`)."""
        state = self._partitions[partition]
        if groups:
            if self._gathering is not None and len(groups) < _FLUSHED_ALONE:
                await self._gathering.wait(partition)
            async with state.lock:
                await self._append(producer, state, groups)
                self._write(partition, state, chain.from_iterable(groups))

    def take_deleted(self, partition: int) -> set[bytes]:
        """Keys whose last record in the changelog is a deletion, and whose row may be there all the same; forgets them."""
        state = self._partitions[partition]
        taken, state.deleted_keys = state.deleted_keys, set()
        return taken

    def changes_by(self, partition: int, records: Iterable[ConsumerRecord]) -> Mapping[bytes, Rows]:
        """The rows, by group, that change if records of another table's changelog are merged into these; for `flush`.

        Deletions change nothing: other rows make the deleted ones void.
        """
        rows = {key: value for key, value in self._merge_all(records, {}).items() if value is not None}
        changed: dict[bytes, dict[bytes, bytes | None]] = {}
        for (key, value), old in zip(rows.items(), self._rows.get(partition, list(rows)), strict=True):
            group, _, suffix = key.partition(SEPARATOR)
            merged = value if old is None or old == value else self._merge(suffix, old, value)
            if merged != old:
                changed.setdefault(group, {})[suffix] = merged
        return changed

    def foreign_writes(self, partition: int) -> bool:
        """Whether the partition's changelog has foreign writes, so that `rewrite` is due."""
        state = self._partitions[partition]
        return bool(state.appender.foreign_writes or state.foreign_offsets)

    async def check(self, client: Mapping[str, Any]) -> None:
        """Asks Kafka for the ends of the changelogs, so that `foreign_writes` covers idle partitions too.

        Raises:
            aiokafka.errors.KafkaError: the broker cannot be asked.
        """
        await check_ends([state.appender for state in self._partitions.values()], client)

    async def rewrite(self, producer: AIOKafkaProducer, partition: int, client: Mapping[str, Any]) -> int:
        """Appends the rows again whose keys have foreign writes, so that compaction keeps them; returns how many keys.

        A key without a row here is skipped: this owner reads the source records of that row too. The caller makes sure that it
        still owns the partition.

        Raises:
            BehindOpenTransaction: an open transaction holds some of the foreign writes; rows for those before it are rewritten.
            TimeoutError: the foreign writes cannot be read.
            aiokafka.errors.KafkaError: the same, or not (known to be) appended; doing it again is harmless.
        """
        state, count = self._partitions[partition], 0
        async with state.lock:
            state.foreign_offsets += state.appender.take_foreign_writes()
            while state.foreign_offsets:
                span = state.foreign_offsets[0]
                part = range(span.start, min(span.stop, span.start + _REWRITTEN_AT_ONCE))
                records = await read(client, self.changelog, partition, part)
                count += await self._rewrite(producer, partition, state, records)
                state.foreign_offsets[:1] = [range(part.stop, span.stop)] if part.stop < span.stop else []
            self._write(partition, state, ())
        return count

    async def _rewrite(
        self, producer: AIOKafkaProducer, partition: int, state: _Partition, records: list[ConsumerRecord]
    ) -> int:
        keys = list(dict.fromkeys(record.key for record in records))
        await self._append_rows(producer, partition, state, keys)
        if records and (end := records[-1].offset + 1) == state.appender.next_offset:
            state.latest = Checkpoint(end, checksum(records[-1].key, records[-1].value))
        return len(keys)

    async def _append_rows(self, producer: AIOKafkaProducer, partition: int, state: _Partition, keys: list[bytes]) -> None:
        groups: dict[bytes, list[Record]] = {}
        for key, value in zip(keys, self._rows.get(partition, keys), strict=True):
            if value is not None:
                groups.setdefault(key.partition(SEPARATOR)[0], []).append((key, value))
        if groups:
            await self._append(producer, state, list(groups.values()))

    async def _append(self, producer: AIOKafkaProducer, state: _Partition, groups: Sequence[Group]) -> None:
        await state.appender.append(producer, groups)
        assert state.appender.next_offset is not None
        state.latest = Checkpoint(state.appender.next_offset, checksum(*groups[-1][-1]))

    def _write(self, partition: int, state: _Partition, records: Iterable[Record]) -> None:
        # if the partition was closed meanwhile, its next recovery reads these records, after the checkpoint
        if self._partitions.get(partition) is state:
            self._rows.write(partition, records, state.checkpoint)


def checksum(key: bytes, value: bytes | None) -> int:
    """A checksum of a record, 32 bits."""
    return crc32(value or b"", crc32(key))


def records_of(group: bytes, rows: Rows) -> Group:
    """The changed rows of a group as records of the changelog."""
    start = group + SEPARATOR
    records = [(start + suffix, value) for suffix, value in rows.items()]
    if None in rows.values():
        # deletions last: if the group is split, the rows that make the deleted ones void are appended before
        records.sort(key=_is_deletion)
    return records


def _deleted(rows: Mapping[bytes, bytes | None]) -> list[bytes]:
    return [key for key, value in rows.items() if value is None]


def _is_deletion(record: Record) -> bool:
    return record[1] is None
