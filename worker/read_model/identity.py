"""The random id of a Redis, which detects that a group's workers use different ones; stored in the key of the live namespace.

An id is first written to Redis as a *claim*, then recorded with the tables, then the claim is completed. If a worker dies
in between, the next one completes the claim. A claim has the id that it replaces, and is void if another id was recorded since.
"""

from typing import NamedTuple

from worker.read_model.keys import PartitionKeys, live_key
from worker.read_model.lua_scripts import IDENTITY
from worker.redis.client import Client, answer_timeout
from worker.redis.scripts import run

_FIELD = "redisId"
_REPLACES = "<"


class RedisId(NamedTuple):
    """The id of a Redis, or the claim of one. Empty: none."""

    id: str
    replaces: str | None = None
    """Of a claim: the id that was recorded when it was made. None: the id is recorded, not only claimed."""

    @classmethod
    def parse(cls, text: str) -> "RedisId":
        name, claimed, replaces = text.partition(_REPLACES)
        return cls(name, replaces if claimed else None)

    def __str__(self) -> str:
        return self.id if self.replaces is None else f"{self.id}{_REPLACES}{self.replaces}"


NO_ID = RedisId("")


async def read_id(client: Client, base: str) -> RedisId:
    """The id of the Redis under ``ATTENDANCE_NAMESPACE``; `NO_ID` if it has none."""
    async with answer_timeout():
        text = await client.execute_command("HGET", live_key(base), _FIELD)  # type: ignore[no-untyped-call]
    return RedisId.parse((text or b"").decode())


async def replace_id(client: Client, base: str, expected: RedisId, new: RedisId) -> RedisId:
    """Compare-and-set: writes ``new`` if the id is ``expected``. Returns the id after the call."""
    return RedisId.parse((await run(client, IDENTITY, live_key(base), str(expected), str(new))).decode())


async def heartbeats(client: Client, namespace: str, partitions: int) -> list[bytes | None]:
    """The ``writtenAt`` of each partition's watermark, undecoded."""
    async with answer_timeout():
        pipe = client.pipeline(transaction=False)
        for number in range(partitions):
            pipe.execute_command("HGET", PartitionKeys(namespace, number).watermark, "writtenAt")
        return list(await pipe.execute())
