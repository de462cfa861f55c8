"""Erases bookings from archives: files are written again without their records, and the manifest keeps a keyed hash of each.

The manifest has the hashes before the first file is replaced. Killed at any moment, an erasure is run again.
"""

import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka import TopicPartition

from schemas.events import DeadLetter
from worker.ops.archive_erased import ErasedBookings, decoded_record, hash_of, without_key
from worker.ops.archive_format import (
    FORMAT_WITH_ERASED,
    MANIFEST,
    MOST_LINE_BYTES,
    ArchivedRecord,
    ArchiveError,
    ArchiveFile,
    Erased,
    Manifest,
    decode_line,
    encode_line,
    locked,
    read_manifest,
    unusable,
    write_manifest,
)
from worker.ops.archive_mentions import Mentions
from worker.ops.archive_plan import Compression
from worker.ops.archive_reader import Source, check_file, read_parts
from worker.ops.archive_writer import FileWriter

Progress = Callable[[int], None]
"""Called with the number of lines that were looked at so far."""
Stop = Callable[[], bool]

_KEY_BYTES = 16
#: Lines between two looks at the stop.
_AT_ONCE = 1_000
#: Lines of a file that are written at once, bytes.
_WRITTEN_BYTES = 256 * 1024
#: What of a part of a line is searched again with the next part: an id whose characters are all escaped.
_OVERLAP_BYTES = 2_048
#: What becomes of a line.
_KEEP, _DROP, _UNKEY, _MENTIONED = range(4)


class ErasedFromArchive(NamedTuple):
    """What went from an archive."""

    records: int
    files: int
    """Files that were written again."""
    is_complete: bool
    """False: it was stopped before the end."""


def erase_from_archive(
    folder: Path, erased: Mapping[str, int], tolerance: int, progress: Progress, stop: Stop
) -> ErasedFromArchive:
    """Erases bookings from an archive, for good: a later archive of the folder and a replay leave them out too.

    Args:
        folder: of the archive.
        erased: by normalised bookingId the effective time of the last `booking.erased`, microseconds since the epoch.
        tolerance: `ATTENDANCE_CLOCK_TOLERANCE`, microseconds.
        progress: see `Progress`.
        stop: ends early; what is missing is done by calling this again.

    Raises:
        ArchiveError: the folder is no archive, is in use, or a file is damaged or cannot be written.
    """
    if read_manifest(folder) is None:
        raise ArchiveError(f"{folder}: no archive, since it has no {MANIFEST}: name a folder of `attendance archive`")
    with locked(folder):
        manifest = read_manifest(folder)
        assert manifest is not None, "the lock was free"
        return _Run(folder, manifest, erased, tolerance, progress, stop).erase()


def erased_so_far(folder: Path) -> tuple[int, int]:
    """Records that went from an archive by all erasures, and files that were written again; killed ones included.

    Raises:
        ArchiveError: the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    erased = None if manifest is None else manifest.erased
    return (0, 0) if erased is None else (erased.record_count, erased.file_count)


class _Scan(NamedTuple):
    """What becomes of the lines of a file."""

    fates: bytearray
    """`_KEEP`, `_DROP` or `_UNKEY`, of each line."""
    timestamps: tuple[int, int] | None
    """The earliest and the latest of the records that are kept."""
    mentioned: list[tuple[str, int, int]]
    """Topic, partition and offset of records that go, and whose ids no hash would find."""

    @property
    def dropped(self) -> int:
        return self.fates.count(_DROP)


class _Run:
    """An erasure from one archive, whose folder is locked."""

    def __init__(
        self, folder: Path, manifest: Manifest, erased: Mapping[str, int], tolerance: int, progress: Progress, stop: Stop
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._progress = progress
        self._stop = stop
        self._mentions = Mentions(erased)
        self._erased = manifest.erased = _joined(manifest.erased, erased, tolerance)
        manifest.format = FORMAT_WITH_ERASED
        self._known = ErasedBookings(self._erased)
        self._passed = 0

    def erase(self) -> ErasedFromArchive:
        self._save()
        records = files = 0
        for file in self._manifest.in_order():
            source = Source(self._folder / file.name, file)
            check_file(source, self._stop)
            scan = self._scan(source)
            if not self._stop() and any(scan.fates):
                try:
                    is_written = self._write_again(source.path, file, scan)
                except OSError as error:
                    raise unusable(self._folder, error) from None
                records += scan.dropped * is_written
                files += is_written
            if self._stop():
                return ErasedFromArchive(records, files, is_complete=False)
        return ErasedFromArchive(records, files, is_complete=True)

    def _scan(self, source: Source) -> _Scan:
        """Decides what becomes of each line of a file; ends early if it is stopped."""
        fates, mentioned, times = bytearray(), list[tuple[str, int, int]](), list[int]()
        with closing(_whole_lines(source.path, self._mentions)) as lines:
            for number, (line, is_mentioned) in enumerate(lines, 1):
                if number % _AT_ONCE == 0:
                    self._progress(self._passed + number)
                    times = [min(times), max(times)] if times else times
                    if self._stop():
                        break
                if not line.strip():
                    fates.append(_KEEP)
                    continue
                try:
                    record = decode_line(line)
                except ValueError:
                    # longer than a record can be, but for its value; anybody can publish it if it is compressed well
                    fates.append(_DROP if is_mentioned or self._mentions.are_in_bytes(line) else _KEEP)
                    continue
                fate = self._fate(record, is_mentioned)
                if fate == _MENTIONED:
                    mentioned.append((record.topic, record.partition, record.offset))
                    fate = _DROP
                fates.append(fate)
                if fate != _DROP:
                    times.append(record.timestamp)
        self._passed += len(fates)
        self._progress(self._passed)
        return _Scan(fates, (min(times), max(times)) if times else None, mentioned)

    def _fate(self, record: ArchivedRecord, is_mentioned: bool) -> int:
        decoded = decoded_record(record)
        kept = self._known.kept(record, decoded)
        if kept is None:
            return _DROP
        if isinstance(decoded, DeadLetter) and (is_mentioned or self._mentions.are_in(record)):
            return _MENTIONED
        return _KEEP if kept is record else _UNKEY

    def _write_again(self, path: Path, file: ArchiveFile, scan: _Scan) -> bool:
        """Replaces a file by what is kept of it; returns False if it was stopped before."""
        tp = TopicPartition(file.topic, file.partition)
        writer = FileWriter(self._folder, _compression_of(path), tp, file.begin, file.name)
        try:
            for content in _in_blocks(_kept_lines(path, scan.fates)):
                writer.append_lines(content)
                if self._stop():
                    return False
            written = writer.finish(file.end)
            first, last = scan.timestamps or (None, None)
            changes = {"count": file.count - scan.dropped, "first_timestamp": first, "last_timestamp": last}
            renewed = msgspec.structs.replace(written, **changes)
            self._manifest.files[self._manifest.files.index(file)] = renewed
            self._erased = self._manifest.erased = msgspec.structs.replace(
                self._erased,
                records=[*self._erased.records, *scan.mentioned],
                record_count=self._erased.record_count + scan.dropped,
                file_count=self._erased.file_count + 1,
            )
            self._save(writer.paths)
        finally:
            writer.discard()
        return True

    def _save(self, finished: tuple[Path, Path] | None = None) -> None:
        try:
            write_manifest(self._folder, self._manifest, finished)
        except OSError as error:
            raise unusable(self._folder / MANIFEST, error) from None


def _joined(earlier: Erased | None, erased: Mapping[str, int], tolerance: int) -> Erased:
    """What a manifest has of these bookings and of those that were erased before."""
    earlier = earlier or Erased(secrets.token_hex(_KEY_BYTES), tolerance, {})
    hashes = dict(earlier.hashes)
    for booking_id, horizon in erased.items():
        name = hash_of(booking_id, bytes.fromhex(earlier.key))
        hashes[name] = max(horizon, hashes.get(name, horizon))
    return msgspec.structs.replace(earlier, clock_tolerance=tolerance, hashes=hashes)


def _whole_lines(path: Path, mentions: Mentions) -> Generator[tuple[bytes, bool]]:
    """The lines of a file; of too long ones the beginning, and whether an id is anywhere in them."""
    begin: bytes | None = None
    is_mentioned = False
    for part, ends in read_parts(path):
        if begin is None:
            begin, overlap = part, b""
        if len(begin) > MOST_LINE_BYTES:
            is_mentioned = is_mentioned or mentions.are_in_bytes(overlap + part)
        overlap = part[-_OVERLAP_BYTES:]
        if ends:
            yield begin, is_mentioned
            begin, is_mentioned = None, False


def _kept_lines(path: Path, fates: bytearray) -> Iterable[bytes]:
    """The lines of a file that are kept, as they are, in parts."""
    number = 0
    for part, ends in read_parts(path):
        fate = fates[number]
        if fate == _UNKEY:
            yield encode_line(without_key(decode_line(part)))
        elif fate == _KEEP:
            yield part + b"\n" if ends else part
        number += ends


def _in_blocks(parts: Iterable[bytes]) -> Iterable[bytes]:
    block = bytearray()
    for part in parts:
        block += part
        if len(block) >= _WRITTEN_BYTES:
            yield bytes(block)
            block = bytearray()
    yield bytes(block)


def _compression_of(path: Path) -> Compression:
    """As the name of a file says."""
    return next((each for each in Compression if each.ending and path.name.endswith(each.ending)), Compression.NONE)
