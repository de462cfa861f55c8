"""The first released format: its programs, and topics and Redis as they left them (tests/data/README.md)."""

from pathlib import Path

DATA = Path(__file__).parents[2] / "data" / "first-release"
PARTITIONS = 4
#: The prefix of the Redis keys in the snapshot. Topics get a prefix of their own when they are restored.
NAMESPACE = "first-release"
