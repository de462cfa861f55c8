"""The random id that tells one Redis of a group from another; it lies beside the name of the live namespace.

An id is *claimed* before it is recorded with the tables, so that a worker that dies between the two leaves something that
the next one can complete. A claim names the id that it replaces: where another one has been recorded since, it is void.
"""

from typing import NamedTuple

from worker.read_model.keys import PartitionKeys, live_key
from worker.redis.client import Client, patience
from worker.redis.scripts import run

_FIELD = "redisId"
_REPLACES = "<"


class RedisId(NamedTuple):
    """What a Redis carries. Empty text: none."""

    id: str
    replaces: str | None = None
    """Of a claim, the id that was recorded when it was made; None where the id itself has been recorded."""

    @classmethod
    def parse(cls, text: str) -> "RedisId":
        name, claimed, replaces = text.partition(_REPLACES)
        return cls(name, replaces if claimed else None)

    def __str__(self) -> str:
        return self.id if self.replaces is None else f"{self.id}{_REPLACES}{self.replaces}"


NO_ID = RedisId("")


async def read_id(client: Client, base: str) -> RedisId:
    """The id of the Redis under ``ATTENDANCE_NAMESPACE``; `NO_ID` where it has none."""
    async with patience():
        found = await client.execute_command("HGET", live_key(base), _FIELD)  # type: ignore[no-untyped-call]
    return RedisId.parse((found or b"").decode())


async def replace_id(client: Client, base: str, known: RedisId, new: RedisId) -> RedisId:
    """Sets ``new`` where the Redis has just ``known``; what it has now."""
    return RedisId.parse((await run(client, "identity", live_key(base), str(known), str(new))).decode())


async def heartbeats(client: Client, namespace: str, partitions: int) -> list[bytes | None]:
    """When each partition's writer last wrote its heartbeat, as it wrote it."""
    async with patience():
        pipe = client.pipeline(transaction=False)
        for number in range(partitions):
            pipe.execute_command("HGET", PartitionKeys(namespace, number).watermark, "writtenAt")
        return list(await pipe.execute())
