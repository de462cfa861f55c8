"""What `attendance verify` finds of a partition."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Key of a difference in the alerts topic, and in the tables; neither is a key of Redis.
ALERTS_TOPIC, TABLES = b"alerts topic", b"tables"
#: Differences of a partition that are kept, of Redis and of the alerts topic each.
MOST_DIFFERENCES = 10_000


class Difference(NamedTuple):
    """What differs at one place."""

    partition: int
    key: str
    """Without namespace, partition and key generation; or `ALERTS_TOPIC` or `TABLES`."""
    member: str
    problem: str
    """``missing``, ``surplus`` or ``different``; ``changing``: it changed whenever it was looked at."""
    expected: Any
    found: Any


@dataclass
class PartitionReport:
    """What became of one partition."""

    number: int
    compared: int = 0
    """Places in Redis and alerts that were compared."""
    events: int = 0
    """Records of the window that were folded."""
    differences: list[Difference] = field(default_factory=list)
    unreached: str = ""
    """Why it could not be compared."""
    redis_differs: bool = False
    alerts: dict[bytes, bytes | None] = field(default_factory=dict)
    """Records that would make the alerts topic right."""

    @property
    def is_equal(self) -> bool:
        """Whether everything was compared, and nothing differs."""
        return not self.differences and not self.unreached
