"""Compares a build with the live namespace, while workers write both."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from time import monotonic
from typing import Any, NamedTuple

import orjson

from worker.domain.devices import MOST_DEVICES
from worker.ops.namespace_lag import QUICK, Candidate, Limits
from worker.ops.namespace_sides import (
    COUNT,
    COUNTS,
    STATUS_COUNTS,
    Replaced,
    Side,
    Subject,
    batches,
    normal,
    shown_value,
    summary_keys,
)
from worker.read_model.builds import Namespace
from worker.read_model.content import ALERTS, DEVICES, SESSIONS_START, Place, roster_key, tally_key
from worker.redis.client import Client

#: Differences that are kept; all are counted.
MOST_DIFFERENCES = 1_000
#: Places that seem to differ are looked at again when there are so many.
_SETTLED_AT_ONCE = 2_000
#: Sessions of a partition whose rosters are compared, of each side.
_SESSIONS = 20
#: How often a partition is compared anew after a repair.
_ATTEMPTS = 5
_WAIT_SECONDS = 0.5

OnProgress = Callable[[int], None]


class NamespaceDifference(NamedTuple):
    """What the two namespaces hold of one thing."""

    kind: str
    """``count``, ``session``, ``start``, ``summary``, ``alert``, ``device``, ``attendance`` or ``roster``."""
    id: str
    live: Any
    build: Any


class CheckReport(NamedTuple):
    """What a comparison found."""

    id: str
    """Digest of the result."""
    compared: Mapping[str, int]
    """By what was compared; ``attendances`` is the number in the live namespace, ``sample`` those that were compared."""
    difference_count: int
    differences: list[NamespaceDifference]
    """At most `MOST_DIFFERENCES`."""
    is_complete: bool = True
    """False: it was stopped, or keys were replaced again and again."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "compared": dict(self.compared),
            "differences": self.difference_count,
            "isComplete": self.is_complete,
            "shown": [each._asdict() for each in self.differences],
        }


async def compare(
    client: Client,
    live: Namespace,
    build: Namespace,
    *,
    sample: int,
    on_progress: OnProgress,
    stop: Callable[[], bool],
    limits: Limits = Limits(),  # noqa: B008 - immutable
) -> CheckReport:
    """Compares the whole of two namespaces, of the attendances a sample.

    Args:
        client: of Redis.
        live: the live namespace.
        build: the other one, of the same layout. It may have another number of partitions.
        sample: attendances of each side that are compared one by one; all, if there are not more than twice as many.
        on_progress: gets the number of places that were compared.
        stop: whether to end early, with a report that is not complete.
        limits: of looking again.

    Raises:
        redis.RedisError: Redis is unavailable.
    """
    return await _NamespaceCheck(client, live, build, sample, on_progress, stop, limits).run()


class _Found:
    """What was found in some partitions."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.differences: dict[Subject, NamespaceDifference] = {}
        self.other_differences = 0


class _NamespaceCheck:
    def __init__(
        self,
        client: Client,
        live: Namespace,
        build: Namespace,
        sample: int,
        on_progress: OnProgress,
        stop: Callable[[], bool],
        limits: Limits,
    ) -> None:
        self._client = client
        self._live, self._build = live, build
        self._sample = sample
        self._on_progress = on_progress
        self._stop = stop
        self._limits = limits
        self._quick = Limits(min(limits.looks, QUICK.looks), *map(min, limits[1:], QUICK[1:]))
        self._done = 0
        self._kept = 0

    async def run(self) -> CheckReport:
        compared, is_complete = Counter(dict.fromkeys(["attendances", *_NAMES.values()], 0)), True
        differences, others = list[NamespaceDifference](), 0
        for pair in self._pairs():
            found = await self._compared(*pair)
            if found is None:
                is_complete = False
                continue
            compared.update(found.compared)
            differences += found.differences.values()
            others += found.other_differences
            self._kept = len(differences)
        count, differences = len(differences) + others, differences[:MOST_DIFFERENCES]
        result = [self._live.name, self._build.name, dict(compared), count, differences, is_complete]
        digest = blake2b(orjson.dumps(result, option=orjson.OPT_SORT_KEYS, default=str), digest_size=8).hexdigest()
        return CheckReport(digest, dict(compared), count, differences, is_complete)

    def _pairs(self) -> list[tuple[Side, Side]]:
        """What is compared with each other: partition with partition, or, where their numbers differ, all with all."""
        numbers = [range(each.partitions) for each in (self._live, self._build)]
        if numbers[0] == numbers[1]:
            return [(self._side(self._live, [number]), self._side(self._build, [number])) for number in numbers[0]]
        return [(self._side(self._live, numbers[0]), self._side(self._build, numbers[1]))]

    def _side(self, namespace: Namespace, numbers: Sequence[int]) -> Side:
        return Side(self._client, namespace, numbers)

    async def _compared(self, live: Side, build: Side) -> _Found | None:
        """Compares two sides; anew, if keys are replaced meanwhile. None: stopped, or that happened too often."""
        for _ in range(_ATTEMPTS):
            while not (await live.open() and await build.open()):
                if self._stop():
                    return None
                await asyncio.sleep(_WAIT_SECONDS)
            try:
                found = await self._compare(live, build)
                # keys that were replaced meanwhile had no members
                await live.positions()
                await build.positions()
            except Replaced:
                continue
            return found
        return None

    async def _compare(self, live: Side, build: Side) -> _Found | None:
        found, candidates = _Found(), dict[Subject, Candidate]()
        async with aclosing(self._slices(live, build)) as slices:
            async for subjects in slices:
                if self._stop():
                    return None
                values = [[value for value, _ in await side.values(subjects)] for side in (live, build)]
                now = monotonic()
                for subject, one, other in zip(subjects, *values, strict=True):
                    if one != other and normal(one) != normal(other):
                        candidates[subject] = Candidate((one, other), now)
                self._count(found, subjects, values[0])
                if len(candidates) >= _SETTLED_AT_ONCE:
                    await self._settle(live, build, candidates, found)
        await self._settle(live, build, candidates, found)
        return None if candidates else found

    def _count(self, found: _Found, subjects: Sequence[Subject], values: Sequence[bytes | None]) -> None:
        for subject, value in zip(subjects, values, strict=True):
            if subject.kind != "count":
                found.compared[_NAMES[subject.kind]] += 1
            elif subject.place[1] in STATUS_COUNTS:
                found.compared["attendances"] += int(value or 0)
        self._done += len(subjects)
        self._on_progress(self._done)

    async def _settle(self, live: Side, build: Side, candidates: dict[Subject, Candidate], found: _Found) -> None:
        """Looks again at these until none is left, or it was stopped."""
        if not candidates:
            return
        began, reached = monotonic(), 0.0
        target = _newest(await live.positions(), await build.positions())
        while candidates and not self._stop():
            limits = self._limits if self._kept + len(found.differences) < MOST_DIFFERENCES else self._quick
            await asyncio.sleep(limits.interval)
            positions = await live.positions(), await build.positions()
            if not reached and all(_has_reached(each, target) for each in positions):
                reached = monotonic()
            subjects = list(candidates)
            looks = await live.values(subjects), await build.values(subjects)
            await live.positions()
            await build.positions()
            now = monotonic()
            for subject, *both in zip(subjects, *looks, strict=True):
                candidate = candidates[subject]
                values, offsets = zip(*both, strict=True)
                is_equal = candidate.see(values, offsets, now)
                if not is_equal and (not live.has_position or now - began > limits.longest):
                    is_equal = not candidate.mismatches and candidate.had_same_value
                if is_equal:
                    del candidates[subject]
                elif now - began > limits.longest or candidate.is_certain(limits, now, reached):
                    del candidates[subject]
                    self._add(found, subject, candidate)

    def _add(self, found: _Found, subject: Subject, candidate: Candidate) -> None:
        if self._kept + len(found.differences) >= MOST_DIFFERENCES:
            found.other_differences += 1
            return
        values = (shown_value(subject, value) for value in candidate.now)
        found.differences[subject] = NamespaceDifference(subject.kind, subject.name, *values)

    async def _slices(self, live: Side, build: Side) -> AsyncGenerator[list[Subject]]:
        """What is compared, some at a time."""
        yield [Subject("count", (COUNT, name)) for name in COUNTS]
        async for sessions in _sessions(live, build):
            yield [Subject("session", (tally_key(name), b"")) for name in sessions]
            yield [Subject("start", (SESSIONS_START, name)) for name in sessions]
        async for places in self._members(live, build, "summary", summary_keys()):
            yield [Subject("summary", place, place[1]) for place in places]
        async for places in self._members(live, build, "alert", [ALERTS]):
            yield [Subject("alert", place) for place in places]
        if await self._has_all_devices(live, build):
            async for places in self._members(live, build, "device", [DEVICES]):
                yield [Subject("device", place) for place in places]
        async for subjects in self._sampled(live, build):
            yield subjects

    async def _has_all_devices(self, live: Side, build: Side) -> bool:
        """Whether both sides keep the same ones: of more than a partition keeps, it depends on its bookings which these are."""
        return live.numbers == build.numbers or max(await live.most_devices(), await build.most_devices()) < MOST_DEVICES

    async def _members(self, live: Side, build: Side, kind: str, names: Sequence[bytes]) -> AsyncIterator[list[Place]]:
        """Every place of these keys in the live namespace, then those that only the build has."""
        async for places in live.members(names):
            yield places
        async for places in build.members(names):
            subjects = [Subject(kind, place, place[1] if kind == "summary" else b"") for place in places]
            values = await live.values(subjects)
            yield [place for place, (value, _) in zip(places, values, strict=True) if value is None]

    async def _sampled(self, live: Side, build: Side) -> AsyncIterator[list[Subject]]:
        drawn = list[Subject]()
        for side, namespace in ((live, self._live), (build, self._build)):
            drawn += await side.random_attendances(-(-self._sample * len(side.numbers) // namespace.partitions))
        for subjects in batches(list(dict.fromkeys(drawn))):
            yield list(subjects)
        for name in {*await live.random_sessions(_SESSIONS), *await build.random_sessions(_SESSIONS)}:
            async for places in self._members(live, build, "roster", [roster_key(name)]):
                yield [Subject("roster", place, place[1]) for place in places]


#: What each kind is called where it is counted.
_NAMES = {
    "session": "tallies",
    "start": "starts",
    "summary": "summaries",
    "alert": "alerts",
    "device": "devices",
    "attendance": "sample",
    "roster": "rosterEntries",
}


async def _sessions(live: Side, build: Side) -> AsyncIterator[list[bytes]]:
    """The sessions of both sides by bytes, some at a time."""
    after = b""
    while True:
        pages = [await live.sessions(after), await build.sessions(after)]
        # what one page ends before, the other one may have
        ends = [names[-1] for names, is_last in pages if not is_last]
        names = sorted({name for page, _ in pages for name in page if not ends or name <= min(ends)})
        for some in batches(names):
            yield list(some)
        if not ends:
            return
        after = min(ends)


def _newest(one: Mapping[tuple[str, int], int], other: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
    return {each: max(one[each], other[each]) for each in one.keys() & other.keys()}


def _has_reached(positions: Mapping[tuple[str, int], int], target: Mapping[tuple[str, int], int]) -> bool:
    return all(positions[each] >= offset for each, offset in target.items())
