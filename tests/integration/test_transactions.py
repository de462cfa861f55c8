"""Transactions of a writer: nothing is applied twice, or by an owner of before, whatever happens between its looks and EXEC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisGone

from tests.support.cores import make_commands
from tests.support.place import ATTENDED, NOT_ATTENDED, Pairs, Place, Unreliable, document, on, some, write
from tests.support.services import Redis
from worker.read_model.writer import Fenced, NeedsRepair
from worker.redis.exclusive import Exclusive

pytestmark = pytest.mark.skipif(make_commands() is None, reason="they need the native core, which `make test` builds")

Meanwhile = Callable[[Place], Awaitable[Any]]


def in_transactions(server: Redis, scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def running(place: Place) -> None:
        if place.make_commands is not None:
            await scenario(place)

    on(server, running)


@pytest.fixture
def before_exec(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Awaitable[Any]]]:
    """What is done, once each, after a writer has looked at the watermark and before its transaction is sent."""
    waiting: list[Callable[[], Awaitable[Any]]] = []
    ask = Exclusive.ask

    async def asking(self: Exclusive, packed: bytes, count: int) -> list[Any]:
        if b"EXEC" in packed and waiting:
            await waiting.pop()()
        return await ask(self, packed, count)

    monkeypatch.setattr(Exclusive, "ask", asking)
    return waiting


async def read_models(place: Place) -> dict[str, bytes]:
    """Everything but the watermark."""
    return {key: held for key, held in (await place.content()).items() if key != place.keys.watermark}


def changed(pairs: Pairs) -> Pairs:
    return {name: document(*name, (ATTENDED, 5)) for name in pairs}


def test_a_claim_before_exec_refuses_it(redis_server: Redis, before_exec: list[Any]) -> None:
    async def scenario(place: Place) -> None:
        old = await place.owner(some(30))
        before = await read_models(place)
        before_exec.append(place.writer().claim)
        with pytest.raises(Fenced):
            await old.apply(write(*changed(some(30)).items(), before=some(30)))
        assert not before_exec
        assert await read_models(place) == before

    in_transactions(redis_server, scenario)


def test_a_heartbeat_before_exec_only_delays_it(redis_server: Redis, before_exec: list[Any]) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(30))
        before_exec.append(lambda: owner.heartbeat({"events.end": 9}))
        await owner.apply(write(*changed(some(30)).items(), before=some(30)))
        assert not before_exec
        assert await place.holds(changed(some(30)))
        assert await place.mark("events.end") == "9"

    in_transactions(redis_server, scenario)


@pytest.mark.parametrize("loss", ["flush", "older data"])
def test_data_that_is_lost_before_exec_is_repaired(redis_server: Redis, before_exec: list[Any], loss: str) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(30))
        await owner.apply(write(*some(30).items(), before={}))
        lose: Meanwhile = {
            "flush": lambda place: place.client.unlink(place.keys.watermark),
            "older data": lambda place: place.client.hincrby(place.keys.watermark, "seq", -1),
        }[loss]
        before_exec.append(lambda: lose(place))
        with pytest.raises(NeedsRepair):
            await owner.apply(write(*changed(some(30)).items(), before=some(30)))

    in_transactions(redis_server, scenario)


def test_a_damaged_key_is_repaired(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(30))
        roster = place.keys.prefix(await place.mark("keys")) + "roster:s1"
        await place.client.unlink(roster)
        await place.client.set(roster, "by hand")
        missed: Pairs = {name: document(*name, (NOT_ATTENDED, 0)) for name in some(30)}
        with pytest.raises(NeedsRepair):
            await owner.apply(write(*missed.items(), before=some(30)))

    in_transactions(redis_server, scenario)


def test_a_connection_that_was_closed_is_replaced(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner, pairs = await place.owner(some(30)), some(30)
        for number in range(3):
            now: Pairs = {name: document(*name, (ATTENDED, 2 + number)) for name in pairs}
            batch = write(*now.items(), before=pairs)
            await until_applied(owner, batch)
            assert await place.holds(now)
            pairs = now
            async with place.client.exclusive() as connection:  # type: ignore[union-attr]
                (number_of_client,) = await connection.ask(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", 1)
            await place.client.client_kill_filter(_id=number_of_client)  # type: ignore[union-attr]

    in_transactions(redis_server, scenario)


async def until_applied(owner: Unreliable, batch: Any) -> None:
    """As a worker does it: again after a connection is lost."""
    for _ in range(5):
        try:
            await owner.apply(batch)
        except RedisGone:
            continue
        return
    raise AssertionError("no connection is replaced")
