"""Whether Redis lets us do what a worker has to: it tries each command on keys of the namespace, and leaves nothing there.

``ACL DRYRUN`` would say the same, but is itself a right that few users have.
"""

from collections.abc import Iterator
from typing import Any

import orjson
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from worker.read_model.keys import PartitionKeys, live_key, namespace
from worker.redis.client import Client, patience
from worker.redis.scripts import commands_of, sound

_REFUSALS = ("NOPERM", "can't run this command", "can't access at least one", "ACL failure in script")
_FIELD = "probe"


def trials(key: str) -> list[list[str]]:
    """Every command of the scripts that write, on one key, in an order that leaves nothing behind."""
    return [
        ["TIME"],
        ["HSET", key, "a", "1"],
        ["HINCRBY", key, "a", "1"],
        ["HGET", key, "a"],
        ["HMGET", key, "a"],
        ["HLEN", key],
        ["HKEYS", key],
        ["HDEL", key, "a"],
        ["ZADD", key, "1", "a"],
        ["ZCARD", key],
        ["ZSCORE", key, "a"],
        ["ZREM", key, "a"],
        ["ZPOPMIN", key],
        ["UNLINK", key],
        ["DEL", key],
    ]


async def lacking(client: Client, base: str, partitions: int) -> list[str]:
    """What the user may not do under ``ATTENDANCE_NAMESPACE``, as the servers say it; empty where nothing is lacking.

    Raises:
        redis.RedisError: a server is away, or refuses for another reason.
    """
    refused = [*await _try_live(client, base), *await _try_partitions(client, base, partitions)]
    return [*dict.fromkeys(refused)]


async def _try_live(client: Client, base: str) -> list[str]:
    key = live_key(base)
    async with patience():
        pipe = client.pipeline(transaction=True)
        for words in (("HSETNX", key, _FIELD, "1"), ("HMGET", key, _FIELD), ("HGET", key, _FIELD), ("HDEL", key, _FIELD)):
            pipe.execute_command(*words)
        try:
            sound(await pipe.execute(raise_on_error=False))
        except NoPermissionError as error:
            return [str(error)]
        except ResponseError as error:
            # what the client makes of a MULTI that is refused
            if "without MULTI" not in str(error):
                raise
            return ["no permissions to run the 'multi' command"]
    return []


async def _try_partitions(client: Client, base: str, partitions: int) -> Iterator[str]:
    """Each master has some of them, and users of its own."""
    async with patience():
        pipe = client.pipeline(transaction=False)
        for number in range(partitions):
            key = PartitionKeys(namespace(base), number).probe
            for command in commands_of("rights", key, orjson.dumps(trials(key))):
                pipe.execute_command(*command)
        return _refusals(await pipe.execute(raise_on_error=False))


def _refusals(answers: list[Any]) -> Iterator[str]:
    for answer in answers:
        if isinstance(answer, NoPermissionError):
            yield str(answer)
            continue
        (said,) = sound([answer])
        for text in map(bytes.decode, said):
            if not any(refusal in text for refusal in _REFUSALS):
                raise RedisError(text)
            yield text
