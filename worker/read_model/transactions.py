"""Applies chunks to the read models in transactions (MULTI, EXEC): the same as ``apply.lua``, for half of the server's time.

A transaction cannot look at the watermark and decide. So the connection watches it (WATCH), the writer looks at it, and EXEC
runs nothing if anybody has written it since: then the writer looks again. What needs a decision within the transaction is left
to the script (`MakeCommands.split`): windows that come or go, and pairs of which Redis may hold something else.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from redis.exceptions import ResponseError

from worker.read_model.keys import PartitionKeys
from worker.read_model.lua_scripts import CHANGED
from worker.read_model.write_batch import Chunk, flatten
from worker.redis.exclusive import Exclusive
from worker.redis.multiplexed import pack

_MULTI, _EXEC = pack(("MULTI",)), pack(("EXEC",))
#: The watermark changes once a second by a heartbeat, and otherwise only where another worker claims the partition.
_ATTEMPTS = 100


class MakeCommands(Protocol):
    """Makes the commands of transactions; ``attendance_native.Transactions``."""

    def split(self, pairs: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Entries of pairs that a transaction can apply, and those that need the script."""

    def commands(
        self, prefix: bytes, pairs: list[bytes], bookings: list[bytes], alerts: list[bytes], devices: list[bytes]
    ) -> tuple[bytes, int, list[bytes]]:
        """The commands, in the protocol of Redis; how many; the sessions that count as changed."""


class Owner(NamedTuple):
    """What the watermark must say for a write of this owner."""

    generation: str
    epoch: bytes
    key_generation: str


class Transactions:
    """Applies chunks one after the other, on a connection of its own."""

    def __init__(self, connection: Exclusive, keys: PartitionKeys, owner: Owner, make_commands: MakeCommands) -> None:
        self._connection = connection
        self._owner = owner
        self._watermark = keys.watermark
        self._prefix = keys.prefix(owner.key_generation).encode()
        self._make_commands = make_commands
        fields = ("generation", "epoch", "seq", "keys", "building")
        self._look = pack(("WATCH", self._watermark)) + pack(("HMGET", self._watermark, *fields))
        self._seen: Sequence[bytes | None] | None = None
        """These fields, which are watched; None: they have to be looked at."""

    async def apply(self, chunk: Chunk, seq: int) -> bytes:
        """Applies a chunk as the write of this number; answers as ``apply.lua``.

        Raises:
            redis.ConnectionError: the server is unavailable; apply it again on another connection.
            redis.ResponseError: a command was refused; nothing was applied, or (``gone``) a key was damaged.
        """
        for _ in range(_ATTEMPTS):
            if self._seen is None:
                _, self._seen = _checked(await self._connection.ask(self._look, 2))
            refusal = self._refusal(seq)
            if refusal:
                return refusal
            commands, count = self._commands(chunk, seq)
            answers = await self._connection.ask(commands, count)
            *queued, applied, _, seen = answers
            # an error is looked at again, where it is raised
            self._seen = None if isinstance(seen, Exception) else seen
            if isinstance(applied, Exception):
                # a command that was refused when it was queued says why
                raise next((each for each in queued if isinstance(each, Exception)), applied)
            if applied is not None:
                # by their types: there are hundreds of answers
                return b"gone" if any(issubclass(kind, ResponseError) for kind in set(map(type, applied))) else b"ok"
        raise ResponseError(f"the watermark of {self._watermark} changes all the time")

    def _refusal(self, seq: int) -> bytes:
        """Why ``apply.lua`` would apply nothing; empty: it would."""
        assert self._seen is not None
        generation, epoch, last, keys, building = self._seen
        ours = self._owner.key_generation.encode()
        if epoch is None:
            return b"gone"
        if epoch != self._owner.epoch:
            return b"fenced"
        if generation != self._owner.generation.encode() or ours not in (keys, building):
            return b"gone"
        difference = seq - int(last or 0)
        return b"" if difference == 1 else b"repeat" if difference < 1 else b"gap"

    def _commands(self, chunk: Chunk, seq: int) -> tuple[bytes, int]:
        """A transaction that applies the chunk, and what looks at the watermark after it; and how many commands these are."""
        assert self._seen is not None
        entries = chunk.pairs, chunk.bookings, chunk.alerts, chunk.devices
        packed, count, sessions = self._make_commands.commands(self._prefix, *entries)
        ends = [pack(("HSET", self._watermark, "seq", seq, *flatten(chunk.watermark)))]
        # a repair fills keys that nobody reads: repair.lua announces them as a whole
        if any(entries) and self._seen[3] == self._owner.key_generation.encode():
            # not by its digest: a server that does not know it would apply the rest
            ends.append(pack(("EVAL", CHANGED.text, 1, self._watermark, b"\n".join(sessions), int(bool(chunk.alerts)))))
        return b"".join((_MULTI, packed, *ends, _EXEC, self._look)), count + len(ends) + 4


def _checked(answers: list[Any]) -> list[Any]:
    for each in answers:
        if isinstance(each, Exception):
            raise each
    return answers
