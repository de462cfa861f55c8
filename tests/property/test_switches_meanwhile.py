"""Questions while key generations and namespaces are switched: the whole answer or NotServing, never a part as the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.alerts import AlertKind
from schemas.query.request import parse_filter, parse_query
from tests.support.attending import World
from tests.support.examples import examples
from tests.support.filled import Filled
from tests.support.interleaving import Interleaving
from tests.support.services import Redis
from worker.read_model.keys import namespaces
from worker.read_model.reader import AttendanceReader, NotServing
from worker.redis.client import create_redis, masters
from worker.settings import load_settings

PARTITIONS = 3
#: Of the long test; those of a cluster take ten times as long.
ANSWERS = {"single": 100_000, "cluster": 10_000}
Question = Callable[[AttendanceReader], Awaitable[Any]]


class Scene:
    """Read models whose content stands still, and what each question must answer about it."""

    def __init__(self, redis: Redis, seed: int) -> None:
        self._runner = asyncio.Runner()
        self._settings = load_settings(_env_file=None, redis=redis.url)
        self._world = World(seed, sessions=4, most=24)
        self._builds = 0
        self.run(self._open())

    def run(self, work: Awaitable[Any]) -> Any:
        async def running() -> Any:
            return await work

        return self._runner.run(running())

    async def _open(self) -> None:
        self.filled = Filled(create_redis(self._settings), PARTITIONS)
        self.client = create_redis(self._settings)
        await self.filled.open()
        pairs = self._world.pairs()
        await self.filled.apply(self._world.list_sessions(pairs))
        await self.filled.apply(self._world.happen(pairs[: len(pairs) * 4 // 5]))
        self.questions = await self._questions()
        reader = self.filled.reader()
        self.expected = [_bare(await ask(reader)) for ask in self.questions]
        assert all(answer not in (None, 0, [], {}) for answer in self.expected)

    async def _questions(self) -> Sequence[Question]:
        document = next(iter(self._world.documents.values()))
        booking, session, attendance = document["bookingId"], document["sessionId"], document["id"]
        page = {"query": {"sort": [{"fieldName": "sessionId"}], "cursorPaging": {"limit": 5}}}["query"]
        first = await self.filled.reader().query(parse_query(page))
        second = {"cursorPaging": {"cursor": first.next, "limit": 7}}
        by_groups = {"sort": [{"fieldName": "numberOfAttendees"}, {"fieldName": "bookingId", "order": "DESC"}]}
        return [
            lambda reader: reader.session(session),
            lambda reader: reader.get(attendance),
            lambda reader: reader.booking(booking),
            lambda reader: reader.query(parse_query({})),
            lambda reader: reader.count(parse_filter({})),
            lambda reader: reader.alerts(),
            lambda reader: reader.no_shows(),
            lambda reader: reader.query(parse_query(second)),
            lambda reader: reader.query(parse_query(by_groups)),
            lambda reader: reader.query(parse_query({"filter": {"bookingId": booking}})),
            lambda reader: reader.query(parse_query({"filter": {"sessionId": session}, "sort": [{"fieldName": "bookingId"}]})),
            lambda reader: reader.count(parse_filter({"sessionId": session, "bookingId": {"$ne": booking}})),
            lambda reader: reader.alerts(kind=AlertKind.STATUS_COUNT_MISMATCH, session_id=session),
            lambda reader: reader.count_alerts(AlertKind.STATUS_COUNT_MISMATCH),
            lambda reader: reader.count_bookings(),
            lambda reader: reader.sessions(),
            lambda reader: reader.latest(booking, session),
        ]

    async def rebuild(self) -> None:
        """Another namespace becomes the live one; the data of the one before go, its watermarks stay as they were."""
        self._builds += 1
        await self.filled.rebuild(PARTITIONS + self._builds % 2)
        for master in await masters(self.filled._client):
            old = f"{namespaces(self.filled.base)}{self._builds - 1}:*"
            keys = [key async for key in master.scan_iter(old, count=5000) if not key.endswith(b":watermark")]
            if keys:
                async with master.pipeline(transaction=False) as pipe:
                    for key in keys:
                        pipe.unlink(key)
                    await pipe.execute()

    def changes(self, kinds: Sequence[str]) -> list[Callable[[], Awaitable[None]]]:
        """What they do, ending with partitions that all serve."""
        found: list[Callable[[], Awaitable[None]]] = []
        for kind in kinds:
            if kind == "rebuild":
                found.append(self.rebuild)
            elif kind == "all":
                found += [self._repair(number) for number in range(PARTITIONS)]
            else:
                found += [self._begin(int(kind)), self._repair(int(kind))]
        return found

    def _begin(self, number: int) -> Callable[[], Awaitable[None]]:
        return lambda: self.filled.begin_repair(number)

    def _repair(self, number: int) -> Callable[[], Awaitable[None]]:
        return lambda: self.filled.repair(number)

    def close(self) -> None:
        self.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        await self.filled.clear()
        await self.filled._client.aclose()
        await self.client.aclose()


@contextmanager
def scene_on(redis: Redis) -> Iterator[Scene]:
    scene = Scene(redis, 4)
    try:
        yield scene
    finally:
        scene.close()


@pytest.fixture(scope="module")
def single(redis_server: Redis) -> Iterator[Scene]:
    with scene_on(redis_server) as scene:
        yield scene


@pytest.fixture(scope="module")
def cluster(redis_cluster: Redis) -> Iterator[Scene]:
    with scene_on(redis_cluster) as scene:
        yield scene


def _bare(answer: Any) -> Any:
    """Without freshness, which moves."""
    return {name: part for name, part in answer.items() if name != "freshness"} if isinstance(answer, dict) else answer


_KINDS = st.sampled_from(["0", "1", "2", "all", "rebuild"])


@pytest.mark.parametrize("place", ["single", "cluster"])
def test_every_answer_is_whole_however_switches_come_between(request: pytest.FixtureRequest, place: str) -> None:
    scene: Scene = request.getfixturevalue(place)

    answered = 0

    @settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        asked=st.lists(st.integers(0, len(scene.questions) - 1), min_size=2, max_size=5),
        kinds=st.lists(_KINDS, min_size=1, max_size=3),
        is_warm=st.booleans(),
        order=st.lists(st.integers(0, 11), max_size=80),
    )
    def law(asked: list[int], kinds: list[str], is_warm: bool, order: list[int]) -> None:
        nonlocal answered
        answered += scene.run(_interleaved(scene, asked, kinds, is_warm=is_warm, order=order))

    law()
    assert answered > examples(60)


async def _interleaved(scene: Scene, asked: list[int], kinds: list[str], *, is_warm: bool, order: list[int]) -> int:
    """Asserts that no answer is wrong; how many there were."""
    chosen = iter(order)
    reader = AttendanceReader(scene.client, scene.filled.base)
    if is_warm:
        await reader.session("any")
    steps = Interleaving(scene.client, lambda below: next(chosen, 0) % below)
    try:
        answers = await steps.run([lambda ask=scene.questions[number]: ask(reader) for number in asked], scene.changes(kinds))
    finally:
        steps.restore()
    answered = 0
    for number, answer in zip(asked, answers, strict=True):
        if not isinstance(answer, NotServing):
            assert _bare(answer) == scene.expected[number], f"question {number}"
            answered += 1
    return answered


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", ["single", "cluster"])
def test_no_answer_of_many_is_wrong_during_repairs(request: pytest.FixtureRequest, place: str) -> None:
    scene: Scene = request.getfixturevalue(place)
    assert scene.run(_during_repairs(scene, ANSWERS[place])) >= ANSWERS[place]


async def _during_repairs(scene: Scene, many: int) -> int:
    """As many answers as are wanted, of readers that live for fifteen questions at once and of one that lives on."""
    answered, over = 0, False
    warm, last = AttendanceReader(scene.client, scene.filled.base), len(scene.questions) - 1

    async def ask(reader: AttendanceReader, number: int) -> None:
        nonlocal answered
        try:
            answer = await scene.questions[number](reader)
        except NotServing:
            await asyncio.sleep(0.005)
            return
        assert _bare(answer) == scene.expected[number], f"question {number}"
        answered += 1

    async def keep_asking(rng: Random) -> None:
        while answered < many:
            reader = AttendanceReader(scene.client, scene.filled.base) if rng.random() < 0.5 else warm
            await asyncio.gather(*(ask(reader, rng.randint(0, last)) for _ in range(15)))

    async def keep_switching(rng: Random) -> None:
        while not over:
            if rng.random() < 0.02:
                await scene.rebuild()
            await scene.filled.repair(rng.randrange(PARTITIONS))
            await asyncio.sleep(rng.random() / 20)

    switching = asyncio.create_task(keep_switching(Random(1)))
    try:
        async with asyncio.TaskGroup() as asking:
            for seed in range(4):
                asking.create_task(keep_asking(Random(seed)))
    finally:
        over = True
        await switching
    return answered
