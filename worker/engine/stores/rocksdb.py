"""Rows in RocksDB: one database per worker process, in the first free slot of a folder that workers may share.

A key is table (1 byte), partition (2), CRC-32 of the group (4), group, NUL, suffix. The first seven bytes are the prefix for
RocksDB's bloom filters, which detect a group without rows without reading it: at 1,000,000 rows in 3 us instead of 17.
Writes are not synced: a crash of the machine may undo the last ones, rows and checkpoint together; the changelog has them.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any
from zlib import crc32

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    SliceTransform,
    WriteBatch,
)

from worker.engine.stores.base import SEPARATOR, Checkpoint, Record, StoreUnusable, TableStore

#: rocksdict's types include str and numbers; in raw mode keys and values are bytes.
_Raw = Any
_MIB = 1024 * 1024
_HEAD = Struct(">BHI")
_PARTITION = Struct(">BH")
_CHECKPOINT = Struct(">qI")
#: Keys of no table: prefix of the checkpoints, and the name that the database belongs to.
_CHECKPOINTS = b"\xff\xff\xff\xff\xff\xff\xff"
_NAME = b"\xfe\xfe\xfe\xfe\xfe\xfe\xfename"
_FORMAT = b"1 "
_SLOTS = 1000
_PAGE_ROWS = 2000
#: Slots of `_KeyFilter`, one byte each; a false positive only costs a read.
_FILTER_SLOTS = 1 << 24
_FILTER_MASK = _FILTER_SLOTS - 1


class Slot:
    """A folder that is locked by this process until it ends, even by a crash."""

    def __init__(self, base: Path) -> None:
        """Locks the first free slot; raises StoreUnusable."""
        try:
            base.mkdir(parents=True, exist_ok=True)
            number, self._lock = next(_lock_free_slots(base))
        except OSError as error:
            raise StoreUnusable(f"cannot write to {base} ({error.strerror}): set another folder, or memory://") from None
        except StopIteration:
            raise StoreUnusable(f"all {_SLOTS} slots of {base} are in use: set another folder") from None
        self.folder = base / f"rows-{number}"

    def free(self) -> None:
        """Unlocks the slot for other processes."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def _lock_free_slots(base: Path) -> Iterator[tuple[int, int]]:
    for number in range(_SLOTS):
        lock = os.open(base / f"rows-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            yield number, lock


class RocksStore:
    """Tables in one RocksDB database, in a slot of a folder."""

    def __init__(self, base: Path, name: str) -> None:
        """
        Args:
            base: the folder; several workers may share it.
            name: of what the rows belong to; a slot with rows of another name is emptied.

        Raises:
            StoreUnusable: the folder cannot be written to.
        """
        self._slot = Slot(base)
        self._filter = _KeyFilter()
        self._tables: dict[int, RocksTable] = {}
        self._is_open = False
        try:
            self._db = self._open(_FORMAT + name.encode())
        except BaseException:
            self._slot.free()
            raise
        self._is_open = True

    @property
    def folder(self) -> Path:
        """The slot's folder."""
        return self._slot.folder

    def table(self, number: int) -> TableStore:
        if number not in self._tables:
            self._tables[number] = RocksTable(self._db, number, self._filter)
        return self._tables[number]

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._db.close()
            self._slot.free()

    def _open(self, name: bytes) -> _Raw:
        try:
            db = _database(self.folder)
            if db.get(_NAME) == name:
                return db
            db.close()
        except Exception:  # noqa: BLE001, S110 - rocksdict has no type for a database that is damaged
            pass
        # damaged, incomplete or of another name: it is created again, since the changelog has all rows
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            db = _database(self.folder)
            db.put(_NAME, name)
        except Exception as error:  # noqa: BLE001 - as above
            cause = str(error).splitlines()[0]
            raise StoreUnusable(f"cannot use {self.folder} ({cause}): free space there, or set another folder") from None
        return db


class RocksTable:
    """The rows of one table in RocksDB. A partition's rows stay when it is revoked."""

    def __init__(self, db: _Raw, number: int, key_filter: "_KeyFilter") -> None:
        self._db = db
        self._number = number
        self._filter = key_filter
        self._filling: set[int] = set()
        self._group_only = ReadOptions()
        self._group_only.set_prefix_same_as_start(True)

    def checkpoint(self, partition: int) -> Checkpoint | None:
        checkpoint = self._db.get(_CHECKPOINTS + _PARTITION.pack(self._number, partition))
        return None if checkpoint is None else Checkpoint(*_CHECKPOINT.unpack(checkpoint))

    def rows(self, partition: int, groups: Iterable[bytes]) -> list[Mapping[bytes, bytes]]:
        number, pack, rows_by_group = self._number, _HEAD.pack, list[Mapping[bytes, bytes]]()
        # one iterator for all groups: creating it costs more than a seek; it does not outlive the call
        iterator = self._db.iter(self._group_only)
        for group in groups:
            start = pack(number, partition, crc32(group)) + group + SEPARATOR
            rows: dict[bytes, bytes] = {}
            iterator.seek(start)
            # groups with the same CRC-32 may follow
            while iterator.valid() and (key := iterator.key()).startswith(start):
                rows[key[len(start) :]] = iterator.value()
                iterator.next()
            iterator.status()  # raises an error if it ended at a damaged block
            rows_by_group.append(rows)
        return rows_by_group

    def groups(self, partition: int) -> Iterator[bytes]:
        start = _PARTITION.pack(self._number, partition)
        after: bytes | None = start
        while after is not None:
            groups, after = self._page(start, after)
            yield from groups

    def pages(self, partition: int) -> Iterator[list[tuple[bytes, bytes]]]:
        after = start = _PARTITION.pack(self._number, partition)
        options = _within(start)
        while True:
            # no iterator stays open while the caller has a page
            page = list(islice(self._db.items(from_key=after, read_opt=options), _PAGE_ROWS))
            if page:
                yield [(key[_HEAD.size :], row) for key, row in page]
            if len(page) < _PAGE_ROWS:
                return
            after = page[-1][0] + b"\0"

    def get(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        if partition not in self._filling:
            return list(self._db.get(self._db_keys(partition, keys))) if keys else []
        values: list[bytes | None] = [None] * len(keys)
        # `write` brings no other keys while a recovery fills the partition
        if indexes := self._filter.add((self._number, partition), keys):
            stored = self._db.get(self._db_keys(partition, [keys[index] for index in indexes]))
            for index, value in zip(indexes, stored, strict=True):
                values[index] = value
        return values

    def write(self, partition: int, records: Iterable[Record], checkpoint: Checkpoint | None) -> None:
        batch, pack, number = WriteBatch(raw_mode=True), _HEAD.pack, self._number
        put, delete = batch.put, batch.delete
        for key, value in records:
            db_key = pack(number, partition, crc32(key.partition(SEPARATOR)[0])) + key
            if value is None:
                delete(db_key)
            else:
                put(db_key, value)
        if checkpoint is not None:
            batch[_CHECKPOINTS + _PARTITION.pack(self._number, partition)] = _CHECKPOINT.pack(*checkpoint)
        self._db.write(batch)

    def drop(self, partition: int) -> None:
        batch = WriteBatch(raw_mode=True)
        start = _PARTITION.pack(self._number, partition)
        batch.delete_range(start, _after(start))
        batch.delete(_CHECKPOINTS + start)
        self._db.write(batch)

    def release(self, partition: int) -> None:
        self.end_filling(partition)

    def begin_filling(self, partition: int) -> None:
        # only for an empty partition: the filter must have every key that is stored
        start = _PARTITION.pack(self._number, partition)
        if not self._page(start, start)[0]:
            self._filling.add(partition)
            self._filter.use((self._number, partition))

    def end_filling(self, partition: int) -> None:
        self._filling.discard(partition)
        self._filter.leave((self._number, partition))

    def _db_keys(self, partition: int, keys: Iterable[bytes]) -> list[bytes]:
        """The database keys of rows."""
        pack, number = _HEAD.pack, self._number
        return [pack(number, partition, crc32(key.partition(SEPARATOR)[0])) + key for key in keys]

    def _page(self, start: bytes, after: bytes) -> tuple[list[bytes], bytes | None]:
        """Some groups of a partition from a key on, and the key of the next page; no iterator stays open."""
        options = _within(start)
        groups: list[bytes] = []
        last = b""
        for count, key in enumerate(self._db.keys(from_key=after, read_opt=options)):
            if not key.startswith(last) or not last:
                if count >= _PAGE_ROWS:
                    return groups, key
                last = key[: key.index(SEPARATOR, _HEAD.size) + 1]
                groups.append(last[_HEAD.size : -1])
        return groups, None


class _KeyFilter:
    """A bloom filter with one hash for the keys that recoveries have written; 16 MiB while there are recoveries."""

    def __init__(self) -> None:
        self._users: set[tuple[int, int]] = set()
        self._slots = bytearray()

    def use(self, user: tuple[int, int]) -> None:
        self._users.add(user)
        if not self._slots:
            self._slots = bytearray(_FILTER_SLOTS)

    def leave(self, user: tuple[int, int]) -> None:
        self._users.discard(user)
        if not self._users:
            self._slots = bytearray()

    def add(self, user: tuple[int, int], keys: Iterable[bytes]) -> list[int]:
        """Adds keys; returns the indexes of those that may have been added before."""
        slots, salt, indexes = self._slots, hash(user), list[int]()
        for index, key in enumerate(keys):
            slot = hash(key) + salt & _FILTER_MASK
            if slots[slot]:
                indexes.append(index)
            else:
                slots[slot] = 1
        return indexes


def _after(start: bytes) -> bytes:
    """The first key after all keys with this prefix."""
    return (int.from_bytes(start, "big") + 1).to_bytes(len(start), "big")


def _within(start: bytes) -> ReadOptions:
    """For an iterator over all keys with this prefix, which must not outlive it: RocksDB reads the bound from its memory."""
    options = ReadOptions()
    options.set_total_order_seek(True)
    options.set_iterate_upper_bound(_after(start))
    return options


def _database(folder: Path) -> _Raw:
    options = _options()
    # with column families: without them, rocksdict opens an existing database with no filters and no cache
    return Rdict(str(folder), options, column_families={"default": options})


def _options() -> Options:
    """At most 48 MiB of unwritten rows and 64 MiB of cache, whatever the partitions and tables."""
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(64 * _MIB))
    blocks.set_block_size(8 * 1024)
    blocks.set_format_version(5)
    blocks.set_bloom_filter(10, False)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_prefix_extractor(SliceTransform.create_fixed_prefix(_HEAD.size))
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_write_buffer_size(16 * _MIB)
    options.set_max_write_buffer_number(3)
    options.set_max_total_wal_size(64 * _MIB)
    # the filters of larger files do not stay in the cache: 140 us per read
    options.set_target_file_size_base(16 * _MIB)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options
