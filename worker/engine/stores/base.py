"""What a store for the rows of tables does: one database per worker for all partitions and tables.

A row's key is that of its changelog record: group, NUL, suffix. A partition stores a checkpoint with its rows: the changelog
offset up to which they are complete. Both change in one atomic write, so that after any crash the checkpoint is true.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

SEPARATOR = b"\0"
Record = tuple[bytes, bytes | None]
"""(key, value); None deletes the row."""


class StoreUnusable(Exception):
    """The store cannot be used. The message is one line that tells what to do."""


class Checkpoint(NamedTuple):
    """The rows contain everything before this offset of the changelog."""

    offset: int
    checksum: int
    """Of the record before the offset, 32 bits: it detects a topic that was deleted and created again."""


class TableStore(Protocol):
    """The rows of one table. A partition without writes is empty."""

    def checkpoint(self, partition: int) -> Checkpoint | None:
        """The partition's checkpoint; None: it has no rows that can be used."""

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        """The rows of each group, by suffix. The caller must not change them."""

    def groups(self, partition: int) -> Iterator[bytes]:
        """Every group that has rows, once, in any order."""

    def pages(self, partition: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """(key, row) of every row, some at a time, those of a group one after another.

        The partition may be written to meanwhile: such a row may be missing.
        """

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of these keys."""

    def write(self, partition: int, records: Iterable[Record], checkpoint: Checkpoint | None) -> None:
        """Writes and deletes rows, and sets the checkpoint if there is one, atomically."""

    def drop(self, partition: int) -> None:
        """Deletes a partition's rows and checkpoint."""

    def release(self, partition: int) -> None:
        """The partition was revoked: frees its memory."""

    def begin_filling(self, partition: int) -> None:
        """A recovery begins: most keys of the following `get` are new, and only rows of such keys are written."""

    def end_filling(self, partition: int) -> None:
        """The recovery has ended."""


class Store(Protocol):
    """A database of tables."""

    def table(self, number: int) -> TableStore:
        """The table of this number, from 0 to 250."""

    def close(self) -> None:
        """Closes the store and its tables. A second call is harmless."""
