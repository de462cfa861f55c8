"""The Lua scripts: package data, run by their digest, sent again where the server does not know them."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from worker.read_model.client import patience


@cache
def _source(name: str) -> tuple[str, str]:
    text = files("worker.read_model").joinpath(f"{name}.lua").read_text()
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


async def run(client: Redis, name: str, key: str, *arguments: Any) -> Any:
    """What the script ``name`` answers for one key."""
    text, digest = _source(name)
    async with patience():
        try:
            return await client.evalsha(digest, 1, key, *arguments)
        except NoScriptError:
            return await client.eval(text, 1, key, *arguments)


async def run_all(client: Redis, name: str, key: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """What the script ``name`` answers to each call, all sent at once; one round trip.

    Raises:
        redis.RedisError: a call failed; those before it were run, those after it perhaps too.
    """
    text, digest = _source(name)
    for _ in range(2):
        pipe = client.pipeline(transaction=False)
        for arguments in calls:
            pipe.evalsha(digest, 1, key, *arguments)
        async with patience():
            answers = await pipe.execute(raise_on_error=False)
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if not isinstance(failed, NoScriptError):
            break
        await client.script_load(text)
    if failed is not None:
        raise failed
    return list(answers)
