"""The writer of a partition's read models, fenced by generation, epoch and sequence; see ``worker/read_model/README.md``.

Errors, and whether a retry helps::

    ReadModelError
    ├── Fenced         another worker owns the partition now: stop writing, and wait for Kafka's rebalance
    └── NeedsRepair    the data in Redis is not what this writer wrote: repair from the table
    redis.RedisError   Redis is unavailable, or the command failed: retry the same call, it is idempotent
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
from worker.read_model.lua_scripts import APPLY, CLAIM, HEARTBEAT, REPAIR, RETIRE
from worker.redis.client import Client, answer_timeout
from worker.redis.scripts import Script, ScriptInterrupted, run, run_all

#: Entries (pairs, summaries and alerts) in one script call: initial size, and limits of its adaptation; see `ChunkSizer`.
CHUNK, LEAST_CHUNK, MOST_CHUNK = 100, 25, 400
#: Script calls in one round trip.
AHEAD = 64
_SLOW_SECONDS, _FAST_SECONDS = 0.005, 0.0025
_MAX_BUSY_SHARE = 0.5
#: Sessions, alerts or buckets that one call unlinks: about a millisecond of the server's time.
_RETIRE_AT_ONCE = 100
#: Kinds of pairs, see ``apply.lua``.
_READ, _SAME, _MOVED = range(3)
_PAIR = Struct(">B16sH").pack
_MOVED_PAIR = Struct(">B16sHB").pack
_SUMMARY = Struct(">HH").pack
_SUMMARY_TAIL = Struct(">dI").pack


class ReadModelError(Exception):
    """Redis refused a write."""


class Fenced(ReadModelError):
    """Another worker has claimed the partition."""


class NeedsRepair(ReadModelError):
    """The partition's data in Redis is not what this writer wrote."""


class AlertChange(NamedTuple):
    """An alert that was opened or changed (``json``), or closed (``json`` is empty)."""

    alert_id: str
    kind: str
    booking_id: str
    session_id: str
    """Empty for an alert of the booking as a whole."""
    opened_ms: int
    json: str


class Claim(NamedTuple):
    """The state that a new owner finds. Offsets: the next to apply, -1 if unknown. Times: RFC 3339, empty if unknown."""

    is_complete: bool
    """Whether the read models are complete."""
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
        self._pace = ChunkSizer()

    async def claim(self) -> Claim:
        """Becomes the only writer; writes of earlier ones are refused from now on."""
        epoch, state, keys, events, bookings, *times = await self._run(CLAIM, self._generation)
        self._epoch, self._key_generation, self._seq = epoch, keys.decode(), 0
        return Claim(state == b"live" and bool(keys), events, bookings, *(time.decode() for time in times))

    async def apply(self, write: "Write") -> None:
        """Writes the rest of a batch. After a `redis.RedisError`, call it again: it continues where it stopped."""
        try:
            await self._apply(write)
        except ScriptInterrupted as error:
            raise NeedsRepair(f"partition {self._keys.partition}: {error}") from None

    async def _apply(self, write: "Write") -> None:
        while chunks := write.next(self._pace.chunk):
            started, worked = perf_counter(), thread_time()
            answers = await self._run_all(APPLY, [self._arguments(*numbered) for numbered in enumerate(chunks, 1)])
            self._pace.adapt(perf_counter() - started, thread_time() - worked, len(chunks))
            for answer in answers:
                self._raise_if_refused(answer)
                self._seq += 1
                write.done()

    def _arguments(self, number: int, chunk: "Chunk") -> tuple[Any, ...]:
        generation, prefix = self._key_generation, self._keys.prefix(self._key_generation)
        head = (self._generation, self._epoch, self._seq + number, generation, prefix, DOC_SHIFT)
        return (*head, *chunk)

    async def repair(self, writes: AsyncIterable["Write"], watermark: Mapping[str, Any]) -> None:
        """Fills a new key generation with the whole partition, switches readers to it, and unlinks the old ones.

        Args:
            watermark: its fields after the repair.
        """
        await self.claim()
        answer = await self._run(REPAIR, "begin", self._generation, self._epoch)
        self._raise_if_refused(answer)
        self._key_generation, *retired = (name.decode() for name in answer)
        self._seq = 0
        await self._retire(retired)
        async for write in writes:
            await self._apply(write)
        answer = await self._run(REPAIR, "switch", self._generation, self._epoch, *_flatten(watermark))
        self._raise_if_refused(answer)
        await self._retire(name.decode() for name in answer[1:])

    async def unlink_retired(self) -> None:
        """Unlinks keys that are left over from a repair by an owner that died."""
        async with answer_timeout():
            retired: Any = await self._client.hget(self._keys.watermark, "retired")
        await self._retire((retired or b"").decode().split())

    async def heartbeat(self, fields: Mapping[str, Any], end_ages_ms: Mapping[str, int] = MappingProxyType({})) -> None:
        """Writes the heartbeat.

        Args:
            fields: of the watermark; they need no sequence number.
            end_ages_ms: time since Kafka confirmed the end of ``events`` and ``bookings``, if it did.
        """
        ages = (end_ages_ms.get(topic, "") for topic in ("events", "bookings"))
        self._raise_if_refused(await self._run(HEARTBEAT, self._generation, self._epoch, *ages, *_flatten(fields)))

    async def _retire(self, key_generations: Iterable[str]) -> None:
        buckets = (65536 >> DOC_SHIFT, BOOKING_BUCKETS)
        for name in key_generations:
            remaining = 0
            while remaining >= 0:
                remaining = await self._run(RETIRE, self._keys.prefix(name), _RETIRE_AT_ONCE, *buckets, remaining)
            self._raise_if_refused(await self._run(REPAIR, "forget", self._generation, self._epoch, name))

    async def _run(self, script: Script, *arguments: Any) -> Any:
        return await run(self._client, script, self._keys.watermark, *arguments)

    async def _run_all(self, script: Script, calls: list[tuple[Any, ...]]) -> list[Any]:
        return await run_all(self._client, script, self._keys.watermark, calls)

    def _raise_if_refused(self, answer: Any) -> None:
        partition = self._keys.partition
        if answer == b"fenced":
            raise Fenced(f"partition {partition}: another worker writes its read models")
        if answer in (b"gone", b"gap"):
            raise NeedsRepair(f"partition {partition}: the read models in Redis are lost or incomplete")


async def announce(client: Client, base: str, namespace: str, partitions: int) -> tuple[str, int]:
    """Makes a namespace live if there is none, and creates the cursor key. Returns the live namespace and its partitions."""
    key = live_key(base)
    async with answer_timeout(), client.pipeline(transaction=True) as pipe:
        pipe.hsetnx(key, "cursorKey", token_bytes(KEY_BYTES))
        pipe.hsetnx(key, "namespace", namespace)
        pipe.hsetnx(key, "partitions", partitions)
        pipe.hmget(key, "namespace", "partitions")
        *_, (live, count) = await pipe.execute()
    return live.decode(), int(count)


class ChunkSizer:
    """Adapts the number of entries in a script call so that a call blocks the server for a few milliseconds at most.

    The time of a call is its share of the round trip. That is more than the server's time, so calls also get smaller when the
    network is slow. Round trips during which this thread was busy are ignored.
    """

    def __init__(self) -> None:
        self.chunk = CHUNK

    def adapt(self, seconds: float, worked: float, calls: int) -> None:
        """Adapts to a round trip of ``calls`` script calls, during which this thread used ``worked`` seconds of CPU time."""
        if worked > seconds * _MAX_BUSY_SHARE:
            return
        call_seconds = seconds / calls
        if call_seconds > _SLOW_SECONDS:
            self.chunk = max(min(LEAST_CHUNK, CHUNK), self.chunk // 2)
        elif call_seconds < _FAST_SECONDS and calls > 1:
            self.chunk = min(max(MOST_CHUNK, CHUNK), self.chunk + self.chunk // 8)


Chunk = tuple[Any, ...]
"""Arguments of one script call: pairs, summaries, alerts, then fields of the watermark."""


class Write:
    """The changes of a batch to the read models, split into chunks, and which of these are not applied yet."""

    def __init__(self, marks: Mapping[str, Any] = MappingProxyType({}), follows: int = 0) -> None:
        """
        Args:
            marks: fields of the watermark, set with the last chunk.
            follows: number of the repair that this write is based on; a later repair makes it obsolete.
        """
        self.pairs: list[bytes] = []
        self.summaries: list[bytes] = []
        self.alerts: list[AlertChange] = []
        self.marks = marks
        self.follows = follows
        self._has_watermark_chunk = not marks
        self._pending: deque[Chunk] = deque()

    def pair(self, identity: bytes, document: bytes, now: bytes, before: bytes) -> None:
        """Sets a pair, given its contributions now and before (empty: the pair did not exist)."""
        if now == before:
            self.pairs.append(_PAIR(_SAME, identity, len(document)) + document)
        else:
            self.pairs.append(_MOVED_PAIR(_MOVED, identity, len(document), len(before)) + before + document)

    def pair_anew(self, identity: bytes, document: bytes) -> None:
        """Sets a pair, or deletes it (empty), whose previous contribution is read from Redis."""
        self.pairs.append(_PAIR(_READ, identity, len(document)) + document)

    def summary(self, booking_id: str, packed: bytes) -> None:
        """Sets the summary of a booking, packed by `pack_summary`."""
        name = booking_id.encode()
        self.summaries.append(b"".join((_SUMMARY(booking_bucket(name), len(name)), name, packed)))

    def __len__(self) -> int:
        """The number of entries that are not split into chunks yet."""
        return len(self.pairs) + len(self.summaries) + len(self.alerts)

    def next(self, size: int) -> list[Chunk]:
        """The chunks to send now. Chunks that are not `done` are returned again, unchanged."""
        while len(self._pending) < AHEAD and len(self):
            self._pending.append(self._cut(size))
        if not self._has_watermark_chunk and not len(self):
            last = self._pending.pop() if self._pending else (b"", b"", b"")
            self._pending.append((*last, *_flatten(self.marks)))
            self._has_watermark_chunk = True
        return list(self._pending)

    def done(self) -> None:
        """Marks the first of these chunks as applied."""
        self._pending.popleft()

    def _cut(self, size: int) -> Chunk:
        """Removes up to ``size`` entries: pairs first, then summaries, then alerts."""
        pairs, self.pairs = self.pairs[:size], self.pairs[size:]
        size -= len(pairs)
        summaries, self.summaries = self.summaries[:size], self.summaries[size:]
        size -= len(summaries)
        alerts, self.alerts = self.alerts[:size], self.alerts[size:]
        return b"".join(pairs), b"".join(summaries), orjson.dumps(list(map(list, alerts))) if alerts else b""


def pack_summary(no_show_rate: float, json: bytes, *, had_rate: bool) -> bytes:
    """The second argument of `Write.summary`. Empty JSON: delete. ``had_rate``: whether there may have been a noShowRate."""
    return _SUMMARY_TAIL(-no_show_rate or float(had_rate), len(json)) + json


def _flatten(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
