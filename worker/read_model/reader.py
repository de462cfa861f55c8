"""Reads the read models: what dashboards import. Plain commands, no scan, one round trip or two a question.

Errors, and whether a retry helps::

    ReaderError
    ├── NotServing      no namespace is live, or a partition is being repaired: again in a second
    └── OtherLayout     Redis was written by another version of this software: upgrade the reader
    redis.RedisError    Redis is away
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance
from schemas.times import format_time
from worker.read_model.client import Client, patience
from worker.read_model.documents import unpack
from worker.read_model.keys import BOOKING_BUCKETS, PartitionKeys, booking_bucket, doc_bucket, is_ours, live_key
from worker.topics import partition_of

#: A heartbeat older than this says nothing, seconds.
STALE_AFTER = 5.0
_COUNTS = ("bookings", "attended", "notAttended", "notSet", "attendees", "expectedParticipants")
_WINDOW = b"window:"
_ATTEMPTS = 3


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


class AttendanceReader:
    """Answers from Redis alone.

    Args:
        client: a Redis client that answers bytes.
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._base = base
        self._namespace = ""
        self._partitions = 0
        self._generations: dict[int, str] = {}

    async def get(self, attendance_id: str) -> Attendance | None:
        """The attendance with this id, None where there is none (or it is no GUID)."""
        try:
            identity = UUID(attendance_id).bytes
        except ValueError:
            return None
        everywhere = await self._all()
        commands = [[("hget", f"doc:{doc_bucket(identity)}", identity)] for _ in everywhere]
        for (packed,) in (await self._ask(everywhere, commands))[0]:
            found = None if packed is None else unpack(identity, packed)
            if found is not None:
                return found
        return None

    async def by_booking(self, booking_id: str) -> list[Attendance]:
        """Every attendance of a booking, by id."""
        here = [await self._of(booking_id)]
        low, high = b"[" + booking_id.encode() + b"\0", b"(" + booking_id.encode() + b"\1"
        ((members,),), _ = await self._ask(here, [[("zrangebylex", "by-booking", low, high)]])
        return await self._documents(here, [[member[-16:] for member in members]])

    async def by_session(self, session_id: str) -> list[Attendance]:
        """Every attendance of a session, by id."""
        everywhere = await self._all()
        answers, _ = await self._ask(everywhere, [[("smembers", f"ids:{session_id}")] for _ in everywhere])
        return await self._documents(everywhere, [list(ids) for (ids,) in answers])

    async def session(self, session_id: str) -> dict[str, Any] | None:
        """The session's tally with its freshness, None where no booking lists it and nobody came."""
        everywhere = await self._all()
        answers, fresh = await self._ask(everywhere, [[("hgetall", f"tally:{session_id}")] for _ in everywhere])
        tallies = [tally for (tally,) in answers if tally]
        if not tallies:
            return None
        counts = {name: sum(int(tally.get(name.encode(), 0)) for tally in tallies) for name in _COUNTS}
        starts, ends = _bounds(field for tally in tallies for field in tally if field.startswith(_WINDOW))
        return {"sessionId": session_id, **counts, "startsAt": starts, "endsAt": ends, "freshness": fresh.document()}

    async def sessions(self, limit: int = 1000) -> list[str]:
        """Ids of sessions that have a tally, in the order of their bytes, at most ``limit``."""
        everywhere = await self._all()
        answers, _ = await self._ask(everywhere, [[("zrange", "sessions", 0, limit - 1)] for _ in everywhere])
        return [name.decode() for name in sorted({name for (names,) in answers for name in names})[:limit]]

    async def booking(self, booking_id: str) -> dict[str, Any] | None:
        """The booking's summary with its freshness, None where it has no session."""
        here = [await self._of(booking_id)]
        ((json,),), fresh = await self._ask(here, [[("hget", f"booking:{booking_bucket(booking_id.encode())}", booking_id)]])
        return None if json is None else {"bookingId": booking_id, **orjson.loads(json), "freshness": fresh.document()}

    async def alerts(
        self,
        *,
        kind: AlertKind | None = None,
        session_id: str | None = None,
        booking_id: str | None = None,
        limit: int = 1000,
    ) -> list[AlertData]:
        """Open alerts, newest first; all given conditions hold."""
        where = await self._all() if booking_id is None else [await self._of(booking_id)]
        index = "alerts:at"
        if booking_id is not None:
            index = f"alerts:booking:{booking_id}"
        elif session_id is not None:
            index = f"alerts:session:{session_id}"
        elif kind is not None:
            index = f"alerts:kind:{kind}"
        narrow = (session_id is not None or kind is not None) and index != f"alerts:kind:{kind}"
        last = -1 if narrow else limit - 1
        answers, _ = await self._ask(where, [[("zrevrange", index, 0, last)] for _ in where])
        commands = [[("hmget", "alerts", ids)] if ids else [] for (ids,) in answers]
        found, _ = await self._ask(where, commands)
        opened: list[AlertData] = [orjson.loads(json) for each in found for jsons in each for json in jsons if json]
        opened = [
            alert
            for alert in opened
            if (kind is None or alert["kind"] == kind) and (session_id is None or alert.get("sessionId") == session_id)
        ]
        opened.sort(key=lambda alert: (alert["openedAt"], alert["alertId"]), reverse=True)
        return opened[:limit]

    async def count_alerts(self, kind: AlertKind) -> int:
        """How many alerts of a kind are open."""
        everywhere = await self._all()
        answers, _ = await self._ask(everywhere, [[("zcard", f"alerts:kind:{kind}")] for _ in everywhere])
        return sum(count for (count,) in answers)

    async def count_bookings(self) -> int:
        """How many bookings have a summary."""
        return sum(sum(lengths) for lengths in await self._of_booking_buckets("hlen"))

    async def bookings(self) -> list[str]:
        """Every booking that has a summary; for small installations and tests, it reads all of them."""
        return sorted(name.decode() for names in await self._of_booking_buckets("hkeys") for some in names for name in some)

    async def status(self) -> list[Partition]:
        """Each partition's watermark, also of those that do not serve."""
        await self._locate()
        async with patience(), self._client.pipeline(transaction=False) as pipe:
            for number in range(self._partitions):
                pipe.hgetall(PartitionKeys(self._namespace, number).watermark)
            return [_partition(number, mark) for number, mark in enumerate(await pipe.execute())]

    async def _documents(self, where: Sequence[int], ids: Sequence[Iterable[bytes]]) -> list[Attendance]:
        wanted = [list(some) for some in ids]
        commands = [[("hget", f"doc:{doc_bucket(identity)}", identity) for identity in some] for some in wanted]
        answers, _ = await self._ask(where, commands)
        found = [
            unpack(identity, packed)
            for some, packeds in zip(wanted, answers, strict=True)
            for identity, packed in zip(some, packeds, strict=True)
            if packed is not None
        ]
        return sorted((each for each in found if each is not None), key=lambda each: each["id"])

    async def _of_booking_buckets(self, command: str) -> list[list[Any]]:
        everywhere = await self._all()
        commands = [(command, f"booking:{bucket}") for bucket in range(BOOKING_BUCKETS)]
        answers, _ = await self._ask(everywhere, [commands for _ in everywhere])
        return answers

    async def _all(self) -> list[int]:
        await self._locate()
        return list(range(self._partitions))

    async def _of(self, booking_id: str) -> int:
        await self._locate()
        return partition_of(booking_id, self._partitions)

    async def _locate(self) -> None:
        """Which namespace is live, asked once per question: it may be switched at any time."""
        async with patience():
            found: Any = await self._client.hmget(live_key(self._base), "namespace", "partitions")
        live, count = found
        if live is None or count is None:
            raise NotServing("no namespace is live in Redis yet: start a worker, or wait for it")
        name = live.decode()
        if not is_ours(self._base, name):
            raise OtherLayout(f"namespace {name} has another layout: run this command in the version of the workers")
        if name != self._namespace:
            self._namespace, self._partitions, self._generations = name, int(count), {}

    async def _ask(
        self, where: Sequence[int], commands: Sequence[Sequence[tuple[Any, ...]]]
    ) -> tuple[list[list[Any]], Freshness]:
        """Each partition's commands in one pipeline, with its watermark read last: it proves that the keys were live."""
        for _ in range(_ATTEMPTS):
            async with patience(), self._client.pipeline(transaction=False) as pipe:
                for number, some in zip(where, commands, strict=True):
                    keys = PartitionKeys(self._namespace, number)
                    prefix = keys.prefix(self._generations.get(number, ""))
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
                return found, _freshness(marks)
        raise NotServing("the read models are being switched: ask again")

    def _is_current(self, partition: Partition) -> bool:
        """Whether the keys just read were the live ones; remembers those that are."""
        if partition.state != "live":
            raise NotServing(f"partition {partition.number} is {partition.state}: ask again in a second")
        live = partition.mark["keys"]
        known, self._generations[partition.number] = self._generations.get(partition.number), live
        return known == live


def _partition(number: int, mark: dict[bytes, bytes]) -> Partition:
    told = {name.decode(): content.decode() for name, content in mark.items()}
    state = told.get("state") or "not filled yet"
    return Partition(number, "being repaired" if state == "repairing" else state, told)


def _freshness(partitions: Iterable[Partition]) -> Freshness:
    known = list(partitions)
    lags = [partition.lag for partition in known]
    newest = max((partition.mark.get("events.time", "") for partition in known), default="")
    return Freshness(newest or None, None if None in lags else sum(lag or 0 for lag in lags))


def _bounds(windows: Iterable[bytes]) -> tuple[str | None, str | None]:
    """Earliest start and latest end of ``window:<startMs>:<endMs>`` fields, either of which may be empty."""
    starts, ends = [], []
    for window in windows:
        start, _, end = window[len(_WINDOW) :].decode().partition(":")
        starts += [int(start)] if start else []
        ends += [int(end)] if end else []
    return tuple(format_time(t[0] * 1000) if t else None for t in (sorted(starts), sorted(ends, reverse=True)))  # type: ignore[return-value]
