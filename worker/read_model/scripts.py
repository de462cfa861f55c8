"""The Lua scripts: package data, run by their digest, sent again where the server does not know them."""

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
