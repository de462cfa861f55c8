"""What became of dead letters: which were replayed, and which are parked. One bit for each, by its offset.

The marks are in one hash, outside the namespaces, so that a rebuild does not lose them. 10,000,000 dead letters that are all
marked take 3 MB. Marks of records that the topic no longer has are dropped.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from worker.read_model.keys import dead_letters_key
from worker.read_model.lua_scripts import MARKS
from worker.read_model.watermark import parse_hash
from worker.redis.client import Client, answer_timeout
from worker.redis.scripts import run_all

#: Offsets of one field of the hash: 64 bytes, which Redis keeps in little more.
_CHUNK = 512
#: Fields of one script call: it takes about a millisecond.
_AT_ONCE = 200


class Mark(StrEnum):
    """What became of a dead letter. One without a mark is open."""

    REPLAYED = "replayed"
    PARKED = "parked"
    UNPARKED = "unparked"
    """It was parked once, and is open again: its earlier replays do not count."""


class Marked:
    """The marks of some offsets of one partition."""

    def __init__(self, fields: Mapping[tuple[Mark, int], bytes]) -> None:
        self._fields = fields

    def has(self, mark: Mark, offset: int) -> bool:
        bits = self._fields.get((mark, offset // _CHUNK))
        return bits is not None and bool(bits[offset % _CHUNK >> 3] >> (offset & 7) & 1)


class DeadLetterMarks:
    """The marks under one ``ATTENDANCE_NAMESPACE``."""

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._key = dead_letters_key(base)

    async def of(self, partition: int, offsets: Iterable[int]) -> Marked:
        """The marks of dead letters at these offsets."""
        names = [(mark, chunk) for chunk in {offset // _CHUNK for offset in offsets} for mark in Mark]
        if not names:
            return Marked({})
        found = await self._execute("HMGET", *(_field(mark, partition, chunk) for mark, chunk in names))
        return Marked({name: bits for name, bits in zip(names, found, strict=True) if bits is not None})

    async def set(self, mark: Mark, partition: int, offsets: Sequence[int]) -> None:
        """Marks dead letters; repeating it changes nothing."""
        await self._change("set", mark, partition, offsets)

    async def clear(self, mark: Mark, partition: int, offsets: Sequence[int]) -> None:
        """Removes a mark from dead letters; repeating it changes nothing."""
        await self._change("clear", mark, partition, offsets)

    async def last_marked(self) -> dict[int, int]:
        """By partition, the last offset that has a mark."""
        last: dict[int, int] = {}
        for name, bits in await self._fields():
            if not any(bits):
                continue
            _, partition, chunk = name.split(":")
            offset = int(chunk) * _CHUNK + int.from_bytes(bits, "little").bit_length() - 1
            last[int(partition)] = max(offset, last.get(int(partition), -1))
        return last

    async def drop_outdated(self, logs: Mapping[int, range]) -> None:
        """Drops the marks of records that retention has deleted, given the offsets that the log of each partition has."""
        outdated = []
        for name, _ in await self._fields():
            _, partition, chunk = name.split(":")
            if (int(chunk) + 1) * _CHUNK <= logs.get(int(partition), range(0)).start:
                outdated.append(name)
        for start in range(0, len(outdated), 10 * _AT_ONCE):
            await self._execute("HDEL", *outdated[start : start + 10 * _AT_ONCE])

    async def _fields(self) -> list[tuple[str, bytes]]:
        async with answer_timeout():
            answer = await self._client.execute_command("HGETALL", self._key)  # type: ignore[no-untyped-call]
        return [(name.decode(), bits) for name, bits in parse_hash(answer).items()]

    async def _change(self, how: str, mark: Mark, partition: int, offsets: Sequence[int]) -> None:
        masks: dict[int, int] = defaultdict(int)
        for offset in offsets:
            masks[offset // _CHUNK] |= 1 << offset % _CHUNK
        pairs = [(_field(mark, partition, chunk), bits.to_bytes(_CHUNK // 8, "little")) for chunk, bits in masks.items()]
        calls = [
            (how, *(part for pair in pairs[start : start + _AT_ONCE] for part in pair))
            for start in range(0, len(pairs), _AT_ONCE)
        ]
        if calls:
            await run_all(self._client, MARKS, self._key, calls)

    async def _execute(self, command: str, *arguments: Any) -> list[Any]:
        async with answer_timeout():
            answer = await self._client.execute_command(command, self._key, *arguments)  # type: ignore[no-untyped-call]
        return answer if isinstance(answer, list) else []


def _field(mark: Mark, partition: int, chunk: int) -> str:
    return f"{mark}:{partition}:{chunk}"
