"""Checks that the Redis user has the permissions that a worker needs: runs each command on probe keys, and leaves no data.

``ACL DRYRUN`` would be simpler, but few users have the permission to run it.
"""

from collections.abc import Iterator
from typing import Any

import orjson
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from worker.read_model.keys import PartitionKeys, live_key, namespace
from worker.read_model.lua_scripts import RIGHTS
from worker.redis.client import Client, Server, answer_timeout
from worker.redis.scripts import commands_of, raise_first_error

_REFUSALS = ("NOPERM", "can't run this command", "can't access at least one", "ACL failure in script")
_FIELD = "probe"


def trials(key: str) -> list[list[str]]:
    """Every command of the writing scripts, on one key, in an order that leaves no data."""
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
        ["XADD", key, "MAXLEN", "~", "1", "*", "a", "1"],
        ["UNLINK", key],
        ["DEL", key],
    ]


async def lacking(client: Client, base: str, partitions: int) -> list[str]:
    """The servers' errors for commands that the user may not run under ``ATTENDANCE_NAMESPACE``; empty if all are allowed.

    Raises:
        redis.RedisError: a server is unavailable, or a command failed for another reason.
    """
    errors = [*await _try_live(client, base), *await _try_watch(client, base), *await _try_partitions(client, base, partitions)]
    return [*dict.fromkeys(errors)]


async def _try_live(client: Client, base: str) -> list[str]:
    key = live_key(base)
    async with answer_timeout():
        pipe = client.pipeline(transaction=True)
        for words in (("HSETNX", key, _FIELD, "1"), ("HMGET", key, _FIELD), ("HGET", key, _FIELD), ("HDEL", key, _FIELD)):
            pipe.execute_command(*words)
        try:
            raise_first_error(await pipe.execute(raise_on_error=False))
        except NoPermissionError as error:
            return [str(error)]
        except ResponseError as error:
            # the client's error if MULTI is not permitted
            if "without MULTI" not in str(error):
                raise
            return ["no permissions to run the 'multi' command"]
    return []


async def _try_watch(client: Client, base: str) -> list[str]:
    """Tries what transactions need beside MULTI; in a cluster there are none."""
    if not isinstance(client, Server):
        return []
    answers = await client.ask([("WATCH", live_key(base)), ("UNWATCH",)])
    return [str(each) for each in answers if isinstance(each, NoPermissionError)]


async def _try_partitions(client: Client, base: str, partitions: int) -> Iterator[str]:
    """Tries the scripts on every partition: the masters of a cluster have separate users."""
    async with answer_timeout():
        pipe = client.pipeline(transaction=False)
        for number in range(partitions):
            key = PartitionKeys(namespace(base), number).probe
            for command in commands_of(RIGHTS, key, orjson.dumps(trials(key))):
                pipe.execute_command(*command)
        return _refusals(await pipe.execute(raise_on_error=False))


def _refusals(answers: list[Any]) -> Iterator[str]:
    for answer in answers:
        if isinstance(answer, NoPermissionError):
            yield str(answer)
            continue
        (errors,) = raise_first_error([answer])
        for text in map(bytes.decode, errors):
            if not any(refusal in text for refusal in _REFUSALS):
                raise RedisError(text)
            yield text
