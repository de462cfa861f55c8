"""The live read models: which namespace they are in, and questions to its partitions, each answered whole or not at all.

Errors, and whether a retry helps::

    ReaderError
    ├── NotServing      no namespace is live, or a partition is being repaired: again in a second
    └── OtherLayout     Redis was written by another version of this software: upgrade the reader
    redis.RedisError    Redis is away
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from schemas.attendance import Attendance, guid_bytes
from schemas.query import Filter
from worker.read_model.client import Client, patience
from worker.read_model.documents import unpack
from worker.read_model.keys import DOC_SHIFT, PartitionKeys, is_ours, live_key, namespaces
from worker.read_model.scripts import ask_all
from worker.topics import partition_of

#: A heartbeat older than this says nothing, seconds.
STALE_AFTER = 5.0
_ATTEMPTS = 3
#: Partitions that one script call looks at.
_TOGETHER = 4


class ReaderError(Exception):
    """The question cannot be answered now."""


class NotServing(ReaderError):
    """What is there is not the whole: no namespace is live, or a partition is being repaired."""


class OtherLayout(ReaderError):
    """The live namespace has a layout that this version does not know."""


class Freshness(NamedTuple):
    """How fresh an answer is. None where the writer's heartbeat is too old to tell."""

    event_time: str | None
    """Newest event time applied, RFC 3339."""
    lag: int | None
    """Records of the events and bookings topics that are not applied yet."""

    def document(self) -> dict[str, Any]:
        return {"eventTime": self.event_time, "lag": self.lag}


class Partition(NamedTuple):
    """What the watermark says of a partition."""

    number: int
    state: str
    mark: dict[str, str]

    @property
    def lag(self) -> int | None:
        """Records not applied yet; None where nobody has said lately how long the topics are."""
        if time.time() - int(self.mark.get("writtenAt", 0)) / 1000 > STALE_AFTER:
            return None
        return sum(
            max(0, int(self.mark.get(f"{topic}.end", 0)) - int(self.mark.get(f"{topic}.offset", 0)))
            for topic in ("events", "bookings")
        )


Generations = dict[str, str]
"""By watermark key, the key generation that was live when it was last read."""


class Live:
    """The live namespace as one question finds it.

    Args:
        generations: shared by the questions of a reader.
    """

    def __init__(self, client: Client, namespace: str, partitions: int, generations: Generations) -> None:
        self.partitions = partitions
        self._client = client
        self._keys = [PartitionKeys(namespace, number) for number in range(partitions)]
        self._generations = generations

    @property
    def everywhere(self) -> range:
        return range(self.partitions)

    def of(self, booking_id: str) -> int:
        """The partition of a booking."""
        return partition_of(booking_id, self.partitions)

    async def mark(self, number: int, *fields: str) -> list[str | None]:
        """Fields of a partition's watermark, whatever its state."""
        async with patience():
            found: Any = await self._client.hmget(self._keys[number].watermark, fields)
        return [None if field is None else field.decode() for field in found]

    async def marks(self) -> list[Partition]:
        """Each partition's watermark, whatever its state."""
        async with patience(), self._client.pipeline(transaction=False) as pipe:
            for keys in self._keys:
                pipe.hgetall(keys.watermark)
            return [_partition(number, mark) for number, mark in enumerate(await pipe.execute())]

    async def read(
        self, where: Sequence[int], commands: Sequence[Sequence[tuple[Any, ...]]]
    ) -> tuple[list[list[Any]], Freshness]:
        """Each partition's commands in one pipeline, with its watermark read last: it proves that the keys were live."""
        for _ in range(_ATTEMPTS):
            async with patience(), self._client.pipeline(transaction=False) as pipe:
                for number, some in zip(where, commands, strict=True):
                    keys = self._keys[number]
                    prefix = keys.prefix(self._generations.get(keys.watermark, ""))
                    for name, key, *arguments in some:
                        getattr(pipe, name)(prefix + key, *arguments)
                    pipe.hgetall(keys.watermark)
                answers = iter(await pipe.execute())
            found, marks = [], []
            for number, some in zip(where, commands, strict=True):
                found.append([next(answers) for _ in some])
                marks.append(_partition(number, next(answers)))
            current = [self._is_current(mark) for mark in marks]
            if all(current):
                return found, freshness_of(marks)
        raise NotServing("the read models are being switched: ask again")

    async def ask(
        self, script: str, where: Iterable[int], arguments: Sequence[Any], own: Mapping[int, Sequence[Any]] | None = None
    ) -> dict[int, list[Any]]:
        """What a script, which finds the live keys itself, answers for each partition.

        Args:
            arguments: the same for all.
            own: behind those, each partition's own.
        """
        numbers = list(where)
        # one server answers for several at a time, so that no call is long; in a cluster each has a slot of its own
        size = _TOGETHER if isinstance(self._client, Redis) else 1
        groups = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        calls = [
            (
                [self._keys[number].watermark for number in group],
                (*arguments, *(part for number in group for part in own[number])) if own else arguments,
            )
            for group in groups
        ]
        answers = [answer for answers in await ask_all(self._client, script, calls) for answer in answers]
        return {number: _told(number, answer) for number, answer in zip(numbers, answers, strict=True)}

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each."""
        wanted: dict[int, list[bytes]] = {}
        for identity, number in ids.items():
            wanted.setdefault(number, []).append(identity)
        return await self._attendances({number: (b"".join(some), b"") for number, some in wanted.items()})

    async def direct(self, wanted: Filter) -> list[Attendance]:
        """Every attendance of the bookings, or else of the ids, that a filter allows; others may be among them."""
        if wanted.bookings.allowed is None:
            ids = b"".join(map(guid_bytes, wanted.ids.allowed or ()))
            return list((await self._attendances(dict.fromkeys(self.everywhere, (ids, b"")))).values())
        bookings: dict[int, list[bytes]] = {}
        for booking_id in wanted.bookings.allowed:
            bookings.setdefault(self.of(booking_id), []).append(booking_id.encode() + b"\0")
        found = await self._attendances({number: (b"", b"".join(some)) for number, some in bookings.items()})
        return list(found.values())

    async def _attendances(self, own: Mapping[int, tuple[bytes, bytes]]) -> dict[bytes, Attendance]:
        known = {}
        for parts in (await self.ask("find", own, (DOC_SHIFT,), own)).values():
            for identity, packed in zip(parts[::2], parts[1::2], strict=True):
                attendance = unpack(identity, packed)
                if attendance is not None:
                    known[identity] = attendance
        return known

    def _is_current(self, partition: Partition) -> bool:
        """Whether the keys just read were the live ones; remembers those that are."""
        _serving(partition.number, partition.state)
        key, live = self._keys[partition.number].watermark, partition.mark["keys"]
        known, self._generations[key] = self._generations.get(key), live
        return known == live


async def locate(client: Client, base: str, generations: Generations) -> Live:
    """The live namespace; asked once for each question, since it may be switched at any time."""
    async with patience():
        found: Any = await client.hmget(live_key(base), "namespace", "partitions")
    live, count = found
    if live is None or count is None:
        raise _nothing_live()
    name = live.decode()
    if not is_ours(base, name):
        raise _other_layout(name)
    return Live(client, name, int(count), generations)


async def get_packed(
    client: Client, base: str, generations: Generations, ids: Sequence[bytes]
) -> dict[bytes, bytes | NotServing]:
    """Packed pairs by id, none for those that are nowhere; `NotServing` for those that may be where nobody looks now."""
    if not isinstance(client, Redis):
        live = await locate(client, base, generations)
        own = dict.fromkeys(live.everywhere, (b"".join(ids), b""))
        answers = await live.ask("find", live.everywhere, (DOC_SHIFT,), own)
        return {parts[at]: parts[at + 1] for parts in answers.values() for at in range(0, len(parts), 2)}
    ((name, *found),) = await ask_all(client, "get", [(live_key(base), (b"".join(ids), DOC_SHIFT, namespaces(base)))])
    if not name:
        raise _nothing_live()
    if not found:
        raise _other_layout(name.decode())
    number, state, *packed = found
    known: dict[bytes, bytes | NotServing] = {identity: each for identity, each in zip(ids, packed, strict=True) if each}
    if number >= 0:
        absent = _not_serving(number, _state(state.decode()))
        known.update((identity, absent) for identity in ids if identity not in known)
    return known


def _nothing_live() -> NotServing:
    return NotServing("no namespace is live in Redis yet: start a worker, or wait for it")


def _other_layout(name: str) -> OtherLayout:
    return OtherLayout(f"namespace {name} has another layout: run this command in the version of the workers")


def _told(number: int, answer: list[Any]) -> list[Any]:
    state, *told = answer
    _serving(number, _state(state.decode()))
    return told


def _serving(number: int, state: str) -> None:
    if state != "live":
        raise _not_serving(number, state)


def _not_serving(number: int, state: str) -> NotServing:
    return NotServing(f"partition {number} is {state}: ask again in a second")


def _state(written: str) -> str:
    return "being repaired" if written == "repairing" else written or "not filled yet"


def _partition(number: int, mark: dict[bytes, bytes]) -> Partition:
    told = {name.decode(): content.decode() for name, content in mark.items()}
    return Partition(number, _state(told.get("state", "")), told)


def freshness_of(partitions: Iterable[Partition]) -> Freshness:
    known = list(partitions)
    lags = [partition.lag for partition in known]
    newest = max((partition.mark.get("events.time", "") for partition in known), default="")
    return Freshness(newest or None, None if None in lags else sum(lag or 0 for lag in lags))
