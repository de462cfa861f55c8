"""Operations: one at a time for each target, resumed where they were, and never run by two processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import pytest

from tests.support.services import Redis, RedisServer
from worker.read_model import operations as module
from worker.read_model.operations import OperationError, Operations, State
from worker.read_model.operations_page import operations_page
from worker.redis import client as redis_client
from worker.redis.client import create_redis
from worker.settings import load_settings


@pytest.fixture(params=["server", "cluster"])
def redis_server(request: pytest.FixtureRequest, redis_server: Redis) -> Redis:
    """One server, then a cluster: what is below holds for both."""
    return redis_server if request.param == "server" else request.getfixturevalue("redis_cluster")


Work = Callable[[asyncio.Event], Coroutine[Any, Any, bool]]


def on(server: Redis, scenario: Callable[[Operations], Awaitable[None]]) -> None:
    """Runs a scenario on operations of a namespace of its own."""

    async def running() -> None:
        client = create_redis(load_settings(_env_file=None, redis=server.url))
        try:
            await scenario(Operations(client, f"test-{uuid4().hex[:12]}"))
        finally:
            await client.aclose()

    asyncio.run(running())


def test_an_operation_is_listed_as_it_goes(redis_server: Redis) -> None:
    async def scenario(operations: Operations) -> None:
        running = await operations.begin("replay", "events", {"from": "x"}, {"0": 9})
        await running.save({"0": 4}, {"read": 4})
        (one,) = await operations.all()
        assert one.document() | {"startedAt": "", "savedAt": ""} == {
            "id": running.operation.id,
            "command": "replay",
            "target": "events",
            "state": "RUNNING",
            "request": {"from": "x"},
            "position": {"0": 4},
            "end": {"0": 9},
            "counts": {"read": 4},
            "startedAt": "",
            "savedAt": "",
        }
        await running.finish()
        assert [each.state for each in await operations.all()] == [State.DONE]

    on(redis_server, scenario)


def test_pages_of_operations_need_no_live_namespace(redis_server: Redis) -> None:
    async def running() -> None:
        client, base = create_redis(load_settings(_env_file=None, redis=redis_server.url)), f"test-{uuid4().hex[:12]}"
        try:
            begun = [(await Operations(client, base).begin("archive", f"folder {n}", {}, {})).operation.id for n in range(5)]
            seen, cursor = list[str](), None
            for size in (2, 2, 1):
                page = await operations_page(client, base, 2, cursor)
                seen += [each.id for each in page.items]
                assert len(page.items) == size
                cursor = page.next
            assert (seen, cursor) == (begun[::-1], None)
        finally:
            await client.aclose()

    asyncio.run(running())


def test_a_second_operation_of_a_target_is_refused(redis_server: Redis) -> None:
    async def scenario(operations: Operations) -> None:
        first = await operations.begin("replay", "events", {}, {})
        with pytest.raises(OperationError, match=first.operation.id):
            await operations.begin("replay", "events", {}, {})
        await operations.begin("archive", "folder", {}, {})
        await first.finish()
        await operations.begin("replay", "events", {}, {})
        assert len(await operations.all()) == 3

    on(redis_server, scenario)


def test_of_many_that_begin_at_once_one_runs(redis_server: Redis) -> None:
    async def scenario(operations: Operations) -> None:
        begun = [operations.begin("replay", "events", {}, {}) for _ in range(10)]
        outcomes = await asyncio.gather(*begun, return_exceptions=True)
        assert sum(isinstance(each, OperationError) for each in outcomes) == 9

    on(redis_server, scenario)


def test_a_paused_operation_resumes_at_its_position(redis_server: Redis) -> None:
    async def scenario(operations: Operations) -> None:
        first = await operations.begin("replay", "events", {"rate": 5}, {"0": 9})
        await first.save({"0": 4}, {"read": 4})
        with pytest.raises(OperationError, match="another process"):
            await operations.resume(first.operation.id, "replay")
        await first.pause("Kafka is unavailable")
        with pytest.raises(OperationError, match="attendance replay"):
            await operations.resume(first.operation.id, "archive")
        second = await operations.resume(first.operation.id, "replay")
        assert (second.operation.position, second.operation.request) == ({"0": 4}, {"rate": 5})
        with pytest.raises(OperationError, match="another process"):
            await first.save({"0": 9})
        await second.finish()
        for late in (first.save({"0": 9}), first.pause(), first.finish()):
            with pytest.raises(OperationError, match="another process"):
                await late
        assert [each.state for each in await operations.all()] == [State.DONE]
        with pytest.raises(OperationError, match="DONE"):
            await operations.resume(first.operation.id, "replay")

    on(redis_server, scenario)


def test_an_operation_of_a_dead_process_can_be_resumed(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALE_SECONDS", 0.0)

    async def scenario(operations: Operations) -> None:
        dead = await operations.begin("replay", "events", {}, {})
        await asyncio.sleep(0.01)
        assert [each.state for each in await operations.all()] == [State.PAUSED]
        alive = await operations.resume(dead.operation.id, "replay")
        await alive.finish()
        with pytest.raises(OperationError, match="another process"):
            await dead.save()
        assert [each.state for each in await operations.all()] == [State.DONE]

    on(redis_server, scenario)


def test_an_aborted_operation_frees_its_target(redis_server: Redis) -> None:
    async def scenario(operations: Operations) -> None:
        first = await operations.begin("replay", "events", {}, {})
        with pytest.raises(OperationError, match="another process"):
            await operations.abort(first.operation.id, "replay")
        await first.pause()
        assert (await operations.abort(first.operation.id, "replay")).state is State.ABORTED
        with pytest.raises(OperationError, match="nothing to abort"):
            await operations.abort(first.operation.id, "replay")
        await operations.begin("replay", "events", {}, {})
        with pytest.raises(OperationError, match="no operation has the id x"):
            await operations.abort("x", "replay")

    on(redis_server, scenario)


def test_the_oldest_that_have_ended_leave_first(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 2)

    async def scenario(operations: Operations) -> None:
        ids = []
        for number in range(5):
            running = await operations.begin("archive", f"folder {number}", {}, {})
            ids.append(running.operation.id)
            if number:
                await running.finish()
        kept = [each.id for each in await operations.all()]
        assert kept == [*ids[:1:-1], ids[0]], "the one that runs is kept however old it is"

    on(redis_server, scenario)


async def is_done(stop: asyncio.Event) -> bool:
    return not stop.is_set()


async def fails(stop: asyncio.Event) -> bool:
    raise ValueError("no room")


async def hangs(stop: asyncio.Event) -> bool:
    await asyncio.sleep(60)
    return True


@pytest.mark.parametrize(
    ("work", "stops", "state", "error"),
    [
        (is_done, False, State.DONE, ""),
        (is_done, True, State.PAUSED, ""),
        (hangs, True, State.PAUSED, ""),
        (fails, False, State.PAUSED, "no room"),
    ],
)
def test_what_does_not_come_to_its_end_is_paused(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch, work: Work, stops: bool, state: State, error: str
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)

    async def scenario(operations: Operations) -> None:
        running, stop = await operations.begin("replay", "events", {}, {}), asyncio.Event()
        if stops:
            stop.set()
        with pytest.raises(ValueError, match=error) if error else nullcontext():
            assert await running.run_until(stop, work(stop)) is (state is State.DONE)
        (kept,) = await operations.all()
        assert (kept.state, kept.error) == (state, error)

    on(redis_server, scenario)


def test_of_many_that_resume_at_once_one_goes_on(redis_server: Redis) -> None:
    async def scenario(operations: Operations) -> None:
        first = await operations.begin("replay", "events", {}, {})
        await first.pause()
        resumed = [operations.resume(first.operation.id, "replay") for _ in range(10)]
        outcomes = await asyncio.gather(*resumed, return_exceptions=True)
        assert sum(isinstance(each, OperationError) for each in outcomes) == 9

    on(redis_server, scenario)


def test_an_aborted_operation_stays_aborted(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a process that was suspended does when it wakes."""
    monkeypatch.setattr(module, "STALE_SECONDS", 0.0)

    async def scenario(operations: Operations) -> None:
        suspended = await operations.begin("replay", "events", {}, {})
        await asyncio.sleep(0.01)
        with pytest.raises(OperationError, match="of `attendance replay`"):
            await operations.abort(suspended.operation.id, "archive")
        await operations.abort(suspended.operation.id, "replay")
        with pytest.raises(OperationError, match="another process"):
            await suspended.save({"0": 1})
        assert [each.state for each in await operations.all()] == [State.ABORTED]

    on(redis_server, scenario)


def test_a_save_outlasts_a_redis_that_does_not_answer(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_client, "ANSWER_SECONDS", 0.5)

    async def scenario(operations: Operations) -> None:
        running = await operations.begin("replay", "events", {}, {})
        own_redis.pause()
        saving = asyncio.create_task(running.save({"0": 4}))
        try:
            done, _ = await asyncio.wait((saving,), timeout=1.0)
            assert not done
        finally:
            own_redis.resume()
        await saving
        assert [each.position for each in await operations.all()] == [{"0": 4}]

    on(own_redis, scenario)
