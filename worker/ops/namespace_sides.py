"""Reads the same places from two namespaces of read models, also where they have different numbers of partitions."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from math import isfinite
from random import sample
from struct import Struct
from typing import Any, NamedTuple, TypeVar

import orjson

from schemas.attendance import STATUSES, guid
from worker.read_model import keys
from worker.read_model.builds import Namespace
from worker.read_model.content import (
    DEVICES,
    SESSIONS,
    SESSIONS_START,
    UNLISTED,
    UNLISTED_COUNT,
    PartitionContent,
    Place,
    added,
    is_sum,
    session_of,
    shown,
)
from worker.read_model.documents import unpack
from worker.read_model.keys import PartitionKeys
from worker.read_model.watermark import parse_watermark, watermark_command
from worker.redis.client import Client
from worker.redis.scripts import raise_first_error
from worker.topics import partition_of

#: Not a key of Redis: of this key, a member is the name of a number in `COUNTS`.
COUNT = b"count"
_DOC, _BOOKING, _ROSTER = keys.DOC.encode(), keys.BOOKING.encode(), keys.ROSTER.encode()
#: Command and key of each number, then its arguments.
COUNTS: Mapping[bytes, tuple[Any, ...]] = {
    **{
        each.value.encode(): ("ZCOUNT", keys.BY_STATUS, status << 32, f"({(status + 1) << 32}")
        for status, each in enumerate(STATUSES)
    },
    b"ATTENDED, 1 attendee": ("HGET", keys.UNLISTED, UNLISTED_COUNT),
    **{f"by booking, {each.value}".encode(): ("ZCARD", f"{keys.BY_BOOKING}{status}") for status, each in enumerate(STATUSES)},
    b"bookings with a noShowRate": ("ZCARD", keys.NO_SHOWS),
    b"alerts": ("HLEN", keys.ALERTS),
    b"alerts by time": ("ZCARD", keys.ALERTS_AT),
}
#: Those of the attendances.
STATUS_COUNTS = tuple(COUNTS)[: len(STATUSES) + 1]
#: Members that one command takes.
_AT_ONCE = 500
_double = Struct(">d").unpack

_T = TypeVar("_T")
Position = tuple[bytes | None, ...] | None
"""The next offsets to apply of a partition (events, bookings), as Redis has them; None: it was written meanwhile."""


class Subject(NamedTuple):
    """What is compared: a place, and the booking whose partition holds it (empty: any partition may, or all do)."""

    kind: str
    place: Place
    booking: bytes = b""

    @property
    def name(self) -> str:
        """As people read it."""
        key, member = self.place
        if key.startswith(_DOC):
            return guid(member)
        names = [session_of(key), member] if is_sum(key) or key.startswith(_ROSTER) else [member]
        return " ".join(each.decode(errors="replace") for each in names if each)


class Replaced(Exception):
    """A partition was repaired or filled again: what was read of it does not count."""


class Side:
    """Some partitions of a namespace, which are compared together.

    Args:
        client: of Redis.
        namespace: that is read.
        numbers: of the partitions.
    """

    def __init__(self, client: Client, namespace: Namespace, numbers: Sequence[int]) -> None:
        self._client = client
        self._namespace = namespace
        self.numbers = numbers
        self._keys = {number: PartitionKeys(namespace.name, number) for number in numbers}
        self._generations: dict[int, str] = {}
        self._content: dict[int, PartitionContent] = {}

    async def open(self) -> bool:
        """Begins to read the keys that are live now; False: a partition has none."""
        watermarks = await self._watermarks()
        self._generations = {each.number: each.mark.get("keys", "") for each in watermarks if each.state == "live"}
        self._content = {
            number: PartitionContent(self._client, self._keys[number], name) for number, name in self._generations.items()
        }
        return len(self._generations) == len(self.numbers)

    async def positions(self) -> dict[tuple[str, int], int]:
        """The next offset to apply, by topic (``events`` or ``bookings``) and partition.

        Raises:
            Replaced: other keys are live than when this was opened.
        """
        found = {}
        for each in await self._watermarks():
            if each.state != "live" or each.mark.get("keys") != self._generations[each.number]:
                raise Replaced
            found.update({(topic, each.number): int(each.mark.get(f"{topic}.offset") or 0) for topic in ("events", "bookings")})
        return found

    @property
    def has_position(self) -> bool:
        """Whether values are read with the position of their partition: there is one partition only."""
        return len(self.numbers) == 1

    async def values(self, subjects: Sequence[Subject]) -> list[tuple[bytes | None, Position]]:
        """What the read models hold of these, over all partitions; and the position at which they do."""
        by_partition: dict[int, list[int]] = {}
        for at, subject in enumerate(subjects):
            for number in self._partitions_of(subject):
                by_partition.setdefault(number, []).append(at)
        parts: list[list[bytes]] = [[] for _ in subjects]
        positions: list[Position] = [None] * len(subjects)
        for number, ats in by_partition.items():
            for some in batches(ats):
                values, position = await self._values_at(number, [subjects[at].place for at in some])
                for at, value in zip(some, values, strict=True):
                    positions[at] = position
                    if value is not None:
                        parts[at].append(value)
        merged = (_merged(subject.place, found) if found else None for subject, found in zip(subjects, parts, strict=True))
        return list(zip(merged, positions, strict=True))

    async def members(self, names: Sequence[bytes]) -> AsyncIterator[list[Place]]:
        """Every member of these keys in all partitions, some at a time; a member may come twice."""
        for content in self._content.values():
            async for places in content.members(names):
                yield places

    async def sessions(self, after: bytes) -> tuple[list[bytes], bool]:
        """Sessions of any partition after one (empty: the first ones), by bytes; and whether there are no others."""
        start = b"(" + after if after else b"-"
        pages = await self._ask(SESSIONS, "ZRANGEBYLEX", start, b"+", b"LIMIT", 0, _AT_ONCE)
        cut = [page[-1] for page in pages if len(page) == _AT_ONCE]
        names = {name for page in pages for name in page if not cut or name <= min(cut)}
        return sorted(names), not cut

    async def random_sessions(self, most: int) -> list[bytes]:
        """Some sessions, at random."""
        pages = await self._ask(SESSIONS, "ZRANDMEMBER", min(most, _AT_ONCE))
        return [name for page in pages for name in page]

    async def random_attendances(self, most: int) -> list[Subject]:
        """So many attendances at random; all, if there are not more than twice as many."""
        listed = await self._ask(keys.BY_STATUS.encode(), "ZCARD")
        unlisted = await self._ask(UNLISTED, "HGET", UNLISTED_COUNT)
        sizes = [size + int(others or 0) for size, others in zip(listed, unlisted, strict=True)]
        total, found, buckets = sum(sizes), list[Subject](), range(65536 >> keys.DOC_SHIFT)
        for number, size in zip(self.numbers, sizes, strict=True):
            if total <= 2 * most:
                async for places in self._content[number].members([_bucket_key(bucket) for bucket in buckets]):
                    found += await self._documents(number, [member for _, member in places])
                continue
            wanted = -(-most * size // total)
            some = sample(buckets, min(wanted, len(buckets)))
            of_each = -(-wanted // max(1, len(some)))
            prefix = PartitionKeys(self._namespace.name, number).prefix(self._generations[number]).encode()
            for part in batches(some):
                commands = [("HRANDFIELD", prefix + _bucket_key(bucket), of_each) for bucket in part]
                answers = raise_first_error(await self._client.ask(commands))
                ids = [identity for answer in answers for identity in answer]
                for batch in batches(ids):
                    found += await self._documents(number, batch)
        return found

    async def most_devices(self) -> int:
        """The number of devices of the partition that has most."""
        sizes: list[int] = await self._ask(DEVICES, "HLEN")
        return max(sizes)

    async def _documents(self, number: int, ids: Sequence[bytes]) -> list[Subject]:
        places = [(_doc_key(identity), identity) for identity in ids]
        found = []
        for place, packed in zip(places, await self._content[number].values(places), strict=True):
            attendance = packed and unpack(place[1], packed)
            if attendance:
                found.append(Subject("attendance", place, attendance["bookingId"].encode()))
        return found

    async def _values_at(self, number: int, places: Sequence[Place]) -> tuple[list[bytes | None], Position]:
        if not self.has_position:
            return await self._values(number, places), None
        before = await self._progress(number)
        values = await self._values(number, places)
        after = await self._progress(number)
        return values, tuple(before[:2]) if before == after else None

    async def _progress(self, number: int) -> list[bytes | None]:
        """The next offsets to apply of a partition, and the number of the last call that wrote it."""
        command = ("HMGET", self._keys[number].watermark, "events.offset", "bookings.offset", "seq")
        progress: list[bytes | None]
        (progress,) = raise_first_error(await self._client.ask([command]))
        return progress

    async def _values(self, number: int, places: Sequence[Place]) -> list[bytes | None]:
        values: list[bytes | None] = [None] * len(places)
        counted = [at for at, (key, _) in enumerate(places) if key == COUNT]
        others = [at for at, (key, _) in enumerate(places) if key != COUNT]
        prefix = self._keys[number].prefix(self._generations[number])
        commands = []
        for at in counted:
            name, key, *arguments = COUNTS[places[at][1]]
            commands.append((name, prefix + key, *arguments))
        for at, count in zip(counted, raise_first_error(await self._client.ask(commands)), strict=True):
            values[at] = b"%d" % int(count or 0)
        found = await self._content[number].values([places[at] for at in others])
        for at, value in zip(others, found, strict=True):
            values[at] = value
        return values

    def _partitions_of(self, subject: Subject) -> Sequence[int]:
        if len(self.numbers) == 1 or not subject.booking:
            return self.numbers
        return [partition_of(subject.booking.decode(), self._namespace.partitions)]

    async def _watermarks(self) -> list[Any]:
        answers = raise_first_error(await self._client.ask([watermark_command(each.watermark) for each in self._keys.values()]))
        return [parse_watermark(number, answer) for number, answer in zip(self.numbers, answers, strict=True)]

    async def _ask(self, key: bytes, command: str, *arguments: Any) -> list[Any]:
        """The answers of each partition to a command on one of its keys."""
        commands = [
            (command, self._keys[number].prefix(self._generations[number]).encode() + key, *arguments)
            for number in self.numbers
        ]
        return raise_first_error(await self._client.ask(commands))


def summary_keys() -> list[bytes]:
    """The keys of the bookings' records."""
    return [b"%b%d" % (_BOOKING, bucket) for bucket in range(keys.BOOKING_BUCKETS)]


def shown_value(subject: Subject, value: bytes | None) -> Any:
    """A value as people read it."""
    key, _ = subject.place
    if value is not None and key == COUNT:
        return orjson.loads(value)
    return shown(subject.place, value)


def batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Items, some at a time."""
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def normal(value: bytes | None) -> bytes | None:
    """A value as it is compared: of JSON the fields may stand in any order."""
    # no packed pair, time or score of these read models begins so
    if value is None or not value.startswith(b"{"):
        return value
    try:
        return orjson.dumps(orjson.loads(value), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONDecodeError:
        return value


def _merged(place: Place, parts: Sequence[bytes]) -> bytes | None:
    """The value over all partitions that have one."""
    if len(parts) == 1:
        return parts[0]
    key, _ = place
    if key == COUNT:
        return b"%d" % sum(map(int, parts))
    if is_sum(key):
        return _packed_total([orjson.loads(part) for part in parts])
    if key == SESSIONS_START:
        starts = [(_double(each)[0], each) for each in parts]
        return min((each for each in starts if isfinite(each[0])), default=starts[0])[1]
    # the newest event of a device is packed so that its bytes sort as the times do; of all others there is one
    return max(parts)


def _packed_total(parts: Sequence[Mapping[str, Any]]) -> bytes | None:
    total: bytes | None = None
    for part in parts:
        total = added(total, part)
    return total


def _doc_key(identity: bytes) -> bytes:
    return _bucket_key(int.from_bytes(identity[:2], "big") >> keys.DOC_SHIFT)


def _bucket_key(bucket: int) -> bytes:
    return b"%b%d" % (_DOC, bucket)
