"""Where the rows of tables rest: one database per worker for all partitions and tables, in memory or in RocksDB.

A row's key is that of its changelog record: group, NUL, suffix. With its rows a partition keeps a mark, up to where of
the changelog they go; both change in one write, so that whatever dies, the rows are at the mark.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import environ
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

SEPARATOR = b"\0"
Record = tuple[bytes, bytes | None]
"""(key, value); without a value the row is gone."""


class StoreUnusable(Exception):
    """Rows cannot be kept there; the message is one line that says what to do."""


class Mark(NamedTuple):
    """Everything before this offset of the changelog is in the rows."""

    offset: int
    checksum: int
    """Of the record before the offset, 32 bits: tells a topic that was deleted and made again."""


class TableStore(Protocol):
    """The rows of one table. A partition that was never written to is empty."""

    def mark(self, partition: int) -> Mark | None:
        """How far its rows go; None: it has none that can be used."""

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        """The rows of each of these groups by suffix; not to be changed."""

    def groups(self, partition: int) -> Iterator[bytes]:
        """Every group that has rows, once, in no particular order."""

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of these keys."""

    def write(self, partition: int, records: Iterable[Record], mark: Mark | None) -> None:
        """Writes and deletes rows, and the mark where one is given, all or nothing."""

    def drop(self, partition: int) -> None:
        """Forgets a partition's rows and mark."""

    def release(self, partition: int) -> None:
        """The partition went to another worker; what costs memory is let go."""

    def begin_filling(self, partition: int) -> None:
        """A recovery begins: `get` is called with mostly new keys."""

    def end_filling(self, partition: int) -> None:
        """The recovery is over."""


class Store(Protocol):
    """A database of tables."""

    def table(self, number: int) -> TableStore:
        """The table of this number, from 0 to 250."""

    def close(self) -> None:
        """Lets go of everything; neither store nor tables may be used any more. Again is harmless."""


class MemoryTable:
    """Rows in dicts, gone with their partition."""

    def __init__(self) -> None:
        self._groups: dict[int, dict[bytes, dict[bytes, bytes]]] = {}
        self._marks: dict[int, Mark] = {}

    def mark(self, partition: int) -> Mark | None:
        return self._marks.get(partition)

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        known = self._groups.get(partition, {})
        return [known.get(group, {}) for group in groups]

    def groups(self, partition: int) -> Iterator[bytes]:
        return iter(list(self._groups.get(partition, ())))

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        groups, found = self._groups.get(partition, {}), []
        for key in keys:
            group, _, suffix = key.partition(SEPARATOR)
            rows = groups.get(group)
            found.append(None if rows is None else rows.get(suffix))
        return found

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
        """Nothing to let go."""


class MemoryStore:
    """Tables of dicts."""

    def __init__(self) -> None:
        self._tables: dict[int, MemoryTable] = {}

    def table(self, number: int) -> TableStore:
        return self._tables.setdefault(number, MemoryTable())

    def close(self) -> None:
        self._tables.clear()


def open_store(url: str, name: str) -> Store:
    """The store that a URL names.

    Args:
        url: ``memory://``; ``rocksdb:///absolute/folder``; ``rocksdb://`` for a folder of this user, by the name.
        name: what the rows belong to; rows that a folder holds of another name are dropped.

    Raises:
        StoreUnusable: the folder cannot be written to.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    from worker.engine.stores.rocksdb import RocksStore  # memory:// does without its code

    return RocksStore(Path(parts.path) if parts.path else default_folder(name), name)


def default_folder(name: str) -> Path:
    """Where RocksDB keeps what belongs to a name, for this user."""
    state = environ.get("XDG_STATE_HOME", "")
    # the rule of XDG: a path that is not absolute is no path
    home = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return home / "attendance-worker" / name
