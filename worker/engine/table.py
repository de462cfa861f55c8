"""A table partitioned like its source topic: rows in memory, kept by a changelog that is always ahead of them.

A row's key is its group, NUL and a suffix; the rows of a group are read together and are written in one record batch,
which Kafka appends whole or not at all. Rows must merge: what recovery reads is merged, not replaced, so that neither an
old record appended late by a stalled worker nor reading a record twice changes anything.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.producer.message_accumulator import BatchBuilder

SEPARATOR = b"\0"
#: What a record takes in a batch beside key and value, at most, bytes.
_RECORD_OVERHEAD = 40

Rows = Mapping[bytes, bytes | None]
"""Changed rows of one group by suffix; None: the row is gone. Only rows that others make void may be deleted."""
Merge = Callable[[bytes, bytes, bytes], bytes]
"""(suffix, one row, other row) -> the row that holds what both hold."""


@dataclass(slots=True)
class _Partition:
    groups: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    next_offset: int = 0


class Table:
    """The rows of the partitions that this worker owns."""

    def __init__(self, changelog: str, merge: Merge, batch_bytes: int) -> None:
        """
        Args:
            changelog: name of the changelog topic.
            merge: how two rows of one key become one.
            batch_bytes: the largest record batch of the producers that flush.
        """
        self.changelog = changelog
        self._batch_bytes = batch_bytes
        self._merge = merge
        self._partitions: dict[int, _Partition] = {}

    def open(self, partition: int) -> int:
        """Begins to hold a partition, or goes on with what is still there; the changelog offset to read on from."""
        return self._partitions.setdefault(partition, _Partition()).next_offset

    def close(self, partition: int) -> None:
        """Forgets a partition."""
        self._partitions.pop(partition, None)

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions held."""
        return frozenset(self._partitions)

    def rows(self, partition: int, group: bytes) -> Mapping[bytes, bytes]:
        """All rows of a group by suffix; empty where there is none."""
        return self._partitions[partition].groups.get(group, {})

    def groups(self, partition: int) -> Iterator[bytes]:
        """Every group of a partition; not to be written to meanwhile."""
        return iter(self._partitions[partition].groups)

    def recover(self, partition: int, records: list[ConsumerRecord]) -> None:
        """Merges what was read from the changelog. A deletion changes nothing: others make the row void."""
        held = self._partitions[partition]
        for record in records:
            if record.value is not None:
                group, _, suffix = record.key.partition(SEPARATOR)
                rows = held.groups.setdefault(group, {})
                old = rows.get(suffix)
                rows[suffix] = record.value if old is None or old == record.value else self._merge(suffix, old, record.value)
        if records:
            held.next_offset = records[-1].offset + 1

    async def flush(self, producer: AIOKafkaProducer, partition: int, changes: Mapping[bytes, Rows]) -> None:
        """Appends changed rows to the changelog, waits until they are there, then makes them the partition's rows.

        Raises:
            aiokafka.errors.KafkaError: not (known to be) appended; flushing the same again is harmless.
        """
        last = -1
        for batch in _batches(producer, changes, self._batch_bytes):
            sent = await producer.send_batch(batch, self.changelog, partition=partition)
            last = (await sent).offset + batch.record_count() - 1
        held = self._partitions[partition]
        for group, rows in changes.items():
            kept = held.groups.setdefault(group, {})
            for suffix, value in rows.items():
                if value is None:
                    kept.pop(suffix, None)
                else:
                    kept[suffix] = value
        if last >= 0:
            held.next_offset = last + 1


def _batches(producer: AIOKafkaProducer, changes: Mapping[bytes, Rows], room: int) -> list[BatchBuilder]:
    """Record batches with no group in two of them, unless it alone is too large for one."""
    batches = [producer.create_batch()]
    for group, rows in changes.items():
        size = sum(len(group) + len(suffix) + len(value or b"") + _RECORD_OVERHEAD for suffix, value in rows.items())
        if batches[-1].record_count() and batches[-1].size() + size > room:
            batches.append(producer.create_batch())
        # rows that make others void go first: a deletion in a later batch then deletes what is void already
        for suffix, value in sorted(rows.items(), key=lambda row: row[1] is None):
            key = group + SEPARATOR + suffix
            if batches[-1].append(timestamp=None, key=key, value=value) is None:
                batches.append(producer.create_batch())
                batches[-1].append(timestamp=None, key=key, value=value)
    for batch in batches:
        batch.close()
    return [batch for batch in batches if batch.record_count()]
