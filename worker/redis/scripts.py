"""The Lua scripts: package data, run by their digest, sent again where the server does not know them.

That server runs only the one that a key is on, so a script is sent to it with a call (EVAL keeps it), not loaded beforehand.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from worker.redis.client import Client, patience

_SENDINGS = 3
#: How a server of a cluster ends a script in the middle that comes to a key of which it has handed on the slot, or is about to.
_NOT_HERE = "non local key"

Call = tuple[str | Sequence[str], Sequence[Any]]
"""A key, or several that one server has, and the arguments."""


class CutShort(RedisError):
    """A script was ended in the middle: what it had written by then is there."""


@cache
def _source(name: str) -> tuple[str, str]:
    # a name of several parts is one script of several files
    text = "".join(files("worker.read_model").joinpath("lua", f"{part}.lua").read_text() for part in name.split("+"))
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


async def run(client: Client, name: str, key: str, *arguments: Any) -> Any:
    """What the script ``name`` answers for one key."""
    (answer,) = await run_all(client, name, key, [arguments])
    return answer


async def run_all(client: Client, name: str, key: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """What the script ``name`` answers to each call, all sent at once; one round trip.

    Raises:
        CutShort: the key's slot is being moved; a call, the first that failed, was perhaps run in part.
        redis.RedisError: a call failed; those before it were run, those after it perhaps too.
    """
    whole = [(key, arguments) for arguments in calls]
    answers = await _write(client, _commands(name, whole, "EVAL", set()))
    for _ in range(_SENDINGS - 1):
        if not any(isinstance(answer, NoScriptError) for answer in answers):
            break
        # all again: those that were run are repeats, and none may be run before one that was not
        answers = await _write(client, _commands(name, whole, "EVAL", {0}))
    return sound(answers)


def commands_of(name: str, key: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """The two commands that run the script ``name``: in full, then by its digest."""
    calls = [(key, arguments)] * 2
    return _commands(name, calls, "EVAL", {0})


async def ask_all(client: Client, name: str, calls: Sequence[Call]) -> list[Any]:
    """What the script ``name``, which only reads, answers to each call, in their order; one round trip to each master.

    Raises:
        redis.RedisError: a call failed, or a master is away.
    """
    answers: list[Any] = await client.ask(_commands(name, calls, "EVAL_RO", set()))
    for _ in range(_SENDINGS - 1):
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if not unknown:
            break
        again = [calls[number] for number in unknown]
        said = await client.ask(_commands(name, again, "EVAL_RO", _first_of_each_key(again)))
        for number, answer in zip(unknown, said, strict=True):
            answers[number] = answer
    return sound(answers)


def _commands(name: str, calls: Sequence[Call], command: str, in_full: set[int]) -> list[tuple[Any, ...]]:
    """The script's calls; those of ``in_full`` carry the script itself."""
    text, digest = _source(name)
    by_digest = command.replace("EVAL", "EVALSHA")
    commands = []
    for number, (key, arguments) in enumerate(calls):
        script = (command, text) if number in in_full else (by_digest, digest)
        keys = (key,) if isinstance(key, str) else key
        commands.append((*script, len(keys), *keys, *arguments))
    return commands


async def _write(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The answer to each, errors among them."""
    async with patience():
        if len(commands) == 1:
            # a pipeline of one costs as much again
            try:
                return [await client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
            except ResponseError as error:
                return [error]
        pipe = client.pipeline(transaction=False)
        for each in commands:
            pipe.execute_command(*each)
        return await pipe.execute(raise_on_error=False)


def _first_of_each_key(calls: Sequence[Call]) -> set[int]:
    return set({str(key): number for number, (key, _) in reversed([*enumerate(calls)])}.values())


def sound(answers: list[Any]) -> list[Any]:
    """The answers, the first error among them raised."""
    for answer in answers:
        if isinstance(answer, ResponseError) and _NOT_HERE in str(answer):
            raise CutShort(str(answer)) from answer
        if isinstance(answer, Exception):
            raise answer
    return answers
