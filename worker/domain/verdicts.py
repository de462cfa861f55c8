"""Why each event of one attendance counts or does not: the law of the fold, applied to all of them at once, in words.

For people, so it is simple instead of fast. What it finds is what `fold` would fold: a property test holds that.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from schemas.events import Event, EventType
from worker.domain.fold import DIGEST_SIZE, NEVER, effective_time, order_key, participant_hash

_HORIZONS = (EventType.DELETED.value, EventType.BOOKING_ERASED.value)
_SCANNED = EventType.PARTICIPANT_SCANNED.value


class Verdict(StrEnum):
    """What an event is for its attendance."""

    BASE = "base"
    """The newest counting check_in, no_show, set or cleared: status and number start from it."""
    SCAN = "scan"
    """The newest scan of a participant who is counted."""
    HORIZON = "horizon"
    """The latest deletion or erasure: what is not later does not count."""
    SUPERSEDED = "superseded"
    """A newer event of its kind counts instead: another base, a newer scan of the participant, a later deletion."""
    COVERED_BY_BASE = "covered by the base"
    """A scan that is older than the base."""
    COVERED_BY_HORIZON = "covered by the horizon"
    """Not later than the latest deletion or erasure."""
    DUPLICATE = "duplicate"
    """A copy of an event that counts at another copy's times."""


class Judgement(NamedTuple):
    """One event and its verdict."""

    number: int
    """Of the event among those given, from 0."""
    event: Event
    effective: int
    """Effective time, microseconds; earlier than the event's time where the clock tolerance clamps it."""
    verdict: Verdict
    by: int | None
    """Number of the event that it yields to; None if it counts."""
    position: int = 0
    """Of a scan that counts: the how-manieth of the participants, in the law's order; from 1."""

    @property
    def is_clamped(self) -> bool:
        return self.effective < self.event.time

    @property
    def counts(self) -> bool:
        return self.by is None


class Explanation(NamedTuple):
    """All events of an attendance in the law's order, the oldest first."""

    judgements: list[Judgement]
    participants: int
    """Scanned participants that count."""


def explain(events: Sequence[Event], tolerance: int) -> Explanation:
    """Judges the events of one attendance, and the erasures of its booking.

    Args:
        events: in any order, copies included; their numbers name them in the result.
        tolerance: ``ATTENDANCE_CLOCK_TOLERANCE`` in microseconds.
    """
    keys = [order_key(event, tolerance) for event in events]
    order = sorted(range(len(events)), key=lambda index: (keys[index], -index))
    # copies differ in nothing but when they were received; a key ends with the digest of the rest
    copies = [(event.time, key[-DIGEST_SIZE:]) for event, key in zip(events, keys, strict=True)]
    counting_copy = {copies[index]: index for index in order}
    distinct = [index for index in order if counting_copy[copies[index]] == index]
    horizon = max((index for index in distinct if events[index].type in _HORIZONS), key=lambda i: keys[i], default=None)
    limit = NEVER if horizon is None else effective_time(keys[horizon])
    later = [index for index in distinct if effective_time(keys[index]) > limit]
    base = next((index for index in reversed(later) if events[index].type != _SCANNED), None)
    scans = _newest_scans(events, keys, later, b"" if base is None else keys[base])
    positions = {index: number for number, index in enumerate(sorted(scans.values(), key=lambda i: keys[i]), 1)}

    def judge(index: int) -> tuple[Verdict, int | None]:
        event, copy = events[index], counting_copy[copies[index]]
        if copy != index:
            return Verdict.DUPLICATE, copy
        if index == horizon:
            return Verdict.HORIZON, None
        if event.type in _HORIZONS:
            return Verdict.SUPERSEDED, horizon
        if effective_time(keys[index]) <= limit:
            return Verdict.COVERED_BY_HORIZON, horizon
        if event.type != _SCANNED:
            return (Verdict.BASE, None) if index == base else (Verdict.SUPERSEDED, base)
        if base is not None and keys[index] < keys[base]:
            return Verdict.COVERED_BY_BASE, base
        newest = scans[participant_hash(event.participant_id)]
        return (Verdict.SCAN, None) if index == newest else (Verdict.SUPERSEDED, newest)

    judgements = [
        Judgement(index, events[index], effective_time(keys[index]), *judge(index), positions.get(index, 0)) for index in order
    ]
    return Explanation(judgements, len(scans))


def _newest_scans(events: Sequence[Event], keys: Sequence[bytes], later: Iterable[int], base_key: bytes) -> Mapping[bytes, int]:
    """By participant, the newest scan after the base; ``later`` is in the law's order."""
    return {
        participant_hash(events[index].participant_id): index
        for index in later
        if events[index].type == _SCANNED and keys[index] > base_key
    }
