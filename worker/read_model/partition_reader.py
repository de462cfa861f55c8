"""Reads the partitions of the live namespace. An answer is complete, or an error is raised (see `errors`)."""

from asyncio import Semaphore
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from schemas.attendance import Attendance, guid_bytes
from schemas.query.request import Filter
from worker.read_model.documents import unpack
from worker.read_model.errors import NotServing, Switched, TooMuchWork
from worker.read_model.freshness import Freshness, Partition, freshness_of
from worker.read_model.keys import DOC_SHIFT, LIVE_NAMESPACE, PartitionKeys, booking_bucket, live_key
from worker.read_model.lua_scripts import FIND
from worker.read_model.watermark import describe_state, parse_watermark, watermark_command
from worker.redis.client import Client, Server
from worker.redis.scripts import Script, ask_all, raise_first_error
from worker.topics import FIRST_TABLES, partition_of

_ATTEMPTS = 3
#: Partitions that one script call reads; fewer if the query names sessions, because each session has its own index.
_PARTITIONS_PER_CALL = 8
_FEW_SESSIONS = 4
#: Cost, in units of 1 to 3 µs, after which a script call starts no other partition (another call reads the rest), or stops
#: reading the bookings of one.
MOST_UNITS = 700
#: The same for a call that returns documents, which are larger.
DOCUMENT_UNITS = 400
#: Script calls in one round trip, and concurrent round trips of a reader.
CALLS_PER_ROUND_TRIP, MAX_ROUND_TRIPS = 8, 4
#: Ids that one call looks up in a partition, and lookups (ids times partitions) of one call.
_MAX_IDS, _MAX_LOOKUPS = 256, 1024
#: Ids that are looked up in one round trip: a single call does it for 16 partitions.
IDS_PER_ROUND_TRIP = 64
#: Maximum number of attendances of the bookings in a filter.
MOST_OF_BOOKINGS = 20_000

_T = TypeVar("_T")


KeyGenerations = dict[str, str]
"""Watermark key to the key generation that was live when the watermark was last read."""


class NamespaceView:
    """The namespace that was live when a query started.

    Args:
        base: ``ATTENDANCE_NAMESPACE``.
        cursor_key: signs the cursors of pages; None if there is none and this Redis user may not create it.
        key_generations: cache, shared by the queries of a reader.
        round_trips: limits the concurrent round trips of a reader's scans, so that they do not delay its other reads.
    """

    def __init__(
        self,
        client: Client,
        base: str,
        namespace: str,
        partitions: int,
        cursor_key: bytes | None,
        key_generations: KeyGenerations,
        round_trips: Semaphore,
        tables: str = FIRST_TABLES,
        topic_prefix: str = "",
    ) -> None:
        self.partitions = partitions
        self.tables = tables
        """From which the namespace is filled."""
        self.topic_prefix = topic_prefix
        """Of the topics of these tables; empty: not recorded."""
        self._cursor_key = cursor_key
        self.namespace = namespace
        self._client = client
        self._keys = [PartitionKeys(namespace, number) for number in range(partitions)]
        self._watermarks = [keys.watermark for keys in self._keys]
        self._key_generations = key_generations
        self._round_trips = round_trips
        # a single server checks with each answer that the namespace is still live. In a cluster this key may be on another
        # master, so `NamespaceResolver` checks it after the query
        self._live_key = [live_key(base)] if isinstance(client, Server) else []

    @property
    def checks_namespace(self) -> bool:
        """Whether each answer proves that the namespace was live at that time."""
        return bool(self._live_key)

    @property
    def cursor_key(self) -> bytes:
        """The key that signs the cursors of pages.

        Raises:
            NotServing: there is no key yet.
        """
        if self._cursor_key is None:
            raise NotServing("the live namespace has no cursorKey yet, and this user may only read: start a worker")
        return self._cursor_key

    @property
    def all_partitions(self) -> range:
        return range(self.partitions)

    def of(self, booking_id: str) -> int:
        """The partition of a booking."""
        return partition_of(booking_id, self.partitions)

    async def watermark_fields(self, number: int, *fields: str) -> list[str | None]:
        """Fields of a partition's watermark, in any state of the partition."""
        (values,) = await self._read_all([("HMGET", self._watermarks[number], *fields)])
        return [None if value is None else value.decode() for value in values]

    async def watermarks(self) -> list[Partition]:
        """The watermark of each partition, in any state of the partition."""
        replies = await self._read_all(list(map(watermark_command, self._watermarks)))
        return [parse_watermark(number, reply) for number, reply in enumerate(replies)]

    async def watermark(self, number: int) -> Partition:
        """The watermark of one partition, in any state of the partition."""
        (reply,) = await self._read_all([watermark_command(self._watermarks[number])])
        return parse_watermark(number, reply)

    async def read(
        self, numbers: Sequence[int], commands: Sequence[Sequence[tuple[Any, ...]]]
    ) -> tuple[list[list[Any]], Freshness]:
        """Runs commands on partitions in one round trip. Each watermark is read last and proves that the keys were live.

        Args:
            numbers: the partitions.
            commands: for each partition, with keys that lack the prefix of the key generation.
        """
        for _ in range(_ATTEMPTS):
            # a copy: other queries may update the cache before this one has its answer
            used = [self._key_generations.get(self._watermarks[number], "") for number in numbers]
            pipeline: list[tuple[Any, ...]] = []
            for number, partition_commands, generation in zip(numbers, commands, used, strict=True):
                prefix = self._keys[number].prefix(generation)
                pipeline += ((name, prefix + key, *arguments) for name, key, *arguments in partition_commands)
                pipeline.append(watermark_command(self._watermarks[number]))
            replies = iter(await self._read_all(pipeline))
            answers, watermarks = [], []
            for number, partition_commands in zip(numbers, commands, strict=True):
                answers.append([next(replies) for _ in partition_commands])
                watermarks.append(parse_watermark(number, next(replies)))
            if list(map(self._live_generation, watermarks)) == used:
                return answers, freshness_of(watermarks)
        raise Switched

    async def _read_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to the commands, in one round trip. On a single server it checks that the namespace is live."""
        answers = raise_first_error(
            await self._client.ask([*commands, *(("HMGET", key, LIVE_NAMESPACE, "namespace") for key in self._live_key)])
        )
        for _ in self._live_key:
            own, plain = answers.pop()
            if (plain if own is None else own) != self.namespace.encode():
                raise Switched
        return answers

    async def ask(
        self,
        script: Script,
        numbers: Iterable[int],
        arguments: Sequence[Any],
        extra: Mapping[int, Sequence[Any]] | None = None,
        weight: int = 0,
    ) -> dict[int, list[Any]]:
        """The answer of a script for each partition; the script finds the live keys itself.

        Args:
            numbers: the partitions.
            arguments: the same for all partitions.
            extra: further arguments of each partition, appended to the others.
            weight: cost of the lookups in a partition, see `worker.read_model.query.index_scan.weight`.
        """
        group_size = _PARTITIONS_PER_CALL if not weight else 4 if weight <= _FEW_SESSIONS else 1
        answers = await self._ask(script, list(numbers), arguments, extra, group_size)
        return {number: _live_answer(number, answer) for number, answer in answers.items()}

    async def _ask(
        self,
        script: Script,
        numbers: Sequence[int],
        arguments: Sequence[Any],
        extra: Mapping[int, Sequence[Any]] | None,
        group_size: int,
    ) -> dict[int, list[Any]]:
        # in a cluster each partition has its own slot, so a call can read only one
        size = group_size if self._live_key else 1
        answers: dict[int, list[Any]] = {}
        waiting = list(numbers)
        while waiting:
            groups = list(_batches(waiting, size))
            waiting = []
            # small batches: the server runs a whole pipeline before it serves other clients
            for batch in _batches(groups, CALLS_PER_ROUND_TRIP if group_size > 1 else CALLS_PER_ROUND_TRIP // 2):
                for group, replies in zip(batch, await self._run(script, batch, arguments, extra), strict=True):
                    for number, answer in zip(group, replies, strict=True):
                        if answer[0] == b"later":
                            waiting.append(number)
                        else:
                            answers[number] = answer
        return answers

    async def _run(
        self,
        script: Script,
        groups: Sequence[Sequence[int]],
        arguments: Sequence[Any],
        extra: Mapping[int, Sequence[Any]] | None,
    ) -> list[Any]:
        """The answers of the script for each group of partitions, in one round trip."""
        last = DOCUMENT_UNITS if script is FIND else MOST_UNITS, self.namespace if self._live_key else ""
        calls = [
            (
                [*(self._watermarks[number] for number in group), *self._live_key],
                (*arguments, *(part for number in group for part in extra[number]), *last) if extra else (*arguments, *last),
            )
            for group in groups
        ]
        # a lookup by id must not wait for index scans
        async with self._round_trips if extra or script is not FIND else nullcontext():
            answers = await ask_all(self._client, script, calls)
        if not all(answers):
            raise Switched
        return answers

    async def find_pairs(self, ids: Sequence[bytes]) -> tuple[dict[bytes, bytes], NotServing | None]:
        """Packed pairs by id, from any partition. The error is that of a partition which could not be read, if any."""
        pairs: dict[bytes, bytes] = {}
        unread = None
        for batch in _batches(ids, _MAX_IDS):
            group_size = max(1, _MAX_LOOKUPS // len(batch))
            arguments = DOC_SHIFT, DOCUMENT_UNITS, b"".join(batch)
            for number, (state, *parts) in (await self._ask(FIND, self.all_partitions, arguments, None, group_size)).items():
                pairs.update(zip(parts[1::2], parts[2::2], strict=True))
                if state != b"live":
                    unread = _not_serving(number, describe_state(state.decode()))
        return pairs, unread

    async def documents(self, ids: Mapping[bytes, int]) -> dict[bytes, Attendance]:
        """Attendances by id, given the partition of each."""
        by_partition: dict[int, list[bytes]] = {}
        for identity, number in ids.items():
            by_partition.setdefault(number, []).append(identity)
        arguments = {number: (b"".join(batch), b"", b"") for number, batch in by_partition.items()}
        answers = await self.ask(FIND, arguments, (DOC_SHIFT, DOCUMENT_UNITS), arguments)
        return _attendances(parts[1:] for parts in answers.values())

    async def fetch_by_keys(self, filter_: Filter) -> list[Attendance]:
        """The attendances of the bookings that a filter names, otherwise of its ids; not filtered by other conditions.

        Raises:
            QueryError: the bookings have more than `MOST_OF_BOOKINGS` attendances.
        """
        if filter_.bookings.allowed is None:
            pairs, unread = await self.find_pairs(list(map(guid_bytes, filter_.ids.allowed or ())))
            if unread is not None:
                raise unread
            return list(_attendances([[part for pair in pairs.items() for part in pair]]).values())
        bookings: dict[int, list[bytes]] = {}
        for booking_id in filter_.bookings.allowed:
            bookings.setdefault(self.of(booking_id), []).append(
                b"%d %b\0" % (booking_bucket(name := booking_id.encode()), name)
            )
        pending = {number: (b"", b"".join(names), b"") for number, names in bookings.items()}
        attendances: dict[bytes, Attendance] = {}
        while pending:
            for number, (place, *parts) in (await self.ask(FIND, pending, (DOC_SHIFT, DOCUMENT_UNITS), pending)).items():
                attendances.update(_attendances([parts]))
                ids, names, _ = pending.pop(number)
                if place:
                    pending[number] = ids, names, place
            if len(attendances) > MOST_OF_BOOKINGS:
                raise TooMuchWork(
                    f"the bookings that the filter names have more than {MOST_OF_BOOKINGS} attendances: filter by fewer"
                )
        return list(attendances.values())

    def _live_generation(self, partition: Partition) -> str:
        """The live key generation of a partition; stores it in the cache."""
        _require_live(partition.number, partition.state)
        live = self._key_generations[self._watermarks[partition.number]] = partition.mark["keys"]
        return live


def _attendances(answers: Iterable[Sequence[bytes]]) -> dict[bytes, Attendance]:
    """Attendances by id, from lists in which ids and packed pairs alternate."""
    attendances = {}
    for parts in answers:
        for identity, packed in zip(parts[::2], parts[1::2], strict=True):
            attendance = unpack(identity, packed)
            if attendance is not None:
                attendances[identity] = attendance
    return attendances


def _live_answer(number: int, answer: list[Any]) -> list[Any]:
    state, *parts = answer
    _require_live(number, describe_state(state.decode()))
    return parts


def _require_live(number: int, state: str) -> None:
    if state != "live":
        raise _not_serving(number, state)


def _not_serving(number: int, state: str) -> NotServing:
    return NotServing(f"partition {number} is {state}: retry in a second")


def _batches(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
