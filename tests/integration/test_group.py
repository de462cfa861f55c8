"""One Redis for all workers of a group, and the same settings: who does not fit is refused before it joins."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.faults.group import members
from tests.support.odd_worker import odd
from tests.support.services import Broker, Redis, RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import System, WorkerProcess, running
from worker.kafka import create_producer
from worker.ops import session_timeout, topics
from worker.read_model.identity import NO_ID, RedisId, read_id, replace_id
from worker.read_model.keys import PartitionKeys, namespace
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.stream import group
from worker.stream.errors import SettingsConflict
from worker.stream.group import Group, GroupRecord, count_members
from worker.topics import TopicNames, group_changelog

REFUSED_SECONDS = 60


@pytest.fixture(scope="module")
def other_redis() -> Iterator[RedisServer]:
    """A second Redis, empty unless a test has written to it."""
    with RedisServer() as server:
        yield server


class Tenant:
    """Topics of its own, and what workers that start on this or that Redis do before they join."""

    def __init__(self, kafka: Broker, **given: Any) -> None:
        prefix = f"t{uuid4().hex[:10]}"
        common = {"broker": kafka.url, "topic_prefix": prefix, "partitions": 2, "session_timeout": "6s"}
        self._settings = {**common, **given}

    def settings(self, redis: Redis, **other: Any) -> Settings:
        return Settings(_env_file=None, **{**self._settings, "redis": redis.url, **other})  # type: ignore[call-arg]

    async def create(self, redis: Redis) -> None:
        await topics.create(self.settings(redis))

    async def agree(self, redis: Redis, **other: Any) -> str:
        """What the Redis carries once a worker has agreed."""
        return await self._do(Group.agree, redis, **other)

    async def check(self, redis: Redis) -> str:
        """The same of a worker that was given partitions."""
        return await self._do(Group.check, redis)

    async def _do(self, what: Callable[[Group], Awaitable[None]], redis: Redis, **other: Any) -> str:
        async with AsyncExitStack() as stack:
            settings = self.settings(redis, **other)
            producer: AIOKafkaProducer = create_producer(settings)
            await producer.start()
            stack.push_async_callback(producer.stop)
            client = create_redis(settings)
            stack.push_async_callback(client.aclose)
            await what(Group(settings, producer, client))
            found = await read_id(client, settings.redis_namespace)
            assert found.replaces is None, found
            return found.id

    async def record(self, redis: Redis, record: GroupRecord) -> None:
        """What a worker on some Redis records."""
        settings = self.settings(redis)
        producer: AIOKafkaProducer = create_producer(settings)
        await producer.start()
        try:
            key, topic = record.redis_id.encode(), group_changelog(settings.topic_prefix)
            await producer.send_and_wait(topic, key=key, value=record.encode(), partition=0)
        finally:
            await producer.stop()

    async def set_id(self, redis: Redis, known: RedisId, new: RedisId) -> None:
        client = create_redis(self.settings(redis))
        try:
            assert await replace_id(client, self.settings(redis).redis_namespace, known, new) == new
        finally:
            await client.aclose()


async def outcomes(*work: Coroutine[Any, Any, str]) -> list[str | None]:
    """What each came to; None where it was refused."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            assert isinstance(each, SettingsConflict), each
            assert "ATTENDANCE_REDIS" in str(each)
    return [None if isinstance(each, BaseException) else each for each in found]


def test_first_workers_on_one_redis_agree_at_once(kafka: Broker, own_redis: RedisServer) -> None:
    async def starting() -> None:
        tenant = Tenant(kafka)
        await tenant.create(own_redis)
        ids = await outcomes(*(tenant.agree(own_redis) for _ in range(4)))
        assert len({*ids}) == 1
        assert ids[0]
        assert await tenant.agree(own_redis) == ids[0]

    asyncio.run(starting())


@pytest.mark.parametrize("reading", ["record", "id"])
@pytest.mark.parametrize("found", [NO_ID, RedisId("of topics that were deleted")])
def test_a_worker_agrees_while_another_one_reads(
    kafka: Broker, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, reading: str, found: RedisId
) -> None:
    """What the second one has read first is of the time before the first agreed, what it reads next is not."""
    monkeypatch.setattr(group, "_SILENT_SECONDS", 0.0)
    tenant, first = Tenant(kafka), list[str]()
    read_record, read_redis = Group._read_record, read_id

    async def agree_meanwhile(just_read: str) -> None:
        if just_read == reading and not first:
            first.append("")
            first.append(await tenant.agree(own_redis))

    async def record(self: Group) -> GroupRecord | None:
        answer = await read_record(self)
        await agree_meanwhile("record")
        return answer

    async def redis_id(*given: Any) -> RedisId:
        answer = await read_redis(*given)
        await agree_meanwhile("id")
        return answer

    async def starting() -> None:
        await tenant.create(own_redis)
        if found != NO_ID:
            await tenant.set_id(own_redis, NO_ID, found)
        monkeypatch.setattr(Group, "_read_record", record)
        monkeypatch.setattr(group, "read_id", redis_id)
        assert await tenant.agree(own_redis) == first[-1]

    asyncio.run(starting())


def test_of_first_workers_on_two_redis_one_is_refused(kafka: Broker, own_redis: RedisServer, other_redis: RedisServer) -> None:
    async def starting() -> None:
        tenant = Tenant(kafka)
        await tenant.create(own_redis)
        first = await outcomes(tenant.agree(own_redis), tenant.agree(other_redis))
        # one that began a little later may have taken over, as long as nobody is in the group: the first finds it when it joins
        joined = await outcomes(tenant.check(own_redis), tenant.check(other_redis))
        assert len([each for each in joined if each]) == 1, (first, joined)

    asyncio.run(starting())


def test_a_redis_flushed_between_runs_gets_a_new_id(kafka: Broker, own_redis: RedisServer, other_redis: RedisServer) -> None:
    async def starting() -> None:
        tenant = Tenant(kafka)
        await tenant.create(own_redis)
        before = await tenant.agree(own_redis)
        # an empty one takes its place, since nobody is in the group, and is the right one from then on
        after = await tenant.agree(other_redis)
        assert after not in ("", before)
        assert await outcomes(tenant.agree(own_redis)) == [None]
        own_redis.ask("HDEL", f"{tenant.settings(own_redis).redis_namespace}:live", "redisId")
        assert await tenant.agree(own_redis) not in ("", before, after)

    asyncio.run(starting())


@pytest.mark.parametrize("flushed", [False, True])
def test_a_worker_that_died_before_it_recorded_its_claim(kafka: Broker, own_redis: RedisServer, flushed: bool) -> None:
    async def starting() -> None:
        tenant = Tenant(kafka)
        await tenant.create(own_redis)
        before = ""
        if flushed:
            before = await tenant.agree(own_redis)
            own_redis.ask("FLUSHALL")
        await tenant.set_id(own_redis, NO_ID, RedisId("claimed", before))
        assert await tenant.agree(own_redis) == "claimed"

    asyncio.run(starting())


def test_a_claim_that_came_too_late_is_void(kafka: Broker, own_redis: RedisServer) -> None:
    async def starting() -> None:
        tenant = Tenant(kafka)
        await tenant.create(own_redis)
        await tenant.agree(own_redis)
        own_redis.ask("FLUSHALL")
        await tenant.set_id(own_redis, NO_ID, RedisId("late", "long ago"))
        assert await tenant.agree(own_redis) not in ("", "late")

    asyncio.run(starting())


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_worker_that_waits_for_members_sees_their_id(kafka: Broker, own_redis: RedisServer, taken_over: bool) -> None:
    """They write it back after a flush; or others start meanwhile, find nobody in the group and take over."""

    async def starting() -> None:
        tenant = Tenant(kafka, session_timeout="30s")
        await tenant.create(own_redis)
        before = await tenant.agree(own_redis)
        settings = tenant.settings(own_redis)
        own_redis.ask("FLUSHALL")
        member = AIOKafkaConsumer(
            TopicNames.of(settings.topic_prefix).events, **settings.kafka_client(), group_id=settings.topic_prefix
        )
        await member.start()
        waiting = asyncio.create_task(tenant.agree(own_redis))
        try:
            async with asyncio.timeout(30):
                while not await count_members(settings):  # noqa: ASYNC110 - Kafka does not notify
                    await asyncio.sleep(0.05)
            await asyncio.wait([waiting], timeout=1)
            assert not waiting.done()
            now = RedisId("new") if taken_over else RedisId(before)
            if taken_over:
                await tenant.record(own_redis, GroupRecord(now.id, before, settings.shaping()))
            await tenant.set_id(own_redis, NO_ID, now)
            assert await asyncio.wait_for(waiting, 20) == now.id
        finally:
            waiting.cancel()
            await member.stop()

    asyncio.run(starting())


def test_settings_that_shape_results_are_refused_before_joining(kafka: Broker, own_redis: RedisServer) -> None:
    async def starting() -> None:
        tenant = Tenant(kafka)
        await tenant.create(own_redis)
        await tenant.agree(own_redis)
        for name in ("clock_tolerance", "conflict_window", "max_event_age"):
            with pytest.raises(SettingsConflict, match=f"ATTENDANCE_{name.upper()}: .* here it is 61m: set "):
                await tenant.agree(own_redis, **{name: "61m"})
        await tenant.agree(own_redis, session_timeout="20s")

    asyncio.run(starting())


def test_another_group_that_writes_to_the_namespace(
    kafka: Broker, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused while its heartbeat is seen; topics that were made anew take over what the old ones left."""
    monkeypatch.setattr(group, "_SILENT_SECONDS", 1.0)

    async def starting() -> None:
        shared = f"n{uuid4().hex[:10]}"
        ours, theirs = Tenant(kafka, namespace=shared), Tenant(kafka, namespace=shared)
        await ours.create(own_redis)
        await theirs.create(own_redis)
        await theirs.agree(own_redis)
        watermark = PartitionKeys(namespace(shared), 1).watermark

        async def beating() -> None:
            for number in range(10_000):
                await asyncio.to_thread(own_redis.ask, "HSET", watermark, "writtenAt", str(number))
                await asyncio.sleep(0.05)

        beats = asyncio.create_task(beating())
        with pytest.raises(SettingsConflict, match="ATTENDANCE_NAMESPACE"):
            await ours.agree(own_redis)
        beats.cancel()
        await asyncio.gather(beats, return_exceptions=True)
        assert await ours.agree(own_redis)
        assert await outcomes(theirs.agree(own_redis)) == [None]

    asyncio.run(starting())


def test_a_session_timeout_that_the_broker_refuses(kafka: Broker, own_redis: RedisServer) -> None:
    tenant = Tenant(kafka)
    for timeout in ("5s", "31m", "30d"):
        (problem,) = asyncio.run(session_timeout.problems(tenant.settings(own_redis, session_timeout=timeout)))
        assert problem.startswith("ATTENDANCE_SESSION_TIMEOUT is ")
        assert "6s to 1800s" in problem
    for timeout in ("6s", "30m"):
        assert asyncio.run(session_timeout.problems(tenant.settings(own_redis, session_timeout=timeout))) == []


def test_a_session_timeout_refused_when_the_worker_joins(kafka: Broker, own_redis: RedisServer) -> None:
    """Where no broker says its limits: in one line too, and nobody rebalances for a member that was never taken."""
    with System(kafka, own_redis) as system:
        worker = system.start_worker(odd("knows no limits"), ATTENDANCE_SESSION_TIMEOUT="4s")
        assert worker.wait(REFUSED_SECONDS) == 1, worker.said()
        line = worker.log.read_text().splitlines()[-1]
        assert line.startswith("ATTENDANCE_SESSION_TIMEOUT: "), worker.said()
        assert "Traceback" not in worker.log.read_text()


def assigned(worker: WorkerProcess) -> int:
    """How often a worker was given partitions."""
    return worker.log.read_text().count("event=assigned")


def test_who_does_not_fit_never_makes_the_others_rebalance(
    kafka: Broker, own_redis: RedisServer, other_redis: RedisServer
) -> None:
    """Each is refused with one line, while one worker runs; afterwards its Redis is flushed, then taken away."""
    evicting = RedisServer()
    with evicting, running(System(kafka, own_redis)) as system:
        evicting.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        other_redis.ask("ACL", "SETUSER", "few", "on", ">few", "~*", "+@all", "-zadd")
        worker = system.workers[0]
        wrong: list[tuple[str, dict[str, str]]] = [
            ("ATTENDANCE_REDIS", {"ATTENDANCE_REDIS": other_redis.url}),
            ("ATTENDANCE_REDIS", {"ATTENDANCE_REDIS": evicting.url}),
            ("ATTENDANCE_REDIS", {"ATTENDANCE_REDIS": f"redis://few:few@{other_redis.address}/0"}),
            ("ATTENDANCE_CLOCK_TOLERANCE", {"ATTENDANCE_CLOCK_TOLERANCE": "6m"}),
            ("ATTENDANCE_SESSION_TIMEOUT", {"ATTENDANCE_SESSION_TIMEOUT": "5s"}),
        ]
        started = [(named, system.start_worker(**{**given, "ATTENDANCE_LOG_LEVEL": "ERROR"})) for named, given in wrong]
        for named, each in started:
            assert each.wait(REFUSED_SECONDS) == 1, each.said()
            (line,) = each.log.read_text().splitlines()
            assert line.startswith(named), line
            assert "few:few" not in line
        assert assigned(worker) == 1, worker.said()
        assert len(members(system)) == 1
        before = own_redis.ask("HGET", _live(system), "redisId")
        own_redis.ask("FLUSHALL")
        assert wait_until(lambda: own_redis.ask("HGET", _live(system), "redisId") == before, 20), worker.said()
        system.until_serving()
        own_redis.ask("HSET", _live(system), "redisId", "somebody-else")
        assert worker.wait(30) == 1, worker.said()
        lines = [line for line in worker.log.read_text().splitlines() if line.startswith("ATTENDANCE_REDIS: ")]
        assert len(lines) == 1, worker.said()
        assert "Traceback" not in worker.log.read_text()


def _live(system: System) -> str:
    return f"{system.settings.redis_namespace}:live"
