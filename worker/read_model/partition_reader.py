"""The live read models: questions to the partitions of a namespace, each answered whole or not at all.

Errors, and whether a retry helps::

    ReaderError
    ├── NotServing      no namespace is live, or a partition is being repaired: again in a second
    └── OtherLayout     Redis was written by another version of this software: upgrade the reader
    redis.RedisError    Redis is away
"""

from asyncio import Semaphore
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from schemas.attendance import Attendance, guid_bytes
from schemas.query.request import Filter, QueryError, Violation
from schemas.query.violations import Rule
from worker.read_model.documents import unpack
from worker.read_model.freshness import Freshness, Partition, freshness_of
from worker.read_model.keys import DOC_SHIFT, PartitionKeys, live_key
from worker.redis.client import Client, Server
from worker.redis.scripts import ask_all, sound
from worker.topics import partition_of

_ATTEMPTS = 3
#: Partitions that one script call looks at; fewer where they look at sessions one by one, and those may be large.
_TOGETHER = 4
_FEW_SESSIONS = 4
#: Units, of one to three microseconds, after which a call begins with no other partition (what is left is asked for again), or
#: ends with the bookings of one.
MOST_UNITS = 700
#: Of one that hands on documents, which are larger.
DOCUMENT_UNITS = 400
#: Script calls in one round trip, and round trips of a reader that are under way.
CALLS_AT_ONCE, TURNS = 8, 4
#: Ids that one call looks up in a partition, and lookups of a call.
_MOST_IDS, _LOOKUPS = 256, 1024
#: Gets in one round trip: one call looks them up in all of 16 partitions.
FEW_IDS = 64
#: Attendances of the bookings in a filter that one question reads.
MOST_OF_BOOKINGS = 20_000
_SCRIPTS = {
    "scan": "live+entries+scan",
    "numbers": "live+entries+numbers",
    "count": "live+entries+count",
    "find": "live+find",
    "ranked": "live+entries+ranked",
}

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


class Switched(NotServing):
    """Another namespace is live now, or other keys of a partition."""

    def __init__(self) -> None:
        super().__init__("the read models are being switched: ask again")


Generations = dict[str, str]
"""By watermark key, the key generation that was live when it was last read."""


class Live:
    """The live namespace as one question finds it.

    Args:
        base: ``ATTENDANCE_NAMESPACE``.
        cursor_key: signs the cursors of its pages; None where there is none and this user may not make one.
        generations: shared by the questions of a reader.
        turns: of the script calls of a reader, so that its other questions are not behind all of them.
    """

    def __init__(
        self,
        client: Client,
        base: str,
        namespace: str,
        partitions: int,
        cursor_key: bytes | None,
        generations: Generations,
        turns: Semaphore,
    ) -> None:
        self.partitions = partitions
        self._cursor_key = cursor_key
        self.namespace = namespace
        self._client = client
        self._keys = [PartitionKeys(namespace, number) for number in range(partitions)]
        self._watermarks = [keys.watermark for keys in self._keys]
        self._generations = generations
        self._turns = turns
        # one server says with each answer whether the namespace is still the live one; in a cluster another may have to,
        # which is asked when the whole answer is there
        self._proof = [live_key(base)] if isinstance(client, Server) else []

    @property
    def proves_itself(self) -> bool:
        """Whether each answer says that the namespace was the live one then."""
        return bool(self._proof)

    @property
    def cursor_key(self) -> bytes:
        """Signs the cursors of pages.

        Raises:
            NotServing: there is none yet.
        """
        if self._cursor_key is None:
            raise NotServing("the live namespace has no cursorKey yet, and this user may only read: start a worker")
        return self._cursor_key

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
        return [partition_of_mark(number, mark) for number, mark in enumerate(found)]

    async def read(
        self, where: Sequence[int], commands: Sequence[Sequence[tuple[Any, ...]]]
    ) -> tuple[list[list[Any]], Freshness]:
        """Each partition's commands in one round trip, with its watermark read last: it proves that the keys were live.

        Args:
            commands: of each partition, in Redis' words, their keys without what the partition's begin with.
        """
        for _ in range(_ATTEMPTS):
            # other questions learn of new keys while this one waits: what counts is what its own commands were built with
            used = [self._generations.get(self._watermarks[number], "") for number in where]
            asked: list[tuple[Any, ...]] = []
            for number, some, generation in zip(where, commands, used, strict=True):
                prefix = self._keys[number].prefix(generation)
                asked += ((name, prefix + key, *arguments) for name, key, *arguments in some)
                asked.append(_watermark(self._watermarks[number]))
            answers = iter(await self._all(asked))
            found, marks = [], []
            for number, some in zip(where, commands, strict=True):
                found.append([next(answers) for _ in some])
                marks.append(partition_of_mark(number, next(answers)))
            if list(map(self._live_keys, marks)) == used:
                return found, freshness_of(marks)
        raise Switched

    async def _all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What all commands answer, in one round trip; the namespace is live then."""
        answers = sound(await self._client.ask([*commands, *(("HGET", key, "namespace") for key in self._proof)]))
        for _ in self._proof:
            if answers.pop() != self.namespace.encode():
                raise Switched
        return answers

    async def ask(
        self,
        script: str,
        where: Iterable[int],
        arguments: Sequence[Any],
        own: Mapping[int, Sequence[Any]] | None = None,
        weight: int = 0,
    ) -> dict[int, list[Any]]:
        """What a script, which finds the live keys itself, answers for each partition.

        Args:
            arguments: the same for all.
            own: behind those, each partition's own.
            weight: of what each partition looks up, see `worker.read_model.query.index_scan.weight`.
        """
        together = _TOGETHER if not weight else 2 if weight <= _FEW_SESSIONS else 1
        answers = await self._ask(script, list(where), arguments, own, together)
        return {number: _told(number, answer) for number, answer in answers.items()}

    async def _ask(
        self,
        script: str,
        numbers: Sequence[int],
        arguments: Sequence[Any],
        own: Mapping[int, Sequence[Any]] | None,
        together: int,
    ) -> dict[int, list[Any]]:
        # one server answers for several at a time, so that no call is long; in a cluster each has a slot of its own
        size = together if self._proof else 1
        answers: dict[int, list[Any]] = {}
        waiting = list(numbers)
        while waiting:
            groups = list(_cut(waiting, size))
            waiting = []
            # a server ends what has come at once before it hears anybody else
            for some in _cut(groups, CALLS_AT_ONCE if together > 1 else CALLS_AT_ONCE // 2):
                for group, said in zip(some, await self._called(script, some, arguments, own), strict=True):
                    for number, answer in zip(group, said, strict=True):
                        if answer[0] == b"later":
                            waiting.append(number)
                        else:
                            answers[number] = answer
        return answers

    async def _called(
        self, script: str, groups: Sequence[Sequence[int]], arguments: Sequence[Any], own: Mapping[int, Sequence[Any]] | None
    ) -> list[Any]:
        """One round trip: what the script answers for each group of partitions."""
        last = DOCUMENT_UNITS if script == "find" else MOST_UNITS, self.namespace if self._proof else ""
        calls = [
            (
                [*(self._watermarks[number] for number in group), *self._proof],
                (*arguments, *(part for number in group for part in own[number]), *last) if own else (*arguments, *last),
            )
            for group in groups
        ]
        # who gets an attendance by its id is not to wait behind those who look through indexes
        async with self._turns if own or script != "find" else nullcontext():
            answers = await ask_all(self._client, _SCRIPTS[script], calls)
        if not all(answers):
            raise Switched
        return answers

    async def packed(self, ids: Sequence[bytes]) -> tuple[dict[bytes, bytes], NotServing | None]:
        """Packed pairs by id, wherever they are, and why those that are missing may yet be somewhere."""
        known: dict[bytes, bytes] = {}
        missed = None
        for some in _cut(ids, _MOST_IDS):
            together = max(1, _LOOKUPS // len(some))
            asked = DOC_SHIFT, DOCUMENT_UNITS, b"".join(some)
            for number, (state, *parts) in (await self._ask("find", self.everywhere, asked, None, together)).items():
                known.update(zip(parts[1::2], parts[2::2], strict=True))
                if state != b"live":
                    missed = _not_serving(number, _state(state.decode()))
        return known, missed

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each."""
        wanted: dict[int, list[bytes]] = {}
        for identity, number in ids.items():
            wanted.setdefault(number, []).append(identity)
        own = {number: (b"".join(some), b"", b"") for number, some in wanted.items()}
        found = await self.ask("find", own, (DOC_SHIFT, DOCUMENT_UNITS), own)
        return _attendances(parts[1:] for parts in found.values())

    async def direct(self, wanted: Filter) -> list[Attendance]:
        """Every attendance of the bookings, or else of the ids, that a filter allows; others may be among them.

        Raises:
            QueryError: the bookings have more than one question may read.
        """
        if wanted.bookings.allowed is None:
            known, missed = await self.packed(list(map(guid_bytes, wanted.ids.allowed or ())))
            if missed is not None:
                raise missed
            return list(_attendances([[part for pair in known.items() for part in pair]]).values())
        bookings: dict[int, list[bytes]] = {}
        for booking_id in wanted.bookings.allowed:
            bookings.setdefault(self.of(booking_id), []).append(booking_id.encode() + b"\0")
        own = {number: (b"", b"".join(some), b"") for number, some in bookings.items()}
        found: dict[bytes, Attendance] = {}
        while own:
            for number, (place, *parts) in (await self.ask("find", own, (DOC_SHIFT, DOCUMENT_UNITS), own)).items():
                found.update(_attendances([parts]))
                ids, names, _ = own.pop(number)
                if place:
                    own[number] = ids, names, place
            if len(found) > MOST_OF_BOOKINGS:
                raise too_much(f"the bookings that the filter names have more than {MOST_OF_BOOKINGS} attendances: name fewer")
        return list(found.values())

    def _live_keys(self, partition: Partition) -> str:
        """The key generation that is live now, remembered for the next question."""
        _serving(partition.number, partition.state)
        live = self._generations[self._watermarks[partition.number]] = partition.mark["keys"]
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


def too_much(why: str) -> QueryError:
    """The error of a question whose work has no end that others could wait for."""
    return QueryError([Violation("filter", why, Rule.TOO_LARGE.value)])


def _cut(some: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    return (some[start : start + size] for start in range(0, len(some), size))


def fields_of(answer: Any) -> dict[bytes, bytes]:
    """What HGETALL answers, in either protocol."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _watermark(key: str) -> tuple[Any, ...]:
    return "EVAL_RO", _WATERMARK, 1, key


def partition_of_mark(number: int, mark: Any) -> Partition:
    """What a watermark, as `_WATERMARK` and `ranked.lua` answer it, says of its partition."""
    told = {name.decode(): content.decode() for name, content in fields_of(mark).items()}
    return Partition(number, _state(told.get("state", "")), told, int(told.pop("now")))
