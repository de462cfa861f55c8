"""Runs Lua scripts: EVALSHA first, and EVAL if the server does not know the script.

In a cluster each master has its own script cache. EVAL adds a script to the cache of the master that owns the key; there is no
SCRIPT LOAD.
"""

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, NamedTuple, Self

from redis.exceptions import NoScriptError, RedisError, ResponseError

from worker.redis.client import Client, Server, answer_timeout
from worker.redis.multiplexed import pack

_MAX_SENDS = 3
#: Commands of so many bytes share a connection with those of other partitions; larger ones take one of their own.
_SHARED_BYTES = 64 * 1024
#: Part of the error of a script that, while running, used a key whose slot the master has migrated or is migrating.
_SLOT_MOVED_ERROR = "non local key"

Call = tuple[str | Sequence[str], Sequence[Any]]
"""The key, or several keys on one server, and the arguments."""


class ScriptInterrupted(RedisError):
    """A script stopped in the middle; its writes until then were applied."""


class Script(NamedTuple):
    """A Lua script, and the digest by which servers know it."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Self:
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run(client: Client, script: Script, key: str, *arguments: Any) -> Any:
    """The answer of a script for one key."""
    (answer,) = await run_all(client, script, key, [arguments])
    return answer


async def run_all(client: Client, script: Script, key: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """The answers of a script to the calls, sent as one pipeline.

    Raises:
        ScriptInterrupted: the key's slot is being moved; the first call that failed may have been run in part.
        redis.RedisError: a call failed; the calls before it were run, those after it may have been run.
    """
    keyed_calls = [(key, arguments) for arguments in calls]
    answers = await _write(client, _commands(script, keyed_calls, "EVAL", set()))
    for _ in range(_MAX_SENDS - 1):
        if not any(isinstance(answer, NoScriptError) for answer in answers):
            break
        # retry all calls, because their order matters; repeating one that was run changes nothing
        answers = await _write(client, _commands(script, keyed_calls, "EVAL", {0}))
    return raise_first_error(answers)


def commands_of(script: Script, key: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Two commands that run a script: an EVAL, then an EVALSHA."""
    calls = [(key, arguments)] * 2
    return _commands(script, calls, "EVAL", {0})


async def ask_all(client: Client, script: Script, calls: Sequence[Call]) -> list[Any]:
    """The answers of a read-only script to the calls, in their order; one round trip to each master.

    Raises:
        redis.RedisError: a call failed, or a master is unavailable.
    """
    answers: list[Any] = await client.ask(_commands(script, calls, "EVAL_RO", set()))
    for _ in range(_MAX_SENDS - 1):
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if not unknown:
            break
        retries = [calls[number] for number in unknown]
        retried = await client.ask(_commands(script, retries, "EVAL_RO", _first_call_of_each_key(retries)))
        for number, answer in zip(unknown, retried, strict=True):
            answers[number] = answer
    return raise_first_error(answers)


def _commands(script: Script, calls: Sequence[Call], command: str, in_full: set[int]) -> list[tuple[Any, ...]]:
    """The commands for the calls: EVAL for the indexes in ``in_full``, EVALSHA for the others."""
    by_digest = command.replace("EVAL", "EVALSHA")
    commands = []
    for number, (key, arguments) in enumerate(calls):
        head = (command, script.text) if number in in_full else (by_digest, script.digest)
        keys = (key,) if isinstance(key, str) else key
        commands.append((*head, len(keys), *keys, *arguments))
    return commands


async def _write(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The answers to the commands; errors are answers."""
    if isinstance(client, Server):
        packed = b"".join(map(pack, commands))
        # a large write would let those of other partitions wait
        if len(packed) <= _SHARED_BYTES:
            return await client.ask_packed(packed, len(commands))
    async with answer_timeout():
        if len(commands) == 1:
            # a pipeline of one command costs twice as much
            try:
                return [await client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
            except ResponseError as error:
                return [error]
        pipe = client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return await pipe.execute(raise_on_error=False)


def _first_call_of_each_key(calls: Sequence[Call]) -> set[int]:
    return set({str(key): number for number, (key, _) in reversed([*enumerate(calls)])}.values())


def raise_first_error(answers: list[Any]) -> list[Any]:
    """The answers; raises the first error among them."""
    for answer in answers:
        if isinstance(answer, ResponseError) and _SLOT_MOVED_ERROR in str(answer):
            raise ScriptInterrupted(str(answer)) from answer
        if isinstance(answer, Exception):
            raise answer
    return answers
