"""Redis is fenced: one writer per partition, repeats change nothing, what is lost is noticed and repaired as a whole."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisGone

from tests.support.place import (
    ATTENDED,
    MARKS,
    MINUTE,
    Pairs,
    Place,
    batches,
    document,
    on,
    random_pair,
    some,
    write,
)
from tests.support.services import Redis, RedisServer
from tests.support.system import attendances_of
from worker.read_model import write_batch
from worker.read_model import writer as writer_module
from worker.read_model.builds import Namespace, announce
from worker.read_model.lua_scripts import APPLY
from worker.read_model.reader import AttendanceReader, NotServing
from worker.read_model.transactions import Transactions
from worker.read_model.writer import Claim, Fenced, NeedsRepair
from worker.redis.scripts import Script


@pytest.fixture(params=["server", "cluster"])
def redis_server(request: pytest.FixtureRequest, redis_server: Redis) -> Redis:
    """One server, then a cluster: what is below holds for both."""
    return redis_server if request.param == "server" else request.getfixturevalue("redis_cluster")


def test_an_old_owner_is_refused_after_a_new_claim(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        old, new = await place.owner(some(3)), place.writer()
        assert await new.claim() == Claim(True, 7, 3)
        for refused in (
            lambda: old.apply(write((("b9", "s9"), document("b9", "s9")))),
            lambda: old.heartbeat({"events.end": 1}),
        ):
            before = await place.content()
            with pytest.raises(Fenced):
                await refused()
            assert await place.content() == before
        await new.apply(write((("b9", "s9"), document("b9", "s9"))))
        assert await place.holds({**some(3), ("b9", "s9"): document("b9", "s9")})

    on(redis_server, scenario)


@pytest.mark.parametrize("step", ["begin", "apply", "switch"])
def test_an_old_owner_in_the_middle_of_a_repair_is_refused(redis_server: Redis, step: str) -> None:
    """The new owner claims and repairs just before the old one's repair takes this step."""

    async def scenario(place: Place) -> None:
        await place.owner(some(50))
        old, new = place.writer(), place.writer()
        came = False

        def interrupted(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def running(script: Script | Transactions, *arguments: Any) -> Any:
                nonlocal came
                is_write = script is APPLY or isinstance(script, Transactions)
                if not came and (step == arguments[0] or (step == "apply" and is_write)):
                    came = True
                    await new.repair(batches(some(40)), MARKS)
                return await run(script, *arguments)

            return running

        old._run, old._run_all = interrupted(old._run), interrupted(old._run_all)  # type: ignore[method-assign]
        old._transact = interrupted(old._transact)  # type: ignore[method-assign]
        with pytest.raises(Fenced):
            await old.repair(batches(some(300)), MARKS)
        assert await place.holds(some(40))
        assert await place.mark("state") == "live"

    on(redis_server, scenario)


@pytest.mark.parametrize("known", [True, False])
def test_repeated_chunks_change_nothing(redis_server: Redis, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Chunks whose answers were lost are sent again; those that had been applied are not applied twice."""
    monkeypatch.setattr(writer_module, "CHUNK", 2)
    monkeypatch.setattr(writer_module, "TRANSACTION", 2)

    async def scenario(place: Place) -> None:
        # transactions do not travel together
        ahead = 3 if place.make_commands is None else 1
        monkeypatch.setattr(write_batch, "AHEAD", ahead)
        owner = await place.owner(some(2))
        added = {(f"n{i}", "s0"): document(f"n{i}", "s0", (ATTENDED, 2), 3, (0, MINUTE)) for i in range(7)}
        batch, lost = write(*added.items(), before=some(2) if known else None), 0
        while waiting := batch.next(2):
            owner.calls_left = len(waiting)
            owner.lose_answer = True
            with pytest.raises(RedisGone):
                await owner.apply(batch)
            before, lost = await place.content(), lost + 1
            assert batch.next(2) == waiting
            owner.calls_left = len(waiting)  # the repeats, and no further chunk
            with contextlib.suppress(RedisGone):
                await owner.apply(batch)
            assert await place.content() == before
        owner.calls_left = 1_000_000
        assert lost == (3 if ahead == 3 else 8)
        assert await place.holds({**some(2), **added})

    on(redis_server, scenario)


def test_chunks_after_one_that_was_refused_are_refused(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks travel together; none may be applied where one before it was not."""
    monkeypatch.setattr(writer_module, "CHUNK", 1)

    async def scenario(place: Place) -> None:
        owner = await place.owner(some(3))
        owner._seq += 1  # as if a failover had lost a chunk
        before = await place.content()
        with pytest.raises(NeedsRepair):
            await owner.apply(write(*some(3).items(), before={}))
        assert await place.content() == before

    on(redis_server, scenario)


def test_a_missing_chunk_needs_repair(redis_server: Redis) -> None:
    """A failover, or a start from an older file, can lose what was acknowledged: the stored sequence is behind the writer's."""

    async def scenario(place: Place) -> None:
        owner = await place.owner(some(3))
        kept = await place.client.dump(place.keys.watermark)
        await owner.apply(write((("b0", "s0"), None)))
        await place.client.restore(place.keys.watermark, 0, kept, replace=True)
        before = await place.content()
        for refused in (owner.heartbeat({"events.end": 1}), owner.apply(write((("b1", "s1"), None)))):
            with pytest.raises(NeedsRepair):
                await refused
            assert await place.content() == before

    on(redis_server, scenario)


def test_a_flush_needs_repair_and_revives_nothing(own_redis: RedisServer) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(9))
        await place.client.flushall()
        for refused in (owner.apply(write((("b1", "s1"), None))), owner.heartbeat({"events.end": 1})):
            with pytest.raises(NeedsRepair):
                await refused
            assert await place.content() == {}, "a refused write leaves nothing behind"
        await owner.repair(batches(some(4)), MARKS)
        await owner.apply(write((("b1", "s1"), None)))
        left = {name: pair for name, pair in some(4).items() if name[0] != "b1"}
        assert await place.holds(left)
        assert await place.writer().claim() == Claim(True, 7, 3)

    on(own_redis, scenario)


def test_a_lost_watermark_alone_needs_repair_and_revives_nothing(redis_server: Redis) -> None:
    """The keys that it named are still there: they must not be filled again."""

    async def scenario(place: Place) -> None:
        owner = await place.owner(some(10))
        await place.client.delete(place.keys.watermark)
        with pytest.raises(NeedsRepair):
            await owner.heartbeat({"events.end": 1})
        await owner.repair(batches(some(5)), MARKS)
        assert await place.holds(some(5))

    on(redis_server, scenario)


def test_a_heartbeat_is_written_and_read_by_the_clock_of_redis(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner({})
        await announce(place.client, place.base, Namespace(place.keys.namespace, 1))
        (never,) = await AttendanceReader(place.client, place.base).status()
        assert (never.has_owner, never.lag) == (False, None)
        await owner.heartbeat({"events.end": 9, "bookings.end": 3}, {"events": 0})
        (unconfirmed,) = await AttendanceReader(place.client, place.base).status()
        assert (unconfirmed.has_owner, unconfirmed.lag) == (True, None), "nobody said how long the bookings are"
        await owner.heartbeat({}, {"events": 60_000, "bookings": 0})
        (old,) = await AttendanceReader(place.client, place.base).status()
        assert old.kafka_age >= 60 > old.age
        await owner.heartbeat({}, {"events": 0, "bookings": 0})
        (known,) = await AttendanceReader(place.client, place.base).status()
        assert known.lag == 2

    on(redis_server, scenario)


def test_a_new_owner_is_told_the_newest_times(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        times = {"events.time": "2026-11-22T10:00:00.123Z", "bookings.time": "2026-11-21T10:00:00.000Z"}
        await place.writer().repair(batches({}), {**MARKS, **times})
        assert await place.writer().claim() == Claim(True, 7, 3, *times.values())
        assert await place.writer("new topics").claim() == Claim(False, 7, 3), "times of another table"

    on(redis_server, scenario)


def test_an_epoch_is_never_given_twice_even_after_a_flush(own_redis: RedisServer) -> None:
    async def scenario(place: Place) -> None:
        old, epochs = await place.owner(some(3)), [int(await place.mark("epoch"))]
        for _ in range(20):
            await place.client.flushall()
            await place.owner(some(3))
            epochs.append(int(await place.mark("epoch")))
        assert epochs == sorted(set(epochs))
        with pytest.raises(Fenced):
            await old.apply(write((("b1", "s1"), None)))
        await place.client.flushall()
        assert await place.writer().claim() == Claim(False, -1, -1)

    on(own_redis, scenario)


def test_another_generation_is_not_sound_and_needs_repair(redis_server: Redis) -> None:
    """A tenant whose topics were made anew finds the read models of the old ones."""

    async def scenario(place: Place) -> None:
        await place.owner(some(5), "old topics")
        new = place.writer("new topics")
        assert not (await new.claim()).is_complete
        before = await place.content()
        with pytest.raises(NeedsRepair):
            await new.apply(write((("b1", "s1"), None)))
        with pytest.raises(NeedsRepair):
            await new.heartbeat({"events.end": 1})
        assert await place.content() == before
        await new.repair(batches(some(2)), MARKS)
        assert await place.holds(some(2))
        assert (await place.writer("new topics").claim()).is_complete

    on(redis_server, scenario)


def test_a_partition_in_repair_is_not_sound(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner(some(5))
        owner.calls_left = 3
        with pytest.raises(RedisGone):
            await owner.repair(batches(some(5)), MARKS)
        assert not (await place.writer().claim()).is_complete

    on(redis_server, scenario)


def test_a_repair_leaves_one_key_generation(redis_server: Redis) -> None:
    """No key of what was before stays, and nothing that the table no longer has comes back."""

    async def scenario(place: Place) -> None:
        owner = await place.owner(some(700))
        (first,) = await place.generations()
        await owner.repair(batches(some(3)), MARKS)
        assert await place.generations() == {await place.mark("keys")} != {first}
        assert await place.holds(some(3))
        await owner.repair(batches({}), MARKS)
        assert sorted(await place.names()) == [place.keys.changes, place.keys.watermark]

    on(redis_server, scenario)


@pytest.mark.parametrize("seed", range(3))
def test_repairs_that_die_leave_nothing_behind_the_one_that_ends(redis_server: Redis, seed: int) -> None:
    """Wherever earlier repairs stopped, twice in a row or more, the last one leaves the keys of one generation."""

    async def scenario(place: Place) -> None:
        chance = random.Random(seed)
        await place.owner(some(450))
        for _ in range(12):
            for _ in range(chance.randrange(1, 4)):
                dying = place.writer()
                dying.calls_left = chance.randrange(14)
                with contextlib.suppress(RedisGone):
                    await dying.repair(batches(some(450)), MARKS)
            await place.owner(some(5))
            assert await place.generations() == {await place.mark("keys")}
            assert await place.holds(some(5))

    on(redis_server, scenario)


def test_readers_see_a_repair_in_one_step(redis_server: Redis) -> None:
    """Asked all along: the whole before, nothing while it is repaired, the whole after."""

    async def scenario(place: Place) -> None:
        owner = await place.owner(some(1500, sessions=1))
        await announce(place.client, place.base, Namespace(place.keys.namespace, 1))
        reader = AttendanceReader(place.client, place.base)
        seen: list[int | None] = []

        async def look() -> None:
            try:
                tally = await reader.session("s0")
                seen.append(tally and tally["bookings"])
            except NotServing:
                seen.append(None)

        await look()
        repair = asyncio.create_task(owner.repair(batches(some(3000, sessions=1)), MARKS))
        while not repair.done():
            await look()
        await look()
        changes = [now for before, now in zip([object(), *seen], seen, strict=False) if now != before]
        assert changes in ([1500, None, 3000], [1500, 3000])
        assert seen.count(None) > 5, "nobody looked during the repair"
        assert len(await attendances_of(reader, sessionId="s0")) == await reader.count_bookings() == 3000

    on(redis_server, scenario)


@pytest.mark.parametrize("seed", range(6))
def test_tallies_are_what_a_recount_of_the_pairs_gives(redis_server: Redis, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever pairs come, change and go, in chunks of any size, with lost answers, repeats and repairs."""
    chance = random.Random(seed)
    monkeypatch.setattr(writer_module, "CHUNK", chance.choice([1, 3, 100]))

    async def scenario(place: Place) -> None:
        pairs: Pairs = {}
        owner = await place.owner(pairs)
        for _ in range(60):
            names = [(f"b{chance.randrange(6)}", f"s{chance.randrange(4)}") for _ in range(chance.randrange(1, 8))]
            changes = {name: random_pair(chance, name) for name in names}
            batch = write(*changes.items(), before=pairs if chance.random() < 0.5 else None)
            owner.lose_answer = chance.random() < 0.3
            with contextlib.suppress(RedisGone):
                await owner.apply(batch)
            await owner.apply(batch)
            pairs = {name: now for name, now in {**pairs, **changes}.items() if now is not None}
            if chance.random() < 0.05:
                owner = await place.owner(pairs)
            assert await place.holds(pairs)

    on(redis_server, scenario)


def test_windows_and_sessions_vanish_with_their_last_pair(redis_server: Redis) -> None:
    async def scenario(place: Place) -> None:
        owner = await place.owner({})
        listed = document("b1", "s1", None, 2, (0, MINUTE))
        both: Pairs = {("b1", "s1"): listed, ("b2", "s1"): document("b2", "s1", (ATTENDED, 1), 1, (0, MINUTE))}
        await owner.apply(write(*both.items()))
        tally = place.keys.prefix(await place.mark("keys")) + "tally:s1"
        assert await place.client.hget(tally, "window:0:60000") == b"2"
        await owner.apply(write((("b1", "s1"), None)))
        assert await place.client.hget(tally, "window:0:60000") == b"1"
        canceled = document("b2", "s1", (ATTENDED, 1))
        await owner.apply(write((("b2", "s1"), canceled)))
        assert not await place.client.hexists(tally, "window:0:60000")
        assert await place.holds({("b2", "s1"): canceled})
        await owner.apply(write((("b2", "s1"), None)))
        assert await place.holds({})
        assert sorted(await place.names()) == [place.keys.changes, place.keys.watermark]

    on(redis_server, scenario)
