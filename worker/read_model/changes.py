"""Reads the streams of changes: `lua/announce.lua` appends an entry for each script call that wrote something.

An entry is a hint to load again, no data. A reader that may have missed one, because the stream keeps few, takes everything as
changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from worker.read_model.keys import MAX_CHANGES, PartitionKeys
from worker.redis.client import Client

#: In place of the sessions: any may have changed.
_ANY_SESSION = b"\n"
#: The id before that of any entry.
START = "0-0"


class StreamRead(NamedTuple):
    """What the new entries of one partition's stream say together."""

    last_id: str
    sessions: frozenset[str] | None
    """Sessions whose tally changed; None: any may have, or entries may have been dropped before they were read."""
    alerts: bool


async def read_changes(client: Client, namespace: str, after: Mapping[int, str], block_ms: int) -> dict[int, StreamRead]:
    """The new entries of partitions; empty if there are none within ``block_ms``. It occupies a connection meanwhile.

    Args:
        after: the id of the last entry read, by partition; in a cluster one partition, since a command reads one slot.

    Raises:
        redis.RedisError, OSError: Redis is unavailable, or the user may not run XREAD.
    """
    keys = {PartitionKeys(namespace, number).changes: number for number in after}
    command = ("XREAD", "BLOCK", block_ms, "STREAMS", *keys, *after.values())
    reply: Any = await client.execute_command(*command)  # type: ignore[no-untyped-call]
    streams = reply.items() if isinstance(reply, dict) else reply or ()
    return {keys[key.decode()]: _merge(entries) for key, entries in streams}


def id_order(entry_id: str) -> tuple[int, int]:
    """The id of an entry as numbers, which compare as the entries follow each other."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


def _merge(reply: Sequence[Any]) -> StreamRead:
    # an entry begins with its id; in RESP3 the entries are in one more list
    entries = reply if isinstance(reply[0][0], bytes) else reply[0]
    names: set[bytes] = set()
    has_alerts, is_any = False, len(entries) >= MAX_CHANGES
    for _, fields in entries:
        values = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        sessions = values.get(b"sessions", _ANY_SESSION)
        has_alerts |= values.get(b"alerts") != b"0"
        if sessions == _ANY_SESSION:
            is_any = True
        elif sessions:
            names.update(sessions.split(b"\n"))
    last_id = entries[-1][0].decode()
    return StreamRead(last_id, None if is_any else frozenset(map(bytes.decode, names)), has_alerts or is_any)
