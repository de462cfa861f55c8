"""The packed newest event of a source: effective time, time and received, 8 bytes each, big endian, microseconds + 2**63."""

from struct import Struct
from typing import NamedTuple

_TIMES = Struct(">QQQ")
_ZERO = 1 << 63


class NewestEvent(NamedTuple):
    """The newest event of a source; microseconds since the epoch."""

    effective: int
    time: int
    received: int


def unpack_newest(packed: bytes) -> NewestEvent:
    """The times of a packed newest event."""
    return NewestEvent(*(each - _ZERO for each in _TIMES.unpack(packed)))


def score_of(packed: bytes) -> float:
    """The score of a source in the index by time: the effective time in ms, cut."""
    return float(unpack_newest(packed).effective // 1000)
