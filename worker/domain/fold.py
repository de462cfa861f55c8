"""The law of the fold (schemas/README.md): events become one attendance, whatever their order, copies and batches.

A row holds only maxima in the law's order, so the fold of a union of events is the merge of their folds. Participants are
counted from a mapping of their own (hash of the participant -> order key of the newest scan), never from a stored number.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from operator import attrgetter
from struct import Struct
from typing import NamedTuple

from schemas.attendance import AttendanceStatus
from schemas.events import Event, EventType

#: Order keys are compared as bytes; times before 1970 are negative, so this is added.
_ZERO = 1 << 63
_pack_times = Struct(">QQQ").pack
#: Bytes of a digest, with which an order key ends.
DIGEST_SIZE = 8
_TIME = Struct(">Q")
_EFFECTIVE = _TIME.unpack_from

#: Horizon of what was never deleted: earlier than any event.
NEVER = -_ZERO

# bound once: a member looked up on an enum costs more than the comparison
CHECK_IN = EventType.CHECK_IN.value
NO_SHOW = EventType.NO_SHOW.value
_SCANNED = EventType.PARTICIPANT_SCANNED.value
_DELETED = EventType.DELETED.value
_ARRIVALS = (CHECK_IN, _SCANNED)
#: The status of a base by the type of its event; ``attendance.set`` carries its own.
_STATUS_OF = {
    CHECK_IN: AttendanceStatus.ATTENDED,
    NO_SHOW: AttendanceStatus.NOT_ATTENDED,
    EventType.CLEARED.value: AttendanceStatus.NOT_SET,
}

Scans = Mapping[bytes, bytes]
"""Hash of a participant (16 bytes) -> order key of the newest scan; all of them are newer than the base."""


class Mark(NamedTuple):
    """The newest event of some kind: its source, and its order key of 32 bytes (effective time, time, received, digest)."""

    key: bytes
    source: str


class Base(NamedTuple):
    """The newest counting check_in, no_show, set or cleared."""

    mark: Mark
    status: AttendanceStatus
    number: int


class Row(NamedTuple):
    """One (booking, session) as maxima. Marks not later than the horizon, and reports older than ``override``, are None."""

    horizon: int = NEVER
    """Latest effective time of an ``attendance.deleted``, microseconds."""
    base: Base | None = None
    newest: Mark | None = None
    attended: Mark | None = None
    """Newest ATTENDED report (check_in or scan)."""
    missed: Mark | None = None
    """Newest NOT_ATTENDED report (no_show)."""
    override: Mark | None = None
    """Newest set or cleared, which overrides the reports before it."""


NOTHING = Row()


def effective_time(key: bytes) -> int:
    """The effective time in an order key, microseconds."""
    effective: int = _EFFECTIVE(key)[0]
    return effective - _ZERO


def event_time(key: bytes) -> int:
    """The event's own time in an order key, microseconds."""
    time: int = _EFFECTIVE(key, 8)[0]
    return time - _ZERO


def order_key(event: Event, tolerance: int) -> bytes:
    """(effective time, time, received, digest), 8 bytes each, that compare as the law orders; ``tolerance`` in microseconds."""
    return pack_times(event.time, event.received, tolerance) + digest(event)


def pack_times(time: int, received: int, tolerance: int) -> bytes:
    """The first 24 bytes of an order key: when an event is effective, when it happened, when it was received; microseconds."""
    limit = received + tolerance
    effective = time if time < limit else limit  # noqa: FURB136 - min() takes four times as long
    return _pack_times(effective + _ZERO, time + _ZERO, received + _ZERO)


def digest(event: Event) -> bytes:
    """The last `DIGEST_SIZE` bytes of an order key."""
    kind, _, _, _, source, name, status, number, participant_id, _ = event
    text = f"{source}\n{name}\n{kind}\n{status}\n{'' if number is None else number}\n{participant_id}"
    return sha256(text.encode()).digest()[:DIGEST_SIZE]


def participant_hash(participant_id: str) -> bytes:
    """16 bytes that identify a participant in rows, whatever the length of the id."""
    return sha256(participant_id.encode()).digest()[:16]


def fold(
    row: Row, scans: Scans, events: Iterable[tuple[bytes, Event]], erasure_horizon: int
) -> tuple[Row, dict[bytes, bytes | None]]:
    """Folds events of one (booking, session), each with its order key: the row, the scans that change (None: no longer counts).

    Args:
        row: the row so far.
        scans: the participants that count so far; not changed.
        events: in any order, repeated or not.
        erasure_horizon: of the booking (``booking.erased``), microseconds.
    """
    horizon, base, newest, attended, missed, override = row
    fresh: dict[bytes, bytes] = {}
    for key, event in events:
        kind = event.type
        if kind == _DELETED:
            horizon = max(horizon, effective_time(key))
            continue
        mark = Mark(key, event.source)
        if newest is None or key > newest.key:
            newest = mark
        if kind == _SCANNED:
            participant = participant_hash(event.participant_id)
            if key > fresh.get(participant, b""):
                fresh[participant] = key
        elif base is None or key > base.mark.key:
            base = _base(mark, event)
        if kind in _ARRIVALS:
            if attended is None or key > attended.key:
                attended = mark
        elif kind == NO_SHOW:
            if missed is None or key > missed.key:
                missed = mark
        elif override is None or key > override.key:
            override = mark
    after = normalised(Row(horizon, base, newest, attended, missed, override), erasure_horizon)
    return after, _scan_changes(row, after, scans, fresh, erasure_horizon) if scans or fresh else {}


def normalised(row: Row, erasure_horizon: int) -> Row:
    """The row without marks that its horizon, the booking's erasure horizon or its ``override`` makes void.

    A horizon that is not later than the booking's is left out.
    """
    horizon, base, newest, attended, missed, override = row
    if override is None and horizon == NEVER and erasure_horizon == NEVER:
        return row
    limit = max(horizon, erasure_horizon)
    if limit > NEVER:
        base = base if base and effective_time(base.mark.key) > limit else None
        newest, attended, missed, override = (
            mark if mark and effective_time(mark.key) > limit else None for mark in (newest, attended, missed, override)
        )
    if override is not None:
        attended = attended if attended and attended.key > override.key else None
        missed = missed if missed and missed.key > override.key else None
    # a deletion that the erasure covers says nothing more: nothing of an erased booking stays because of it
    return Row(horizon if horizon > erasure_horizon else NEVER, base, newest, attended, missed, override)


def merge(one: Row, other: Row) -> Row:
    """The row of the union of two sets of events: commutative, associative, idempotent."""
    return normalised(
        Row(
            max(one.horizon, other.horizon),
            max(filter(None, (one.base, other.base)), key=attrgetter("mark.key"), default=None),
            *(max(filter(None, pair), key=attrgetter("key"), default=None) for pair in zip(one[2:], other[2:], strict=True)),
        ),
        NEVER,
    )


def counting(row: Row, scans: Scans, erasure_horizon: int) -> dict[bytes, bytes]:
    """The scans that are newer than the base and later than both horizons."""
    oldest = _oldest_counting(row, erasure_horizon)
    return {participant: key for participant, key in scans.items() if key > oldest}


def _scan_changes(
    before: Row, after: Row, scans: Scans, fresh: Mapping[bytes, bytes], erasure_horizon: int
) -> dict[bytes, bytes | None]:
    oldest = _oldest_counting(after, erasure_horizon)
    changes: dict[bytes, bytes | None] = {
        participant: key for participant, key in fresh.items() if key > oldest and key > scans.get(participant, b"")
    }
    if oldest > _oldest_counting(before, NEVER):
        # participants with a newer scan are in the changes already
        changes.update(
            (participant, None) for participant, key in scans.items() if key <= oldest and participant not in changes
        )
    return changes


def _oldest_counting(row: Row, erasure_horizon: int) -> bytes:
    """The order key that a scan must exceed in order to count."""
    limit = max(row.horizon, erasure_horizon)
    past = b"" if limit == NEVER else _TIME.pack(limit + _ZERO) + b"\xff" * 24
    return max(past, row.base.mark.key) if row.base else past


def _base(mark: Mark, event: Event) -> Base:
    status = _STATUS_OF.get(event.type) or AttendanceStatus(event.status)
    number = 1 if status is AttendanceStatus.ATTENDED else 0
    return Base(mark, status, number if event.number is None else event.number)
