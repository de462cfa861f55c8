"""One partition of the read models in a namespace of its own, and what it should hold, counted from nothing."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from struct import Struct
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import uuid4

from redis.exceptions import ConnectionError as RedisGone

from schemas.attendance import STATUSES, AttendanceStatus, attendance_id
from tests.support.cores import make_commands
from tests.support.services import Redis, RedisCluster
from worker.read_model import writer as writer_module
from worker.read_model.booking_records import pack_record
from worker.read_model.documents import Listing, contribution, pack
from worker.read_model.keys import PartitionKeys, live_key, namespace
from worker.read_model.transactions import MakeCommands, Transactions
from worker.read_model.write_batch import AlertChange, Chunk, Entries, RecordMember, Write
from worker.read_model.writer import PartitionWriter
from worker.redis.client import Client, create_redis, masters
from worker.redis.scripts import Script
from worker.settings import Settings

ATTENDED, NOT_ATTENDED, NOT_SET = AttendanceStatus.ATTENDED, AttendanceStatus.NOT_ATTENDED, AttendanceStatus.NOT_SET
MARKS = {"events.offset": 7, "bookings.offset": 3}
COUNTS = ("bookings", "reported", "companions", "expectedParticipants")
MINUTE = 60_000_000
_SAYS, _UPDATED = Struct(">BI"), Struct(">Q")


class PairDocument(NamedTuple):
    """One (booking, session) as the read model should hold it. Times are microseconds."""

    booking_id: str
    session_id: str
    attendance: tuple[AttendanceStatus, int, int, str] | None
    """Status, number, updated, source."""
    expected: int
    window: Listing | None

    @property
    def contributed(self) -> bytes:
        return contribution(self._says, self.expected, self.window)

    @property
    def minute(self) -> int:
        """In which it arrived: of a pair made here, that of its newest event."""
        is_attended = self.attendance is not None and self.attendance[0] == ATTENDED
        return self.attendance[2] // MINUTE if self.attendance and is_attended else 0

    @property
    def packed(self) -> bytes:
        if self.attendance is None:
            return pack(self.contributed, self.session_id, self.booking_id)
        _, _, updated, source = self.attendance
        marks = _UPDATED.pack(updated + 2**63), source
        return pack(self.contributed, self.session_id, self.booking_id, self.minute, *marks)

    @property
    def _says(self) -> bytes:
        return _SAYS.pack(STATUSES.index(self.attendance[0]), self.attendance[1]) if self.attendance else b""


Pairs = dict[tuple[str, str], PairDocument]
"""What a partition should hold, by booking and session."""


class Unreliable(PartitionWriter):
    """A writer that can lose an answer, or die, at a call that the test chooses."""

    lose_answer = False
    calls_left = 1_000_000

    async def _run(self, script: Script, *arguments: Any) -> Any:
        self._call_or_die(1)
        return self._answer_or_lose(await super()._run(script, *arguments))

    async def _transact(self, transactions: Transactions, chunk: Chunk) -> bytes:
        self._call_or_die(1)
        answer: bytes = self._answer_or_lose(await super()._transact(transactions, chunk))
        return answer

    async def _run_all(self, script: Script, calls: list[tuple[Any, ...]]) -> list[Any]:
        if self.calls_left < len(calls):
            some = calls[: self.calls_left]
            self.calls_left = 0
            if some:
                await super()._run_all(script, some)
            raise RedisGone("this writer died")
        self._call_or_die(len(calls))
        answers: list[Any] = self._answer_or_lose(await super()._run_all(script, calls))
        return answers

    def _call_or_die(self, calls: int) -> None:
        if self.calls_left < calls:
            raise RedisGone("this writer died")
        self.calls_left -= calls

    def _answer_or_lose(self, answer: Any) -> Any:
        if self.lose_answer:
            self.lose_answer = False
            raise RedisGone("the answer is lost")
        return answer


class Place:
    """Partition 0 of a namespace of its own.

    Args:
        make_commands: of the writers; None: the script applies everything.
    """

    def __init__(self, client: Client, make_commands: MakeCommands | None = None) -> None:
        self.client = client
        self.make_commands = make_commands
        self.base = f"fence-{uuid4().hex[:10]}"
        self.keys = PartitionKeys(namespace(self.base), 0)

    def writer(self, generation: str = "g1") -> Unreliable:
        return Unreliable(self.client, self.keys.namespace, 0, generation, self.make_commands)

    async def owner(self, pairs: Pairs, generation: str = "g1") -> Unreliable:
        """A writer that has filled the partition."""
        owner = self.writer(generation)
        await owner.repair(batches(pairs), MARKS)
        return owner

    async def names(self) -> list[str]:
        """Every key of the partition."""
        pattern, servers = f"{self.keys.tag}*", await masters(self.client)
        return [key.decode() for server in servers async for key in server.scan_iter(pattern, count=2000)]

    async def content(self) -> dict[str, bytes]:
        """Every key of the partition, with all that it holds."""
        names = await self.names()
        async with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.dump(name)
            return dict(zip(names, await pipe.execute(), strict=True))

    async def hashes(self, prefix: str) -> dict[str, dict[bytes, bytes]]:
        """Every hash whose key begins so, by the rest of its key."""
        names = [name for name in await self.names() if name.startswith(prefix)]
        async with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(name)
            return dict(zip((n.removeprefix(prefix) for n in names), await pipe.execute(), strict=True))

    async def mark(self, field: str) -> str:
        return ((await self.client.hget(self.keys.watermark, field)) or b"").decode()

    async def generations(self) -> set[str]:
        """The key generations of which any key is there."""
        names = [name.removeprefix(self.keys.tag) for name in await self.names()]
        return {name.partition(":")[0] for name in names if name not in ("watermark", "changes")}

    async def holds(self, pairs: Pairs) -> bool:
        """Whether documents, tallies and the list of sessions are what these pairs come to, and nothing else."""
        prefix = self.keys.prefix(await self.mark("keys"))
        documents = {i: d for bucket in (await self.hashes(prefix + "doc:")).values() for i, d in bucket.items()}
        tallies = {
            session: {**dict.fromkeys(COUNTS, 0), **{field.decode(): int(count) for field, count in tally.items()}}
            for session, tally in (await self.hashes(prefix + "tally:")).items()
        }
        sessions = [name.decode() for name in await self.client.zrange(prefix + "sessions", 0, -1)]
        wanted = recount(pairs)
        assert documents == {attendance_id(*pair): document.packed for pair, document in pairs.items()}
        assert tallies == wanted
        assert sessions == sorted(wanted)
        return True


def on(server: Redis, scenario: Callable[[Place], Awaitable[None]]) -> None:
    """Runs a scenario in a place of its own, with writers that use the script; on one server then one with transactions."""
    _run(server, scenario, None)
    made = make_commands()
    if made is not None and not isinstance(server, RedisCluster):
        with patch.object(writer_module, "LEAST_OF_TRANSACTIONS", 1):
            _run(server, scenario, made)


def _run(server: Redis, scenario: Callable[[Place], Awaitable[None]], made: MakeCommands | None) -> None:
    async def running() -> None:
        client = create_redis(Settings(_env_file=None, redis=server.url))  # type: ignore[call-arg]
        place = Place(client, made)
        try:
            await scenario(place)
        finally:
            for name in (live_key(place.base), *await place.names()):
                await client.unlink(name)
            await client.aclose()

    asyncio.run(running())


def document(
    booking: str,
    session: str,
    seen: tuple[AttendanceStatus, int] | None = (ATTENDED, 1),
    expected: int = 0,
    window: tuple[int | None, int | None] | None = None,
) -> PairDocument:
    return PairDocument(booking, session, seen and (*seen, 1_795_000_000_000_000, "kiosk"), expected, window)


def some(count: int, sessions: int = 3) -> Pairs:
    """Attendances of so many bookings."""
    names = [(f"b{number}", f"s{number % sessions}") for number in range(count)]
    return {name: document(*name) for name in names}


def alert(name: tuple[str, str]) -> AlertChange:
    text = f'{{"kind":"CLOCK_AHEAD","bookingId":"{name[0]}","sessionId":"{name[1]}"}}'
    return AlertChange(f"alert-{name[0]}-{name[1]}", "CLOCK_AHEAD", *name, 1_795_000_000_000, text)


async def batches(pairs: Pairs) -> AsyncIterator[Entries]:
    """A partition as its table hands it to a repair; every third pair has an alert."""
    names = list(pairs)
    for start in range(0, len(names), 200):
        made = _entries({name: pairs[name] for name in names[start : start + 200]}.items(), before={})
        for at, name in enumerate(names[start : start + 200], start):
            if at % 3 == 0:
                made.alert(alert(name))
        yield made
        await asyncio.sleep(0)


def write(
    *changes: tuple[tuple[str, str], PairDocument | None],
    before: Pairs | None = None,
    marks: Mapping[str, Any] = MARKS,
) -> Write:
    """A batch of pairs with a summary each; ``before`` where the writer knows what is there."""
    return Write(_entries(changes, before), marks)


def _entries(changes: Iterable[tuple[tuple[str, str], PairDocument | None]], before: Pairs | None) -> Entries:
    made = Entries()
    for name, now in changes:
        identity = attendance_id(*name)
        if before is None or now is None:
            made.pair_anew(identity, now.packed if now else b"")
        else:
            was = before.get(name)
            made.pair(identity, now.packed, now.contributed, was.contributed if was else b"")
        record = b"" if now is None else pack_record((1, 0, 0, 0), (), is_frequent=False, is_large=False)
        made.booking(name[0], record, RecordMember.KEEP, 0.0)
    return made


def recount(pairs: Pairs) -> dict[str, dict[str, int]]:
    """The tally of each session, counted from nothing."""
    tallies: dict[str, dict[str, int]] = {}
    for (_, session), pair in pairs.items():
        status, number = pair.attendance[:2] if pair.attendance else (NOT_SET, 0)
        tally = tallies.setdefault(session, dict.fromkeys(COUNTS, 0))
        tally["bookings"] += 1
        if status == ATTENDED:
            tally["reported"] += 1
            tally["companions"] += number - 1
        elif status == NOT_ATTENDED:
            tally["reported"] += 1 << 32
        tally["expectedParticipants"] += pair.expected
        if pair.window and pair.window != (None, None):
            field = "window:" + ":".join("" if moment is None else str(moment // 1000) for moment in pair.window)
            tally[field] = tally.get(field, 0) + 1
    return tallies


def random_pair(chance: random.Random, name: tuple[str, str]) -> PairDocument | None:
    """A pair as any booking may have it: gone, listed, canceled, unknown, with any window."""
    seen = chance.choice([None, (ATTENDED, 1), (ATTENDED, chance.randrange(5)), (NOT_ATTENDED, 0), (NOT_SET, 0), (NOT_SET, 2)])
    start, end = (chance.choice([None, chance.randrange(-3, 3) * MINUTE]) for _ in range(2))
    window = chance.choice([None, (start, end), (MINUTE, 2 * MINUTE)])
    if chance.random() < 0.25 or (seen is None and window is None):
        return None
    return document(*name, seen, chance.choice([0, 1, 3]), window)
