"""The one writer of a partition's read models: fenced by generation, epoch and sequence (design, "Redis is fenced").

Errors, and whether a retry helps::

    ReadModelError
    ├── Fenced         another worker owns the partition now: stop writing, wait for Kafka to say so
    └── NeedsRepair    the data in Redis is not what this writer left there: repair from the table
    redis.RedisError   Redis is away or refuses: the same call again, a repeat changes nothing
"""

from collections import deque
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple

import orjson
from redis.asyncio import Redis

from worker.read_model.client import patience
from worker.read_model.documents import PairDocument, pack
from worker.read_model.keys import BOOKING_BUCKETS, DOC_SHIFT, PartitionKeys, booking_bucket, live_key
from worker.read_model.scripts import run

#: Pairs, summaries and alerts in one script call; about 100 keep the server's longest block near 5 ms.
CHUNK = 100
_RETIRE_AT_ONCE = 200
_PAIR = Struct(">16sI")
_SUMMARY = Struct(">HH")
_LENGTH = Struct(">I")
_PAIRS, _SUMMARIES, _ALERTS = range(3)


class ReadModelError(Exception):
    """Writing to Redis was refused."""


class Fenced(ReadModelError):
    """Another worker has claimed the partition."""


class NeedsRepair(ReadModelError):
    """What Redis holds of the partition is not what was written."""


class AlertChange(NamedTuple):
    """An alert that is open now (``json``), or no longer (empty)."""

    alert_id: str
    kind: str
    booking_id: str
    session_id: str
    """Empty for an alert about the whole booking."""
    opened_ms: int
    json: str


class BookingUpdate(NamedTuple):
    """What changes for readers of one booking."""

    booking_id: str
    pairs: list[tuple[bytes, PairDocument | None]]
    """(id of 16 bytes, pair now; None: gone)."""
    summary: Mapping[str, Any] | None = None
    has_summary: bool = False
    """Whether ``summary`` is to be written; None then means: gone."""
    alerts: list[AlertChange] | tuple[()] = ()


class Claim(NamedTuple):
    """What a new owner finds. Offsets are the next to apply, -1 where nothing is known."""

    sound: bool
    events_offset: int
    bookings_offset: int


class PartitionWriter:
    """Writes one partition's read models in one namespace."""

    def __init__(self, client: Redis, namespace: str, partition: int, generation: str) -> None:
        self._client = client
        self._keys = PartitionKeys(namespace, partition)
        self._generation = generation
        self._epoch = b""
        self._key_generation = ""
        self._seq = 0

    async def claim(self) -> Claim:
        """Becomes the one writer; earlier ones are refused from here on."""
        epoch, state, keys, events, bookings = await self._run("claim", self._generation)
        self._epoch, self._key_generation, self._seq = epoch, keys.decode(), 0
        return Claim(state == b"live" and bool(keys), events, bookings)

    async def apply(self, write: "Write") -> None:
        """Writes what is left of a batch; after a `redis.RedisError`, called again, it goes on where it was."""
        while write.chunks:
            chunk = write.chunks[0]
            answer = await self._run(
                "apply",
                self._generation,
                self._epoch,
                self._seq + 1,
                self._key_generation,
                self._keys.prefix(self._key_generation),
                DOC_SHIFT,
                *chunk,
                *(_flat(write.marks) if len(write.chunks) == 1 else ()),
            )
            self._refuse(answer)
            self._seq += 1
            write.chunks.popleft()

    async def repair(self, updates: AsyncIterable[list[BookingUpdate]], marks: Mapping[str, Any]) -> None:
        """Fills a new key generation with the whole partition, switches readers to it, unlinks what was before."""
        await self.claim()
        begun = await self._run("repair", "begin", self._generation, self._epoch)
        self._refuse(begun)
        self._key_generation, *retired = (name.decode() for name in begun)
        self._seq = 0
        await self._retire(retired)
        async for some in updates:
            await self.apply(Write(some, {}))
        switched = await self._run("repair", "switch", self._generation, self._epoch, *_flat(marks))
        self._refuse(switched)
        await self._retire(name.decode() for name in switched[1:])

    async def tidy(self) -> None:
        """Unlinks what an owner that died while repairing left behind."""
        async with patience():
            retired: Any = await self._client.hget(self._keys.watermark, "retired")
        await self._retire((retired or b"").decode().split())

    async def beat(self, marks: Mapping[str, Any]) -> None:
        """Says that the writer lives, with watermark fields that need no sequence."""
        self._refuse(await self._run("beat", self._generation, self._epoch, *_flat(marks)))

    async def _retire(self, key_generations: Iterable[str]) -> None:
        buckets = (65536 >> DOC_SHIFT, BOOKING_BUCKETS)
        for name in key_generations:
            while await self._run("retire", self._keys.prefix(name), _RETIRE_AT_ONCE, *buckets):
                pass
            self._refuse(await self._run("repair", "forget", self._generation, self._epoch, name))

    async def _run(self, script: str, *arguments: Any) -> Any:
        return await run(self._client, script, self._keys.watermark, *arguments)

    def _refuse(self, answer: Any) -> None:
        partition = self._keys.partition
        if answer == b"fenced":
            raise Fenced(f"partition {partition}: another worker writes its read models")
        if answer in (b"gone", b"gap"):
            raise NeedsRepair(f"partition {partition}: the read models in Redis are lost or incomplete")


async def announce(client: Redis, base: str, namespace: str, partitions: int) -> tuple[str, int]:
    """Makes a namespace the live one where none is; the live one and its number of partitions."""
    key = live_key(base)
    async with patience(), client.pipeline(transaction=True) as pipe:
        pipe.hsetnx(key, "namespace", namespace)
        pipe.hsetnx(key, "partitions", partitions)
        pipe.hmget(key, "namespace", "partitions")
        *_, (live, count) = await pipe.execute()
    return live.decode(), int(count)


class Write:
    """A batch's updates on their way: the chunks not yet applied, and the watermark that moves with the last one."""

    def __init__(self, updates: Iterable[BookingUpdate], marks: Mapping[str, Any]) -> None:
        entries = _entries(updates)
        self.chunks = deque(map(_chunk, iter(lambda: list(islice(entries, CHUNK)), [])))
        if not self.chunks and marks:
            self.chunks.append(_chunk([]))
        self.marks = marks


def _entries(updates: Iterable[BookingUpdate]) -> Iterator[tuple[int, Any]]:
    """(script argument it belongs to, content) of each pair, summary and alert."""
    for update in updates:
        for identity, document in update.pairs:
            packed = b"" if document is None else pack(document)
            yield _PAIRS, _PAIR.pack(identity, len(packed)) + packed
        if update.has_summary:
            name = update.booking_id.encode()
            json = b"" if update.summary is None else orjson.dumps(update.summary)
            head = _SUMMARY.pack(booking_bucket(update.booking_id), len(name))
            yield _SUMMARIES, b"".join((head, name, _LENGTH.pack(len(json)), json))
        for alert in update.alerts:
            yield _ALERTS, list(alert)


def _chunk(entries: list[tuple[int, Any]]) -> tuple[bytes, bytes, bytes]:
    alerts = [content for kind, content in entries if kind == _ALERTS]
    return (
        b"".join(content for kind, content in entries if kind == _PAIRS),
        b"".join(content for kind, content in entries if kind == _SUMMARIES),
        orjson.dumps(alerts) if alerts else b"",
    )


def _flat(marks: Mapping[str, Any]) -> list[Any]:
    return [part for pair in marks.items() for part in pair]
