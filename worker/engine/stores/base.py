"""Stores for the rows of tables: one database per worker for all partitions and tables, in memory or in RocksDB.

A row's key is that of its changelog record: group, NUL, suffix. A partition stores a mark with its rows: the changelog
offset up to which they are complete. Both change in one atomic write, so that after any crash the mark is true.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import environ
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

SEPARATOR = b"\0"
Record = tuple[bytes, bytes | None]
"""(key, value); None deletes the row."""


class StoreUnusable(Exception):
    """The store cannot be used. The message is one line that tells what to do."""


class Mark(NamedTuple):
    """The rows contain everything before this offset of the changelog."""

    offset: int
    checksum: int
    """Of the record before the offset, 32 bits: it detects a topic that was deleted and created again."""


class TableStore(Protocol):
    """The rows of one table. A partition without writes is empty."""

    def mark(self, partition: int) -> Mark | None:
        """The partition's mark; None: it has no rows that can be used."""

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        """The rows of each group, by suffix. The caller must not change them."""

    def groups(self, partition: int) -> Iterator[bytes]:
        """Every group that has rows, once, in any order."""

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of these keys."""

    def write(self, partition: int, records: Iterable[Record], mark: Mark | None) -> None:
        """Writes and deletes rows, and sets the mark if there is one, atomically."""

    def drop(self, partition: int) -> None:
        """Deletes a partition's rows and mark."""

    def release(self, partition: int) -> None:
        """The partition was revoked: frees its memory."""

    def begin_filling(self, partition: int) -> None:
        """A recovery begins: most keys of the following `get` will be new."""

    def end_filling(self, partition: int) -> None:
        """The recovery has ended."""


class Store(Protocol):
    """A database of tables."""

    def table(self, number: int) -> TableStore:
        """The table of this number, from 0 to 250."""

    def close(self) -> None:
        """Closes the store and its tables. A second call is harmless."""


class MemoryTable:
    """Rows in dicts, dropped when their partition is revoked."""

    def __init__(self) -> None:
        self._groups: dict[int, dict[bytes, dict[bytes, bytes]]] = {}
        self._marks: dict[int, Mark] = {}

    def mark(self, partition: int) -> Mark | None:
        return self._marks.get(partition)

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        rows_by_group = self._groups.get(partition, {})
        return [rows_by_group.get(group, {}) for group in groups]

    def groups(self, partition: int) -> Iterator[bytes]:
        return iter(list(self._groups.get(partition, ())))

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        groups, values = self._groups.get(partition, {}), []
        for key in keys:
            group, _, suffix = key.partition(SEPARATOR)
            rows = groups.get(group)
            values.append(None if rows is None else rows.get(suffix))
        return values

    def write(self, partition: int, records: Iterable[Record], mark: Mark | None) -> None:
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
        if mark is not None:
            self._marks[partition] = mark

    def drop(self, partition: int) -> None:
        self._groups.pop(partition, None)
        self._marks.pop(partition, None)

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


def open_store(url: str, name: str) -> Store:
    """The store that a URL names.

    Args:
        url: ``memory://``; ``rocksdb:///absolute/folder``; ``rocksdb://`` for the `default_folder` of this name.
        name: of what the rows belong to; rows of another name in the folder are dropped.

    Raises:
        StoreUnusable: the folder cannot be written to.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    from worker.engine.stores.rocksdb import RocksStore  # memory:// does not need rocksdict

    return RocksStore(Path(parts.path) if parts.path else default_folder(name), name)


def default_folder(name: str) -> Path:
    """The folder for the databases of a name, for this user."""
    state = environ.get("XDG_STATE_HOME", "")
    # XDG: a path that is not absolute is ignored
    home = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return home / "attendance-worker" / name
