"""What a batch changes in Redis (`Entries`), and its script calls (`Write`)."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from struct import Struct
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from worker.read_model.devices import score_of
from worker.read_model.keys import booking_bucket

#: Script calls in one round trip.
AHEAD = 64
#: Kinds of pairs, see ``apply.lua``.
_READ, _SAME, _MOVED, _ARRIVED = range(4)
_PAIR = Struct(">B16sH").pack
_MOVED_PAIR = Struct(">B16sHB").pack
#: Kinds of entries of bookings.
_RECORD, _MEMBER = range(2)
#: In place of a status: an attendance is a member of no index by booking; it is not known of which one, if any.
NO_MEMBER, UNKNOWN = 3, 255
_BOOKING = Struct(">BHH").pack
_BOOKING_TAIL = Struct(">BdH").pack
_MEMBER_NAME, _MEMBER_TAIL = Struct(">BH").pack, Struct(">16sBB").pack
_DEVICE, _DEVICE_TAIL = Struct(">H").pack, Struct(">dB").pack
_ESTIMATE = Struct(">dH").pack


class AlertChange(NamedTuple):
    """An alert that was opened or changed (``json``), or closed (``json`` is empty)."""

    alert_id: str
    kind: str
    booking_id: str
    session_id: str
    """Empty for an alert of the booking as a whole."""
    opened_ms: int
    json: str


class RecordMember(IntEnum):
    """What becomes of the member that stands for a booking's record in the index by booking of ATTENDED."""

    KEEP = 0
    ADD = 1
    REMOVE = 2


class EstimateChange(NamedTuple):
    """The packed estimate of a source (`worker.read_model.estimates`); empty: there is none any more."""

    source: str
    packed: bytes
    dead_ms: int = 0
    """When its last dead letter was received, ms, if nothing else is known of the source; otherwise 0."""


def pack_estimates(changes: Iterable[EstimateChange]) -> bytes:
    """Estimates as ``heartbeat.lua`` takes them."""
    names = ((each, each.source.encode()) for each in changes)
    return b"".join(
        b"".join((_DEVICE(len(name)), name, _ESTIMATE(each.dead_ms, len(each.packed)), each.packed)) for each, name in names
    )


class Entries:
    """Changes to the read models of a partition: pairs, bookings, alerts and devices, packed as ``apply.lua`` reads them."""

    def __init__(self) -> None:
        self.pairs: list[bytes] = []
        self.bookings: list[bytes] = []
        self.alerts: list[bytes] = []
        self.devices: list[bytes] = []

    def pair(self, identity: bytes, document: bytes, now: bytes, before: bytes, *, has_moved: bool = False) -> None:
        """Sets a pair.

        Args:
            now: its contribution now.
            before: its contribution before; empty: the pair did not exist.
            has_moved: whether the minute of its arrival is another one than before.
        """
        if now == before:
            self.pairs.append(_PAIR(_ARRIVED if has_moved else _SAME, identity, len(document)) + document)
        else:
            self.pairs.append(_MOVED_PAIR(_MOVED, identity, len(document), len(before)) + before + document)

    def pair_anew(self, identity: bytes, document: bytes) -> None:
        """Sets a pair, or deletes it (empty), whose previous contribution is read from Redis."""
        self.pairs.append(_PAIR(_READ, identity, len(document)) + document)

    def booking(self, booking_id: str, record: bytes, record_member: RecordMember, rate: float) -> None:
        """Sets the record of a booking (`worker.read_model.booking_records`), or deletes it (empty).

        Packed: 0 (1 byte), booking bucket (2), length (2), bookingId, ``record_member`` (1), ``rate`` (8, a double), length
        (2), the record.

        Args:
            record_member: the member of the index of ATTENDED that stands for the record.
            rate: minus the noShowRate, to set it; 1.0: the booking has none any more; 0.0: it has the same as before.
        """
        name = booking_id.encode()
        head = _BOOKING(_RECORD, booking_bucket(name), len(name))
        self.bookings.append(b"".join((head, name, _BOOKING_TAIL(record_member, rate, len(record)), record)))

    def member(self, booking_id: str, identity: bytes, now: int, before: int) -> None:
        """Moves an attendance from the index by booking of one status to that of another.

        Packed: 1 (1 byte), length (2), bookingId, id (16), ``now`` (1), ``before`` (1).

        Args:
            now: the status of whose index it is a member; or `NO_MEMBER`.
            before: the status of whose index it was a member; or `NO_MEMBER`, or `UNKNOWN`.
        """
        name = booking_id.encode()
        self.bookings.append(b"".join((_MEMBER_NAME(_MEMBER, len(name)), name, _MEMBER_TAIL(identity, now, before))))

    def alert(self, change: AlertChange) -> None:
        """Opens, changes or closes an alert."""
        self.alerts.append(orjson.dumps(list(change)))

    def device(self, source: str, newest: bytes | None) -> None:
        """Sets the packed newest event of a source (`worker.read_model.devices`); None: the source leaves."""
        name = source.encode()
        tail = _DEVICE_TAIL(0.0, 0) if newest is None else _DEVICE_TAIL(score_of(newest), len(newest)) + newest
        self.devices.append(_DEVICE(len(name)) + name + tail)

    def __len__(self) -> int:
        return len(self.pairs) + len(self.bookings) + len(self.alerts) + len(self.devices)


class Chunk(NamedTuple):
    """Entries that are applied in one step, with the fields of the watermark that are set with them."""

    pairs: list[bytes]
    bookings: list[bytes]
    alerts: list[bytes]
    devices: list[bytes]
    watermark: Mapping[str, Any] = MappingProxyType({})
    needs_script: bool = True
    """Whether ``apply.lua`` has to apply it; see `Write.separate`."""

    def arguments(self) -> tuple[Any, ...]:
        """As ``apply.lua`` takes it."""
        alerts = b"[" + b",".join(self.alerts) + b"]" if self.alerts else b""
        packed = b"".join(self.pairs), b"".join(self.bookings), alerts, b"".join(self.devices)
        return *packed, *flatten(self.watermark)


class Write:
    """The entries of a batch, cut into chunks, and which of these are not applied yet."""

    def __init__(self, entries: Entries, watermark: Mapping[str, Any] = MappingProxyType({})) -> None:
        """
        Args:
            watermark: its fields that are set with the last chunk.
        """
        # in the order in which they are applied
        self._lists = [entries.pairs, entries.bookings, entries.alerts, entries.devices]
        self._places = [0, 0, 0, 0]
        self._for_script: list[bytes] = []
        """Pairs that only the script can apply, before all others; where they were separated."""
        self.is_separated = False
        self._watermark = watermark
        self._has_watermark_chunk = not watermark
        self._pending: deque[Chunk] = deque()

    def __len__(self) -> int:
        """The number of entries that are not cut into chunks yet."""
        return sum(map(len, self._lists)) - sum(self._places) + len(self._for_script)

    def separate(self, split: Callable[[list[bytes]], tuple[list[bytes], list[bytes]]]) -> None:
        """Puts the pairs that only the script can apply before the others, of those that are not cut into chunks yet.

        Args:
            split: the pairs that a transaction can apply, and the others.
        """
        if not self.is_separated:
            self._lists[0], self._for_script = split(self._lists[0][self._places[0] :])
            self._places[0] = 0
            self.is_separated = True

    def next(self, size: int) -> list[Chunk]:
        """The chunks to send now. Chunks that are not `done` are returned again, unchanged."""
        while len(self._pending) < AHEAD and len(self):
            self._pending.append(self._cut(size))
        if not self._has_watermark_chunk and not len(self):
            last = self._pending.pop() if self._pending else Chunk([], [], [], [])
            self._pending.append(last._replace(watermark=self._watermark))
            self._has_watermark_chunk = True
        return list(self._pending)

    def done(self) -> None:
        """Marks the first of these chunks as applied."""
        self._pending.popleft()

    def _cut(self, size: int) -> Chunk:
        """The next ``size`` entries, or fewer: pairs first, then bookings, alerts, devices."""
        if self._for_script:
            some, self._for_script = self._for_script[:size], self._for_script[size:]
            return Chunk(some, [], [], [])
        cut: list[list[bytes]] = []
        for number, (entries, place) in enumerate(zip(self._lists, self._places, strict=True)):
            cut.append(entries[place : place + size])
            self._places[number] += len(cut[-1])
            size -= len(cut[-1])
        pairs, bookings, alerts, devices = cut
        return Chunk(pairs, bookings, alerts, devices, needs_script=not self.is_separated)


def flatten(fields: Mapping[str, Any]) -> list[Any]:
    """Field, value, field, value, as Redis takes them."""
    return [part for pair in fields.items() for part in pair]
