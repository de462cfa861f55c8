"""The writer of a partition's read models, fenced by generation, epoch and sequence; see ``worker/read_model/README.md``.

Errors, and whether a retry helps::

    ReadModelError
    ├── Dropped        it is a build that was dropped: stop writing it
    ├── Fenced         another worker owns the partition now: stop writing, and wait for Kafka's rebalance
    └── NeedsRepair    the data in Redis is not what this writer wrote: repair from the table
    redis.RedisError   Redis is unavailable, or the command failed: retry the same call, it is idempotent
"""

from collections.abc import AsyncIterable, Iterable, Mapping
from itertools import takewhile
from time import monotonic, perf_counter, thread_time
from types import MappingProxyType
from typing import Any, NamedTuple

from worker.read_model.keys import BOOKING_BUCKETS, DEVICES, DOC_SHIFT, ESTIMATES, PartitionKeys
from worker.read_model.lua_scripts import APPLY, CLAIM, HEARTBEAT, REPAIR, RETIRE
from worker.read_model.transactions import MakeCommands, Owner, Transactions
from worker.read_model.watermark import parse_hash
from worker.read_model.write_batch import Chunk, Entries, EstimateChange, Write, flatten, pack_estimates
from worker.redis.client import Client, Server, answer_timeout
from worker.redis.scripts import Script, ScriptInterrupted, raise_first_error, run, run_all

#: Entries (pairs, bookings, alerts, devices) in one script call: initial size, and limits of its adaptation; see `ChunkSizer`.
CHUNK, LEAST_CHUNK, MOST_CHUNK = 100, 25, 400
_SLOW_SECONDS, _FAST_SECONDS = 0.005, 0.0025
_MAX_BUSY_SHARE = 0.5
#: A write of so many entries is applied in transactions; a smaller one is one script call on the connection that all share.
LEAST_OF_TRANSACTIONS = 25
#: Entries of a transaction, which take the server 2 to 5 ms. Only a worker that catches up writes so many at once.
TRANSACTION = 400
#: Sessions, alerts or buckets that one call unlinks: about a millisecond of the server's time.
_RETIRE_AT_ONCE = 100


class ReadModelError(Exception):
    """Redis refused a write."""


class Dropped(ReadModelError):
    """The namespace is a build that was dropped."""


class Fenced(ReadModelError):
    """Another worker has claimed the partition."""


class NeedsRepair(ReadModelError):
    """The partition's data in Redis is not what this writer wrote."""


class Claim(NamedTuple):
    """The state that a new owner finds. Offsets: the next to apply, -1 if unknown. Times: RFC 3339, empty if unknown."""

    is_complete: bool
    """Whether the read models are complete."""
    events_offset: int
    bookings_offset: int
    events_time: str = ""
    bookings_time: str = ""
    fresh_age_ms: int = -1
    """How long ago the read models were last known to hold everything that Kafka had; -1: unknown."""


class PartitionWriter:
    """Writes one partition's read models in one namespace."""

    def __init__(
        self, client: Client, namespace: str, partition: int, generation: str, make_commands: MakeCommands | None = None
    ) -> None:
        """
        Args:
            make_commands: makes the commands of transactions; None, or in a cluster: the script applies everything.
        """
        self._client = client
        self._make_commands = make_commands if isinstance(client, Server) else None
        self._keys = PartitionKeys(namespace, partition)
        self._generation = generation
        self._epoch = b""
        self._key_generation = ""
        self._seq = 0
        self._pace = ChunkSizer()
        self._clock = ServerClock()

    async def claim(self, build: str = "") -> Claim:
        """Becomes the only writer; writes of earlier ones are refused from now on.

        Args:
            build: of a build, the operation that made it; empty: the namespace is live.

        Raises:
            Dropped: it is no build of this operation any more.
        """
        answer = await self._run(CLAIM, self._generation, build)
        if answer == b"dropped":
            raise Dropped(f"partition {self._keys.partition}: the namespace {self._keys.namespace} was dropped")
        epoch, state, keys, events, bookings, events_time, bookings_time, fresh_age = answer
        self._epoch, self._key_generation, self._seq = epoch, keys.decode(), 0
        is_complete = state == b"live" and bool(keys)
        return Claim(is_complete, events, bookings, events_time.decode(), bookings_time.decode(), fresh_age)

    async def apply(self, write: Write) -> None:
        """Writes the rest of a batch. After a `redis.RedisError`, call it again: it continues where it stopped."""
        try:
            await self._apply(write)
        except ScriptInterrupted as error:
            raise NeedsRepair(f"partition {self._keys.partition}: {error}") from None

    async def _apply(self, write: Write) -> None:
        if self._make_commands is not None and len(write) >= LEAST_OF_TRANSACTIONS:
            write.separate(self._make_commands.split)
        while chunks := write.next(TRANSACTION if write.is_separated else self._pace.chunk):
            if not chunks[0].needs_script:
                await self._apply_transactions(write)
                return
            chunks = [*takewhile(lambda chunk: chunk.needs_script, chunks)]
            started, worked = perf_counter(), thread_time()
            answers = await self._run_all(APPLY, [self._arguments(*numbered) for numbered in enumerate(chunks, 1)])
            self._pace.adapt(perf_counter() - started, thread_time() - worked, len(chunks))
            for answer in answers:
                self._raise_if_refused(answer)
                self._seq += 1
                write.done()

    def _arguments(self, number: int, chunk: Chunk) -> tuple[Any, ...]:
        generation, prefix = self._key_generation, self._keys.prefix(self._key_generation)
        head = (self._generation, self._epoch, self._seq + number, generation, prefix, DOC_SHIFT)
        return (*head, *chunk.arguments())

    async def _apply_transactions(self, write: Write) -> None:
        assert isinstance(self._client, Server)
        assert self._make_commands is not None
        owner = Owner(self._generation, self._epoch, self._key_generation)
        async with self._client.exclusive() as connection:
            transactions = Transactions(connection, self._keys, owner, self._make_commands)
            while chunks := write.next(TRANSACTION):
                self._raise_if_refused(await self._transact(transactions, chunks[0]))
                self._seq += 1
                write.done()

    async def _transact(self, transactions: Transactions, chunk: Chunk) -> bytes:
        return await transactions.apply(chunk, self._seq + 1)

    async def repair(self, partition: AsyncIterable[Entries], watermark: Mapping[str, Any]) -> None:
        """Fills a new key generation with the whole partition, switches readers to it, and unlinks the old ones.

        Args:
            partition: all of its entries, in parts.
            watermark: its fields after the repair.
        """
        await self.claim()
        await self.begin_repair()
        async for entries in partition:
            await self._apply(Write(entries))
        await self.end_repair(watermark)

    async def begin_repair(self) -> None:
        """Begins a new key generation, to which `apply` writes from now on, and unlinks those that are retired."""
        answer = await self._run(REPAIR, "begin", self._generation, self._epoch)
        self._raise_if_refused(answer)
        self._key_generation, *retired = (name.decode() for name in answer)
        self._seq = 0
        await self._retire(retired)

    async def end_repair(self, watermark: Mapping[str, Any]) -> None:
        """Switches readers to the key generation that was begun, and unlinks the old ones."""
        answer = await self._run(REPAIR, "switch", self._generation, self._epoch, *flatten(watermark))
        self._raise_if_refused(answer)
        await self._retire(name.decode() for name in answer[1:])

    async def sources(self) -> set[str]:
        """The sources that the read models hold."""
        key = self._keys.prefix(self._key_generation) + DEVICES
        ((*names,),) = raise_first_error(await self._client.ask([("HKEYS", key)]))
        return {name.decode() for name in names}

    async def estimates(self) -> dict[str, bytes]:
        """The packed estimates of each source."""
        key = self._keys.prefix(self._key_generation) + ESTIMATES
        (answer,) = raise_first_error(await self._client.ask([("HGETALL", key)]))
        return {name.decode(): packed for name, packed in parse_hash(answer).items()}

    async def read_handover(self) -> str:
        """The consumer group from which this build takes over what is sent to Kafka; empty: none, or it was done."""
        async with answer_timeout():
            group: Any = await self._client.hget(self._keys.watermark, "handover")
        return (group or b"").decode()

    async def end_handover(self) -> None:
        """That is done."""
        async with answer_timeout():
            await self._client.hdel(self._keys.watermark, "handover")

    async def unlink_retired(self) -> None:
        """Unlinks keys that are left over from a repair by an owner that died."""
        async with answer_timeout():
            retired: Any = await self._client.hget(self._keys.watermark, "retired")
        await self._retire((retired or b"").decode().split())

    async def heartbeat(
        self,
        fields: Mapping[str, Any],
        ages_ms: Mapping[str, int] = MappingProxyType({}),
        fresh_at: float | None = None,
        estimates: Iterable[EstimateChange] = (),
    ) -> None:
        """Writes the heartbeat.

        Args:
            fields: of the watermark; they need no sequence number.
            ages_ms: time since Kafka confirmed the end of ``events`` and ``bookings``, if it did.
            fresh_at: when the read models were last known to hold everything that Kafka had, in `time.monotonic`. It is
                written from the second heartbeat on, once the clock of the server is known.
            estimates: of some sources; left out while the read models are repaired.
        """
        asked_at = monotonic()
        ages = (ages_ms.get(name, "") for name in ("events", "bookings"))
        fresh_ms = "" if fresh_at is None else self._clock.at_least(fresh_at)
        of_sources = (self._keys.prefix(self._key_generation), pack_estimates(estimates))
        arguments = (*ages, fresh_ms, self._seq, *of_sources, *flatten(fields))
        answer = await self._run(HEARTBEAT, self._generation, self._epoch, *arguments)
        self._raise_if_refused(answer)
        self._clock.observe(int(answer), asked_at, monotonic())

    async def _retire(self, key_generations: Iterable[str]) -> None:
        for name in key_generations:
            await unlink_generation(self._client, self._keys, name)
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


async def unlink_generation(client: Client, keys: PartitionKeys, name: str) -> None:
    """Unlinks all keys of a key generation that is neither read nor written, a part at a time."""
    remaining, buckets = 0, (65536 >> DOC_SHIFT, BOOKING_BUCKETS)
    while remaining >= 0:
        remaining = await run(client, RETIRE, keys.watermark, keys.prefix(name), _RETIRE_AT_ONCE, *buckets, remaining)


class ServerClock:
    """The clock of a server, as far as its answers show it: it showed their time between the question and the answer.

    An age would not do for what must never seem newer than it is: a server that was frozen counts it from when it goes on.
    """

    def __init__(self) -> None:
        self._ahead: float | None = None
        """By how much it is ahead of `time.monotonic`, at the least, ms; None: not known."""

    def observe(self, shown_ms: int, asked_at: float, answered_at: float) -> None:
        """Takes the time that an answer shows."""
        least, most = shown_ms - answered_at * 1000, shown_ms - asked_at * 1000
        if self._ahead is None or not least <= self._ahead <= most:
            self._ahead = least

    def at_least(self, at: float) -> int | str:
        """What it showed at a time of `time.monotonic`, or less by the duration of a round trip; empty: not known."""
        return "" if self._ahead is None else int(self._ahead + at * 1000)


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
        if calls == 1 and self.chunk <= CHUNK:
            return  # it may have waited for small writes of other partitions, which share its connection
        call_seconds = seconds / calls
        if call_seconds > _SLOW_SECONDS:
            self.chunk = max(min(LEAST_CHUNK, CHUNK), self.chunk // 2)
        elif call_seconds < _FAST_SECONDS and calls > 1:
            self.chunk = min(max(MOST_CHUNK, CHUNK), self.chunk + self.chunk // 8)
