"""Bookings that were erased: what stays of each is a marker, which does not hold its id.

A marker is a row of the partition: a keyed hash of the bookingId, the erasure horizon, and the place of the record that made
the booking unknown. It stands for the rows of the booking, which leave once the effects of the erasure are out, and makes void
whatever comes back: a late event, a replay, an older booking record. Until then a row names the booking whose rows are to
leave, so that a crash in between forgets none.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from worker.domain.booking_state import NOWHERE, Place
from worker.domain.fold import NEVER
from worker.domain.row_codec import FORMAT, check

#: Suffixes that no session can have, since ids hold no control character.
ERASED_PREFIX, ERASING_PREFIX = b"\x01erased\0", b"\x01erasing\0"
ERASING_ROW = bytes((FORMAT,))
_MARKER = Struct(">Bqqqq")
_HASH_BYTES = 16


class Marker(NamedTuple):
    """What stays of an erased booking."""

    horizon: int = NEVER
    """Its erasure horizon, microseconds."""
    place: Place = NOWHERE
    """Of the record that made it unknown; nowhere while its record is kept."""

    def merged(self, other: "Marker") -> "Marker":
        """The maximum of each."""
        return Marker(max(self.horizon, other.horizon), max(self.place, other.place))

    def encode(self) -> bytes:
        """The row that stores it."""
        return _MARKER.pack(FORMAT, self.horizon, *self.place)

    @classmethod
    def decode(cls, row: bytes) -> "Marker":
        check(row[0])
        _, horizon, *place = _MARKER.unpack(row)
        return cls(horizon, Place(*place))


def merge_markers(one: bytes, other: bytes) -> bytes:
    """The row that holds what both hold."""
    return Marker.decode(one).merged(Marker.decode(other)).encode()


def erased_hash(booking_id: str, key: bytes) -> bytes:
    """The keyed hash of a booking, as text."""
    return blake2b(booking_id.encode(), key=key, digest_size=_HASH_BYTES).hexdigest().encode()


class Erasures:
    """The markers of a partition, in memory, and the bookings whose rows are to leave.

    Args:
        rows: of the partition, by suffix.
        key: of the hashes; the same for all partitions.
    """

    def __init__(self, rows: Mapping[bytes, bytes], key: bytes) -> None:
        self._key = key
        self._markers: dict[bytes, Marker] = {}
        self.take(rows)
        self.unfinished = [suffix.removeprefix(ERASING_PREFIX).decode() for suffix in rows if suffix.startswith(ERASING_PREFIX)]
        """Bookings whose rows were to leave when the rows of the partition were written."""

    def __bool__(self) -> bool:
        """Whether there is a marker."""
        return bool(self._markers)

    def marker(self, booking_id: str) -> Marker | None:
        """The marker of a booking; None if it was never erased."""
        # most partitions have none, and the hash of each booking costs a microsecond
        return self._markers.get(erased_hash(booking_id, self._key)) if self._markers else None

    def take(self, rows: Mapping[bytes, bytes]) -> None:
        """Takes the markers among rows of the partition, by suffix."""
        for suffix, row in rows.items():
            if suffix.startswith(ERASED_PREFIX):
                name, marker = suffix.removeprefix(ERASED_PREFIX), Marker.decode(row)
                self._markers[name] = marker.merged(self._markers.get(name, Marker()))

    def add(self, booking_id: str, marker: Marker) -> dict[bytes, bytes | None]:
        """Takes a marker; returns its row by suffix."""
        name = erased_hash(booking_id, self._key)
        merged = self._markers[name] = marker.merged(self._markers.get(name, Marker()))
        return {ERASED_PREFIX + name: merged.encode()}


def erasing_rows(bookings: Iterable[str], row: bytes | None = ERASING_ROW) -> dict[bytes, bytes | None]:
    """The rows by suffix that name bookings whose rows are to leave; without a row: they have left."""
    return {ERASING_PREFIX + name.encode(): row for name in bookings}
