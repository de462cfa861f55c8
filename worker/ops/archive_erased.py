"""Which records of an archive are of bookings that were erased from it: the manifest has a keyed hash of each of them."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, TypeVar

from schemas.decoding.explain import booking_of_key, decode, decode_booking
from schemas.events import Booking, BookingGone, DeadLetter, Event
from worker.ops.archive_format import ArchivedRecord, Erased, KafkaRecord, Manifest
from worker.ops.archive_mentions import ids_in

_HASH_BYTES = 16
#: No event is too old for an archive, microseconds.
_ANY_AGE = 2**62

Decoded = Event | Booking | BookingGone | DeadLetter
Record = TypeVar("Record", bound=KafkaRecord)


class ErasedBookings:
    """The bookings that were erased from an archive.

    A record is of a booking if its data names it. A record that cannot be decoded is of each booking that its key, its headers
    or its text seem to name. Events that are later than the erasure are kept. Booking records never are: the bookings topic has
    the current one.
    """

    def __init__(self, erased: Erased) -> None:
        self._key = bytes.fromhex(erased.key)
        self._tolerance = erased.clock_tolerance
        self._hashes = erased.hashes
        self._records = frozenset(erased.records)

    @classmethod
    def of(cls, manifest: Manifest | None) -> "ErasedBookings | None":
        """Those of an archive; None if none was erased from it."""
        return cls(manifest.erased) if manifest is not None and manifest.erased is not None else None

    def all_kept(self, records: Iterable[Record]) -> list[Record | ArchivedRecord]:
        """As `kept`, of several records."""
        return [kept for kept in map(self.kept, records) if kept is not None]

    def kept(self, record: Record, decoded: Decoded | None = None) -> Record | ArchivedRecord | None:
        """What is kept of a record; None if it goes.

        A record of another booking whose key is an erased one's is kept without its key, which it does not need: its data
        decides what it counts for.

        Args:
            record: of any topic.
            decoded: what it holds; None: it is decoded here.
        """
        if (record.topic, record.partition, record.offset) in self._records:
            return None
        decoded = decoded or decoded_record(record)
        if isinstance(decoded, DeadLetter):
            return None if any(self._horizon(each) is not None for each in ids_in(record)) else record
        if self._is_erased(decoded.booking_id, decoded):
            return None
        if record.key is None or record.key == decoded.booking_id.encode():
            return record
        keyed = booking_of_key(record.key)
        return without_key(record) if keyed is not None and self._is_erased(keyed, decoded) else record

    def _is_erased(self, booking_id: str, decoded: Event | Booking | BookingGone) -> bool:
        horizon = self._horizon(booking_id)
        if horizon is None or not isinstance(decoded, Event):
            return horizon is not None
        return min(decoded.time, decoded.received + self._tolerance) <= horizon

    def _horizon(self, booking_id: str) -> int | None:
        return self._hashes.get(hash_of(booking_id, self._key))


def hash_of(booking_id: str, key: bytes) -> str:
    """The keyed hash of a booking, hexadecimal digits."""
    return blake2b(booking_id.encode(), key=key, digest_size=_HASH_BYTES).hexdigest()


def decoded_record(record: Any) -> Decoded:
    """What a record holds, however old. Its topic decides whether it is a booking record, whatever prefix it has."""
    if record.topic.rpartition(".")[2] == "bookings":
        return decode_booking(record.value, record.headers, record.key)
    return decode(record.value, record.headers, record.timestamp, max_age=_ANY_AGE)


def without_key(record: Any) -> ArchivedRecord:
    """The record with null for its key."""
    return ArchivedRecord(
        record.topic, record.partition, record.offset, record.timestamp, None, record.value, tuple(record.headers)
    )
