"""The names of the topics, and the partition of a booking."""

from functools import lru_cache
from struct import unpack
from typing import NamedTuple

MIB = 1024 * 1024
#: The largest record batch that a broker accepts; a dead letter may be a record of that size with further headers.
MAX_MESSAGE_BYTES = 2 * MIB
MAX_DEAD_LETTER_BYTES = MAX_MESSAGE_BYTES + 128 * 1024
TABLES = ("attendance", "bookings")
BATCH_BYTES = 512 * 1024
#: The tables whose consumer group and changelogs have no number in their names.
FIRST_TABLES = "1"


class TopicNames(NamedTuple):
    """Every topic of one tenant."""

    events: str
    bookings: str
    alerts: str
    dead_letters: str
    attendance_changelog: str
    bookings_changelog: str

    @classmethod
    def of(cls, prefix: str, tables: str = FIRST_TABLES) -> "TopicNames":
        """The names with a prefix. Changelogs are those of some tables, and named as Faust names them."""
        plain = (f"{prefix}.{name}" for name in ("events", "bookings", "alerts", "dead-letters"))
        return cls(*plain, *(f"{group_of(prefix, tables)}-{table}-changelog" for table in TABLES))


def group_of(prefix: str, tables: str = FIRST_TABLES) -> str:
    """The consumer group whose workers keep some tables; changelogs and state folder have its name too."""
    return prefix if tables in ("", FIRST_TABLES) else f"{prefix}.{tables}"


def group_changelog(prefix: str, tables: str = FIRST_TABLES) -> str:
    """The topic of `worker.stream.group`: it has one partition, and a name like a changelog's."""
    return f"{group_of(prefix, tables)}-group-changelog"


@lru_cache(maxsize=10_000)
def partition_of(booking_id: str, partitions: int) -> int:
    """The partition of a booking: Kafka's default partitioner, applied to the normalised id."""
    return partition_of_key(booking_id.encode(), partitions)


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default partitioner chooses for a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, 32 bits unsigned: A. Appleby's MurmurHash2 with Kafka's seed, a third of what aiokafka's costs."""
    mix, mask = 0x5BD1E995, 0xFFFFFFFF
    size = len(key)
    hashed = 0x9747B28C ^ size
    whole = size & ~3
    for word in unpack(f"<{whole >> 2}I", key[:whole]):
        word = word * mix & mask  # noqa: PLW2901 - the name is the word's
        hashed = (hashed * mix ^ (word ^ word >> 24) * mix) & mask
    if size > whole:
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * mix & mask
    hashed = (hashed ^ hashed >> 13) * mix & mask
    return hashed ^ hashed >> 15
