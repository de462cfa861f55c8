"""What the same documents cost Redis when a Lua script does nothing but HSET each: the floor of an insert and an update."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from struct import Struct
from typing import NamedTuple

from redis.asyncio import Redis

from tests.bench.running import redis_cpu_seconds
from worker.read_model.keys import DOC, DOC_SHIFT

#: Entries of a script call, as the worker begins with, and calls sent together.
_CHUNK, _AT_ONCE = 100, 50
_HEAD = Struct(">16sH")
_SCRIPT = """
local call, unpack_, sub, byte, floor = redis.call, struct.unpack, string.sub, string.byte, math.floor
local prefix, divisor, entries, at = ARGV[1], 2 ^ tonumber(ARGV[2]), ARGV[3], 1
while at <= #entries do
  local id, document
  id, document, at = unpack_('>c16Hc0', entries, at)
  call('HSET', prefix .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id, document)
end
"""

Document = tuple[str, bytes, bytes]
"""The prefix of its bucket's key, its id and its bytes."""


class Floor(NamedTuple):
    """Redis CPU, microseconds per HSET."""

    insert_us: float
    update_us: float


async def documents(redis: Redis) -> list[Document]:
    """All documents that the workers have written."""
    found: list[Document] = []
    async for key in redis.scan_iter(match=f"*:{DOC}*", count=1000):
        prefix = key.decode().rpartition(":")[0] + ":"
        held: dict[bytes, bytes] = await redis.hgetall(key)  # type: ignore[misc]
        found += ((prefix, identity, document) for identity, document in held.items())
    return found


async def measure(redis: Redis, held: Sequence[Document], updates: int, seed: int) -> Floor:
    """Empties Redis, inserts the documents in random order, then writes some of them again with another last byte."""
    rng, shuffled = random.Random(seed), list(held)
    rng.shuffle(shuffled)
    await redis.flushall()
    insert_us = await _write(redis, shuffled)
    changed = [(prefix, identity, document[:-1] + b"~") for prefix, identity, document in rng.sample(shuffled, updates)]
    return Floor(insert_us, await _write(redis, changed))


async def _write(redis: Redis, held: Sequence[Document]) -> float:
    digest, before = await redis.script_load(_SCRIPT), await redis_cpu_seconds(redis)
    calls = _calls(held)
    while some := list(islice(calls, _AT_ONCE)):
        async with redis.pipeline(transaction=False) as pipe:
            for prefix, entries in some:
                pipe.evalsha(digest, 1, prefix, prefix, DOC_SHIFT, entries)
            await pipe.execute()
    return (await redis_cpu_seconds(redis) - before) / len(held) * 1e6


def _calls(held: Sequence[Document]) -> Iterator[tuple[str, bytes]]:
    """A call writes documents of one partition, as the worker's do."""
    waiting: dict[str, list[bytes]] = {}
    for prefix, identity, document in held:
        entries = waiting.setdefault(prefix, [])
        entries.append(_HEAD.pack(identity, len(document)) + document)
        if len(entries) == _CHUNK:
            yield prefix, b"".join(waiting.pop(prefix))
    yield from ((prefix, b"".join(entries)) for prefix, entries in waiting.items())
