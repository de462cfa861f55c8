"""A store in memory, which is empty after a restart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from worker.engine.stores.base import SEPARATOR, Checkpoint, Record, TableStore

_PAGE_ROWS = 2000


class MemoryTable:
    """Rows in dicts, dropped when their partition is revoked."""

    def __init__(self) -> None:
        self._groups: dict[int, dict[bytes, dict[bytes, bytes]]] = {}
        self._checkpoints: dict[int, Checkpoint] = {}

    def checkpoint(self, partition: int) -> Checkpoint | None:
        return self._checkpoints.get(partition)

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        rows_by_group = self._groups.get(partition, {})
        return [rows_by_group.get(group, {}) for group in groups]

    def groups(self, partition: int) -> Iterator[bytes]:
        return iter(list(self._groups.get(partition, ())))

    def pages(self, partition: int) -> Iterator[list[tuple[bytes, bytes]]]:
        groups, page = self._groups.get(partition, {}), list[tuple[bytes, bytes]]()
        for group in list(groups):
            for suffix, row in list(groups.get(group, {}).items()):
                page.append((group + SEPARATOR + suffix, row))
                if len(page) == _PAGE_ROWS:
                    yield page
                    page = []
        if page:
            yield page

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        groups, values = self._groups.get(partition, {}), []
        for key in keys:
            group, _, suffix = key.partition(SEPARATOR)
            rows = groups.get(group)
            values.append(None if rows is None else rows.get(suffix))
        return values

    def write(self, partition: int, records: Iterable[Record], checkpoint: Checkpoint | None) -> None:
        groups = self._groups.setdefault(partition, {})
        for key, value in records:
            group, _, suffix = key.partition(SEPARATOR)
            rows = groups.get(group)
            if value is not None:
                if rows is None:
                    rows = groups[group] = {}
                rows[suffix] = value
            elif rows is not None and rows.pop(suffix, None) is not None and not rows:
                del groups[group]
        if checkpoint is not None:
            self._checkpoints[partition] = checkpoint

    def drop(self, partition: int) -> None:
        self._groups.pop(partition, None)
        self._checkpoints.pop(partition, None)

    release = drop

    def begin_filling(self, partition: int) -> None:
        """Nothing to prepare."""

    def end_filling(self, partition: int) -> None:
        """Nothing to free."""


class MemoryStore:
    """Tables in memory."""

    def __init__(self) -> None:
        self._tables: dict[int, MemoryTable] = {}

    def table(self, number: int) -> TableStore:
        return self._tables.setdefault(number, MemoryTable())

    def close(self) -> None:
        self._tables.clear()
