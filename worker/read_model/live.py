"""The live read models: which namespace they are in, and questions to its partitions, each answered whole or not at all.

Errors, and whether a retry helps::

    ReaderError
    ├── NotServing      no namespace is live, or a partition is being repaired: again in a second
    └── OtherLayout     Redis was written by another version of this software: upgrade the reader
    redis.RedisError    Redis is away
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from schemas.attendance import Attendance, guid_bytes
from schemas.query import Filter
from worker.read_model.client import Client, Server
from worker.read_model.documents import unpack
from worker.read_model.freshness import Freshness, Partition, freshness_of
from worker.read_model.keys import DOC_SHIFT, PartitionKeys, is_ours, live_key
from worker.read_model.scripts import ask_all, sound
from worker.topics import partition_of

_ATTEMPTS = 3
#: Partitions that one script call looks at; fewer where they look at sessions one by one, and those may be large.
_TOGETHER = 4
_FEW_SESSIONS = 4
#: So few ids are looked up in all partitions by one call: it holds the server for a millisecond or two.
FEW_IDS = 64

#: A watermark, and behind its fields the time of the server, ms.
_WATERMARK = """local mark, time = redis.call('HGETALL', KEYS[1]), redis.call('TIME')
mark[#mark + 1] = 'now'
mark[#mark + 1] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return mark"""

_T = TypeVar("_T")


class ReaderError(Exception):
    """The question cannot be answered now."""


class NotServing(ReaderError):
    """What is there is not the whole: no namespace is live, or a partition is being repaired."""


class OtherLayout(ReaderError):
    """The live namespace has a layout that this version does not know."""


class _Switched(NotServing):
    """Another namespace is live now, or other keys of a partition."""

    def __init__(self) -> None:
        super().__init__("the read models are being switched: ask again")


Generations = dict[str, str]
"""By watermark key, the key generation that was live when it was last read."""


class Live:
    """The live namespace as one question finds it.

    Args:
        base: ``ATTENDANCE_NAMESPACE``.
        generations: shared by the questions of a reader.
    """

    def __init__(self, client: Client, base: str, namespace: str, partitions: int, generations: Generations) -> None:
        self.partitions = partitions
        self._client = client
        self._namespace = namespace
        self._keys = [PartitionKeys(namespace, number) for number in range(partitions)]
        self._watermarks = [keys.watermark for keys in self._keys]
        self._generations = generations
        # one server says with each answer whether the namespace is still the live one; in a cluster another may have to
        self._proof = [live_key(base)] if isinstance(client, Server) else []

    @property
    def everywhere(self) -> range:
        return range(self.partitions)

    def of(self, booking_id: str) -> int:
        """The partition of a booking."""
        return partition_of(booking_id, self.partitions)

    async def mark(self, number: int, *fields: str) -> list[str | None]:
        """Fields of a partition's watermark, whatever its state."""
        (found,) = await self._all([("HMGET", self._watermarks[number], *fields)])
        return [None if field is None else field.decode() for field in found]

    async def marks(self) -> list[Partition]:
        """Each partition's watermark, whatever its state."""
        found = await self._all(list(map(_watermark, self._watermarks)))
        return [_partition(number, mark) for number, mark in enumerate(found)]

    async def read(
        self, where: Sequence[int], commands: Sequence[Sequence[tuple[Any, ...]]]
    ) -> tuple[list[list[Any]], Freshness]:
        """Each partition's commands in one round trip, with its watermark read last: it proves that the keys were live.

        Args:
            commands: of each partition, in Redis' words, their keys without what the partition's begin with.
        """
        for _ in range(_ATTEMPTS):
            asked: list[tuple[Any, ...]] = []
            for number, some in zip(where, commands, strict=True):
                watermark = self._watermarks[number]
                prefix = self._keys[number].prefix(self._generations.get(watermark, ""))
                asked += ((name, prefix + key, *arguments) for name, key, *arguments in some)
                asked.append(_watermark(watermark))
            answers = iter(await self._all(asked))
            found, marks = [], []
            for number, some in zip(where, commands, strict=True):
                found.append([next(answers) for _ in some])
                marks.append(_partition(number, next(answers)))
            current = [self._is_current(mark) for mark in marks]
            if all(current):
                return found, freshness_of(marks)
        raise _Switched

    async def _all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What all commands answer, in one round trip; the namespace is live then."""
        answers = sound(await self._client.ask([*commands, *(("HGET", key, "namespace") for key in self._proof)]))
        for _ in self._proof:
            if answers.pop() != self._namespace.encode():
                raise _Switched
        return answers

    async def ask(
        self,
        script: str,
        where: Iterable[int],
        arguments: Sequence[Any],
        own: Mapping[int, Sequence[Any]] | None = None,
        sessions: int = 0,
    ) -> dict[int, list[Any]]:
        """What a script, which finds the live keys itself, answers for each partition.

        Args:
            arguments: the same for all.
            own: behind those, each partition's own.
            sessions: how many each partition looks at one by one.
        """
        together = _TOGETHER if not sessions else 2 if sessions <= _FEW_SESSIONS else 1
        answers = await self._ask(script, list(where), arguments, own, together)
        return {number: _told(number, answer) for number, answer in answers}

    async def _ask(
        self,
        script: str,
        numbers: Sequence[int],
        arguments: Sequence[Any],
        own: Mapping[int, Sequence[Any]] | None,
        together: int,
    ) -> list[tuple[int, list[Any]]]:
        # one server answers for several at a time, so that no call is long; in a cluster each has a slot of its own
        size = together if self._proof else 1
        groups = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        expected = self._namespace if self._proof else ""
        calls = [
            (
                [*(self._watermarks[number] for number in group), *self._proof],
                (*arguments, *(part for number in group for part in own[number]), expected) if own else (*arguments, expected),
            )
            for group in groups
        ]
        answers = await ask_all(self._client, f"live+{script}", calls)
        if not all(answers):
            raise _Switched
        return list(zip(numbers, (answer for some in answers for answer in some), strict=True))

    async def packed(self, ids: Sequence[bytes]) -> tuple[dict[bytes, bytes], NotServing | None]:
        """Packed pairs by id, wherever they are, and why those that are missing may yet be somewhere."""
        known: dict[bytes, bytes] = {}
        missed = None
        together = self.partitions if len(ids) <= FEW_IDS else _TOGETHER
        for number, (state, *parts) in await self._ask("find", self.everywhere, (DOC_SHIFT, b"".join(ids)), None, together):
            known.update(zip(parts[::2], parts[1::2], strict=True))
            if state != b"live":
                missed = _not_serving(number, _state(state.decode()))
        return known, missed

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each."""
        wanted: dict[int, list[bytes]] = {}
        for identity, number in ids.items():
            wanted.setdefault(number, []).append(identity)
        own = {number: (b"".join(some), b"") for number, some in wanted.items()}
        return _attendances((await self.ask("find", own, (DOC_SHIFT,), own)).values())

    async def direct(self, wanted: Filter) -> list[Attendance]:
        """Every attendance of the bookings, or else of the ids, that a filter allows; others may be among them."""
        if wanted.bookings.allowed is None:
            known, missed = await self.packed(list(map(guid_bytes, wanted.ids.allowed or ())))
            if missed is not None:
                raise missed
            return list(_attendances([[part for pair in known.items() for part in pair]]).values())
        bookings: dict[int, list[bytes]] = {}
        for booking_id in wanted.bookings.allowed:
            bookings.setdefault(self.of(booking_id), []).append(booking_id.encode() + b"\0")
        own = {number: (b"", b"".join(some)) for number, some in bookings.items()}
        return list(_attendances((await self.ask("find", own, (DOC_SHIFT,), own)).values()).values())

    def _is_current(self, partition: Partition) -> bool:
        """Whether the keys just read were the live ones; remembers those that are."""
        _serving(partition.number, partition.state)
        key, live = self._watermarks[partition.number], partition.mark["keys"]
        known, self._generations[key] = self._generations.get(key), live
        return known == live


class Finder:
    """Knows which namespace is live.

    Args:
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._base = base
        self._generations: Generations = {}
        self._known: Live | None = None

    async def answer(self, question: Callable[[Live], Awaitable[_T]]) -> _T:
        """What a question finds in one namespace; asked again where another has become the live one meanwhile."""
        for _ in range(_ATTEMPTS):
            live = self._known or await self._locate()
            try:
                return await question(live)
            except _Switched:
                self._known = None
        raise _Switched

    async def _locate(self) -> Live:
        """The live namespace of this moment."""
        (found,) = sound(await self._client.ask([("HMGET", live_key(self._base), "namespace", "partitions")]))
        name, count = found
        if name is None or count is None:
            raise NotServing("no namespace is live in Redis yet: start a worker, or wait for it")
        namespace = name.decode()
        if not is_ours(self._base, namespace):
            raise OtherLayout(f"namespace {namespace} has another layout: run this command in the version of the workers")
        live = Live(self._client, self._base, namespace, int(count), self._generations)
        if isinstance(self._client, Server):
            self._known = live
        return live


def _attendances(found: Iterable[Sequence[bytes]]) -> dict[bytes, Attendance]:
    """By id, of lists of ids and packed pairs in turn."""
    known = {}
    for parts in found:
        for identity, packed in zip(parts[::2], parts[1::2], strict=True):
            attendance = unpack(identity, packed)
            if attendance is not None:
                known[identity] = attendance
    return known


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


def fields_of(answer: Any) -> dict[bytes, bytes]:
    """What HGETALL answers, in either protocol."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _watermark(key: str) -> tuple[Any, ...]:
    return "EVAL_RO", _WATERMARK, 1, key


def _partition(number: int, mark: Any) -> Partition:
    told = {name.decode(): content.decode() for name, content in fields_of(mark).items()}
    return Partition(number, _state(told.get("state", "")), told, int(told.pop("now")))
