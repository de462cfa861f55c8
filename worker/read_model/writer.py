"""The one writer of a partition's read models: fenced by generation, epoch and sequence (design, "Redis is fenced").

Errors, and whether a retry helps::

    ReadModelError
    ├── Fenced         another worker owns the partition now: stop writing, wait for Kafka to say so
    └── NeedsRepair    the data in Redis is not what this writer left there: repair from the table
    redis.RedisError   Redis is away or refuses: the same call again, a repeat changes nothing
"""

from collections import deque
from collections.abc import AsyncIterable, Iterable, Mapping
from secrets import token_bytes
from struct import Struct
from time import perf_counter, thread_time
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from schemas.query.signatures import KEY_BYTES
from worker.read_model.keys import BOOKING_BUCKETS, DOC_SHIFT, PartitionKeys, booking_bucket, live_key
from worker.redis.client import Client, patience
from worker.redis.scripts import CutShort, run, run_all

#: Pairs, summaries and alerts in one script call: where it begins, and what it adapts between; see `Pace`.
CHUNK, LEAST_CHUNK, MOST_CHUNK = 100, 25, 400
#: Script calls on their way at once.
AHEAD = 64
_SLOW_S, _QUICK_S = 0.005, 0.0025
_BUSY = 0.5
#: Sessions, alerts or buckets that one call unlinks: a millisecond or so of the server's time.
_RETIRE_AT_ONCE = 100
_LOOK, _SAME, _MOVED = range(3)
_PAIR = Struct(">B16sH").pack
_MOVED_PAIR = Struct(">B16sHB").pack
_SUMMARY = Struct(">HH").pack
_SUMMARY_TAIL = Struct(">dI").pack


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


class Claim(NamedTuple):
    """What a new owner finds. Offsets are the next to apply, -1 where nothing is known; times RFC 3339, empty likewise."""

    sound: bool
    events_offset: int
    bookings_offset: int
    events_time: str = ""
    bookings_time: str = ""


class PartitionWriter:
    """Writes one partition's read models in one namespace."""

    def __init__(self, client: Client, namespace: str, partition: int, generation: str) -> None:
        self._client = client
        self._keys = PartitionKeys(namespace, partition)
        self._generation = generation
        self._epoch = b""
        self._key_generation = ""
        self._seq = 0
        self._pace = Pace()

    async def claim(self) -> Claim:
        """Becomes the one writer; earlier ones are refused from here on."""
        epoch, state, keys, events, bookings, *times = await self._run("claim", self._generation)
        self._epoch, self._key_generation, self._seq = epoch, keys.decode(), 0
        return Claim(state == b"live" and bool(keys), events, bookings, *(time.decode() for time in times))

    async def apply(self, write: "Write") -> None:
        """Writes what is left of a batch; after a `redis.RedisError`, called again, it goes on where it was."""
        try:
            await self._apply(write)
        except CutShort as error:
            raise NeedsRepair(f"partition {self._keys.partition}: {error}") from None

    async def _apply(self, write: "Write") -> None:
        while chunks := write.next(self._pace.chunk):
            begun, worked = perf_counter(), thread_time()
            answers = await self._run_all("apply", [self._call(*each) for each in enumerate(chunks, 1)])
            self._pace.took(perf_counter() - begun, thread_time() - worked, len(chunks))
            for answer in answers:
                self._refuse(answer)
                self._seq += 1
                write.done()

    def _call(self, number: int, chunk: "Chunk") -> tuple[Any, ...]:
        generation, prefix = self._key_generation, self._keys.prefix(self._key_generation)
        head = (self._generation, self._epoch, self._seq + number, generation, prefix, DOC_SHIFT)
        return (*head, *chunk)

    async def repair(self, writes: AsyncIterable["Write"], marks: Mapping[str, Any]) -> None:
        """Fills a new key generation with the whole partition, switches readers to it, unlinks what was before."""
        await self.claim()
        begun = await self._run("repair", "begin", self._generation, self._epoch)
        self._refuse(begun)
        self._key_generation, *retired = (name.decode() for name in begun)
        self._seq = 0
        await self._retire(retired)
        async for write in writes:
            await self._apply(write)
        switched = await self._run("repair", "switch", self._generation, self._epoch, *_flat(marks))
        self._refuse(switched)
        await self._retire(name.decode() for name in switched[1:])

    async def tidy(self) -> None:
        """Unlinks what an owner that died while repairing left behind."""
        async with patience():
            retired: Any = await self._client.hget(self._keys.watermark, "retired")
        await self._retire((retired or b"").decode().split())

    async def beat(self, marks: Mapping[str, Any], end_ages_ms: Mapping[str, int] = MappingProxyType({})) -> None:
        """Says that the writer lives, with watermark fields that need no sequence.

        Args:
            end_ages_ms: how long ago Kafka confirmed the end of ``events`` and ``bookings``, where it has.
        """
        ages = (end_ages_ms.get(topic, "") for topic in ("events", "bookings"))
        self._refuse(await self._run("beat", self._generation, self._epoch, *ages, *_flat(marks)))

    async def _retire(self, key_generations: Iterable[str]) -> None:
        buckets = (65536 >> DOC_SHIFT, BOOKING_BUCKETS)
        for name in key_generations:
            left = 0
            while left >= 0:
                left = await self._run("retire", self._keys.prefix(name), _RETIRE_AT_ONCE, *buckets, left)
            self._refuse(await self._run("repair", "forget", self._generation, self._epoch, name))

    async def _run(self, script: str, *arguments: Any) -> Any:
        return await run(self._client, script, self._keys.watermark, *arguments)

    async def _run_all(self, script: str, calls: list[tuple[Any, ...]]) -> list[Any]:
        return await run_all(self._client, script, self._keys.watermark, calls)

    def _refuse(self, answer: Any) -> None:
        partition = self._keys.partition
        if answer == b"fenced":
            raise Fenced(f"partition {partition}: another worker writes its read models")
        if answer in (b"gone", b"gap"):
            raise NeedsRepair(f"partition {partition}: the read models in Redis are lost or incomplete")


async def announce(client: Client, base: str, namespace: str, partitions: int) -> tuple[str, int]:
    """Makes a namespace live where none is, and a key for cursors; the live one and its number of partitions."""
    key = live_key(base)
    async with patience(), client.pipeline(transaction=True) as pipe:
        pipe.hsetnx(key, "cursorKey", token_bytes(KEY_BYTES))
        pipe.hsetnx(key, "namespace", namespace)
        pipe.hsetnx(key, "partitions", partitions)
        pipe.hmget(key, "namespace", "partitions")
        *_, (live, count) = await pipe.execute()
    return live.decode(), int(count)


class Pace:
    """How many entries a script call may hold: so many that it blocks the server for a few milliseconds at most.

    A call is timed as its share of a round trip, which is longer than the server's own time: when everything is slow,
    calls are small. A round trip in which this thread was busy with other things tells nothing of the server.
    """

    def __init__(self) -> None:
        self.chunk = CHUNK

    def took(self, seconds: float, worked: float, calls: int) -> None:
        """Learns from a round trip with so many calls, in which this thread worked for some of the seconds."""
        if worked > seconds * _BUSY:
            return
        each = seconds / calls
        if each > _SLOW_S:
            self.chunk = max(min(LEAST_CHUNK, CHUNK), self.chunk // 2)
        elif each < _QUICK_S and calls > 1:
            self.chunk = min(max(MOST_CHUNK, CHUNK), self.chunk + self.chunk // 8)


Chunk = tuple[Any, ...]
"""Arguments of one script call: pairs, summaries, alerts, then the watermark's fields."""


class Write:
    """What a batch changes for readers, and what of it is not applied yet."""

    def __init__(self, marks: Mapping[str, Any] = MappingProxyType({}), follows: int = 0) -> None:
        """
        Args:
            marks: fields of the watermark, which move with the last chunk.
            follows: the fill of the read models that it changes, by its number.
        """
        self.pairs: list[bytes] = []
        self.summaries: list[bytes] = []
        self.alerts: list[AlertChange] = []
        self.marks = marks
        self.follows = follows
        self._is_marked = not marks
        self._waiting: deque[Chunk] = deque()

    def pair(self, identity: bytes, document: bytes, now: bytes, before: bytes) -> None:
        """A pair of which is known what it contributed before (nothing: it was not there) and that it is there now."""
        if now == before:
            self.pairs.append(_PAIR(_SAME, identity, len(document)) + document)
        else:
            self.pairs.append(_MOVED_PAIR(_MOVED, identity, len(document), len(before)) + before + document)

    def pair_anew(self, identity: bytes, document: bytes) -> None:
        """A pair (empty: gone) of which only Redis knows what it was before."""
        self.pairs.append(_PAIR(_LOOK, identity, len(document)) + document)

    def summary(self, booking_id: str, packed: bytes) -> None:
        """A booking's summary, packed by `pack_summary`."""
        name = booking_id.encode()
        self.summaries.append(b"".join((_SUMMARY(booking_bucket(name), len(name)), name, packed)))

    def __len__(self) -> int:
        """Entries not yet cut into chunks."""
        return len(self.pairs) + len(self.summaries) + len(self.alerts)

    def next(self, size: int) -> list[Chunk]:
        """The chunks to send now; those that were not `done` come again, as they were."""
        while len(self._waiting) < AHEAD and len(self):
            self._waiting.append(self._cut(size))
        if not self._is_marked and not len(self):
            last = self._waiting.pop() if self._waiting else (b"", b"", b"")
            self._waiting.append((*last, *_flat(self.marks)))
            self._is_marked = True
        return list(self._waiting)

    def done(self) -> None:
        """The first of them is applied."""
        self._waiting.popleft()

    def _cut(self, size: int) -> Chunk:
        """Takes so many entries; those that cost the server least come first."""
        pairs, self.pairs = self.pairs[:size], self.pairs[size:]
        size -= len(pairs)
        summaries, self.summaries = self.summaries[:size], self.summaries[size:]
        size -= len(summaries)
        alerts, self.alerts = self.alerts[:size], self.alerts[size:]
        return b"".join(pairs), b"".join(summaries), orjson.dumps(list(map(list, alerts))) if alerts else b""


def pack_summary(no_show_rate: float, json: bytes, *, had_rate: bool) -> bytes:
    """A summary for `Write.summary`; empty JSON: the booking is gone. ``had_rate``: whether it may have had a noShowRate."""
    return _SUMMARY_TAIL(-no_show_rate or float(had_rate), len(json)) + json


def _flat(marks: Mapping[str, Any]) -> list[Any]:
    return [part for pair in marks.items() for part in pair]
