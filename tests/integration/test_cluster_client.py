"""The client of a Redis Cluster: where slots move, masters go and scripts are unknown, it is right or says that it cannot."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import AskError, RedisError
from redis.exceptions import ConnectionError as RedisAway

from tests.support.place import MARKS, Place, batches, document, on, some, write
from tests.support.services import Redis, RedisCluster, RedisServer
from tests.support.services.processes import wait_until
from tests.support.slots import MovingSlot, owner_of
from worker.ops import doctor
from worker.read_model.builds import Namespace, announce
from worker.read_model.reader import AttendanceReader
from worker.read_model.writer import NeedsRepair
from worker.redis import client as client_module
from worker.redis.client import Client, create_redis, masters
from worker.redis.scripts import Script, ScriptInterrupted, ask_all, run, run_all
from worker.settings import Settings
from worker.stream.retry import until_done

KEYS = [f"key-{number}" for number in range(60)]
SAYS_ITS_KEY = "return {KEYS[1], ARGV[1], redis.call('EXISTS', KEYS[1])}"
COUNTS = "return redis.call('HINCRBY', KEYS[1], 'count', ARGV[1])"


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[RedisCluster]:
    """A cluster of the module's own, whose masters it may stop; slots without a master concern only themselves."""
    with RedisCluster(3) as cluster:
        for node in cluster.nodes:
            assert node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no") == "+OK"
        yield cluster


@pytest.fixture(params=["server", "cluster"])
def each_redis(request: pytest.FixtureRequest) -> Redis:
    return request.getfixturevalue("redis_server" if request.param == "server" else "redis_cluster")


def new_script(text: str) -> Script:
    """A script that no server knows."""
    return Script.of(f"{text} -- {random.random()}")


def settings(url: str) -> Settings:
    return Settings(_env_file=None, redis=url)  # type: ignore[call-arg]


def asking(url: str, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def running() -> None:
        client = create_redis(settings(url))
        try:
            await scenario(client)
        finally:
            await client.aclose()

    asyncio.run(running())


def test_answers_of_many_keys_are_in_order_after_a_script_flush(each_redis: Redis) -> None:
    script = new_script(SAYS_ITS_KEY)
    wanted = [[key.encode(), str(number).encode(), 0] for number, key in enumerate(KEYS * 2)]

    async def scenario(client: Client) -> None:
        calls = [(key, (number,)) for number, key in enumerate(KEYS * 2)]
        assert await ask_all(client, script, calls) == wanted
        await (await masters(client))[0].script_flush()
        assert await ask_all(client, script, calls) == wanted
        assert await ask_all(client, script, []) == []

    asking(each_redis.url, scenario)


def test_no_connection_has_a_socket_timeout(each_redis: Redis) -> None:
    async def scenario(client: Client) -> None:
        for server in await masters(client):
            assert server.connection_pool.make_connection().socket_timeout is None

    asking(each_redis.url, scenario)


def test_a_read_only_script_cannot_write(each_redis: Redis) -> None:
    script = new_script(COUNTS)

    async def scenario(client: Client) -> None:
        with pytest.raises(RedisError, match=r"[Ww]rite"):
            await ask_all(client, script, [("counted-not", (1,))])
        assert await client.exists("counted-not") == 0

    asking(each_redis.url, scenario)


def test_calls_are_run_in_order_where_a_server_forgot_the_script(each_redis: Redis) -> None:
    script = new_script(COUNTS)

    async def scenario(client: Client) -> None:
        await client.unlink("counted")
        assert await run_all(client, script, "counted", [(1,), (10,), (100,)]) == [1, 11, 111]
        for server in await masters(client):
            await server.script_flush()
        assert await run(client, script, "counted", 1000) == 1111

    asking(each_redis.url, scenario)


def test_a_pipeline_of_many_slots_keeps_order_and_errors(each_redis: Redis) -> None:
    async def scenario(client: Client) -> None:
        pipe = client.pipeline(transaction=False)
        for key in KEYS:
            pipe.unlink(key)
            pipe.hset(key, "name", key)
            pipe.zcard(key)
            pipe.hgetall(key)
        answers = await pipe.execute(raise_on_error=False)
        assert answers[3::4] == [{b"name": key.encode()} for key in KEYS]
        assert all(isinstance(answer, RedisError) for answer in answers[2::4])
        async with client.pipeline(transaction=False) as pipe:
            pipe.hget(KEYS[0], "name")
            pipe.zcard(KEYS[1])
            with pytest.raises(RedisError, match=r"WRONGTYPE|wrong kind"):
                await pipe.execute()

    asking(each_redis.url, scenario)


def test_keyless_commands_and_two_slot_transactions_are_refused(redis_cluster: RedisCluster) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(ValueError, match="masters"):
            await client.script_load("return 1")
        with pytest.raises(ValueError, match="masters"):
            await client.execute_command("PING")  # type: ignore[no-untyped-call]
        pipe = client.pipeline(transaction=True)
        pipe.hset("key-1", "a", "b")
        pipe.hset("key-2", "a", "b")
        with pytest.raises(ValueError, match="one slot"):
            await pipe.execute()

    asking(redis_cluster.url, scenario)


def test_a_slot_that_has_moved_is_followed(redis_cluster: RedisCluster) -> None:
    script = new_script(COUNTS)

    async def scenario(client: Client) -> None:
        base = f"moves-{random.random()}"
        assert (await announce(client, base, Namespace("first", 4))).live == Namespace("first", 4)
        await run_all(client, script, "moved", [(1,)])
        before = await client.hget("moved", "count")
        for key in (f"{base}:live", "moved"):
            moving = await asyncio.to_thread(MovingSlot, redis_cluster, key)
            await asyncio.to_thread(moving.begin)
            await asyncio.to_thread(moving.finish)
            assert owner_of(redis_cluster, key) is moving.target
        assert (await announce(client, base, Namespace("second", 5))).live == Namespace("first", 4)
        counted = await run_all(client, script, "moved", [(1,), (1,), (1,)])
        assert counted == [int(before or b"") + more for more in (1, 2, 3)]
        assert len(await masters(client)) == 3

    asking(redis_cluster.url, scenario)


def test_a_partition_waits_while_its_slot_is_moved(redis_cluster: RedisCluster) -> None:
    """Some keys here, some there: a script that saw only these would count wrong, and one ended in the middle has."""

    async def scenario(place: Place) -> None:
        pairs = some(200)
        owner = await place.owner(pairs)
        await announce(place.client, place.base, Namespace(place.keys.namespace, 1))
        reader = AttendanceReader(place.client, place.base)
        more = {(f"n{i}", "s0"): document(f"n{i}", "s0") for i in range(60)}
        moving = await asyncio.to_thread(MovingSlot, redis_cluster, place.keys.watermark)
        documents = [name for name in await place.names() if ":doc:" in name]
        moving.begin()
        for name in documents[::2]:
            moving.take(name)
        with pytest.raises(NeedsRepair):
            await owner.apply(write(*more.items(), before={}))
        with pytest.raises(ScriptInterrupted):
            await owner.repair(batches({**pairs, **more}), MARKS)
        with pytest.raises(RedisError):
            await reader.session("s0")
        moving.take(place.keys.watermark)
        with pytest.raises(AskError):
            await owner.apply(write(*more.items(), before={}))
        with pytest.raises(AskError):
            await reader.session("s0")
        await asyncio.to_thread(moving.finish)
        await owner.repair(batches({**pairs, **more}), MARKS)
        assert await place.holds({**pairs, **more})
        assert len(await place.generations()) == 1

    on(redis_cluster, scenario)


def test_calls_that_are_given_up_leave_no_answer_for_others(redis_cluster: RedisCluster) -> None:
    script = new_script(SAYS_ITS_KEY)

    async def scenario(client: Client) -> None:
        chance, whole = random.Random(5), [0, 0]

        async def ask() -> None:
            some_keys = chance.sample(KEYS, 5)
            said = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0.001, 0.004, 5])):
                    answers = await ask_all(client, script, [(key, (key,)) for key in some_keys])
                    assert [answer[:2] for answer in answers] == [[key.encode()] * 2 for key in some_keys]
                    said = True
            whole[said] += 1

        for _ in range(40):
            await asyncio.gather(*(ask() for _ in range(10)))
        assert min(whole) > 20, whole

    asking(redis_cluster.url, scenario)


def test_a_dead_master_fails_its_own_keys_until_it_is_back(own_cluster: RedisCluster) -> None:
    dead = owner_of(own_cluster, KEYS[0])

    async def scenario(client: Client) -> None:
        here = [key for key in KEYS if owner_of(own_cluster, key) is dead]
        there = [key for key in KEYS if key not in here]
        for key in KEYS:
            await client.hset(key, "name", key)
        dead.kill()
        for key in here[:3]:
            with pytest.raises(RedisError):
                await client.hgetall(key)
        pipe = client.pipeline(transaction=False)
        for key in KEYS:
            pipe.hgetall(key)
        with pytest.raises(RedisAway):
            await pipe.execute(raise_on_error=False)
        for key in there:
            assert await client.hgetall(key) == {b"name": key.encode()}
        await asyncio.to_thread(dead.start)
        assert await asyncio.to_thread(wait_until, own_cluster.is_whole, 30)
        await client.hset(here[0], "name", "again")
        assert await client.hgetall(here[0]) == {b"name": b"again"}
        assert len(await masters(client)) == 3

    try:
        asking(own_cluster.url, scenario)
    finally:
        if not dead.running:
            dead.start()


def test_a_frozen_master_whose_replica_takes_over_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what it is sent and never answers: only that a caller gave up tells."""
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.5)
    script = new_script(COUNTS)
    with RedisCluster(3) as cluster, replica_of(cluster, frozen := owner_of(cluster, "frozen")) as replica:

        async def scenario(client: Client) -> None:
            await run_all(client, script, "frozen", [(1,)])
            assert await asyncio.to_thread(wait_until, lambda: has_caught_up_with(frozen), 20)
            frozen.pause()
            async with asyncio.timeout(60):
                assert await until_done("redis", lambda: run(client, script, "frozen", 1)) == 2
            addresses = [server.get_connection_kwargs()["port"] for server in await masters(client)]
            assert replica.port in addresses
            assert frozen.port not in addresses

        asking(cluster.url, scenario)


@contextlib.contextmanager
def replica_of(cluster: RedisCluster, master: RedisServer) -> Iterator[RedisServer]:
    """A further node that keeps what a master has."""
    with RedisServer(cluster=True) as replica:
        replica.ask("CLUSTER", "MEET", "127.0.0.1", str(master.port), str(master.bus_port))
        identity = master.ask("CLUSTER", "MYID")
        assert wait_until(lambda: replica.ask("CLUSTER", "REPLICATE", identity) == "+OK", 20)
        assert wait_until(lambda: "master_link_status:up" in replica.ask("INFO", "replication"), 20)
        known = lambda node: "slave" in node.ask("CLUSTER", "NODES")  # noqa: E731
        assert wait_until(lambda: all(map(known, cluster.nodes)), 20)
        yield replica


def has_caught_up_with(master: RedisServer) -> bool:
    """Whether its replica has all that it was written."""
    told = dict(line.split(":", 1) for line in master.ask("INFO", "replication").split("\r\n") if ":" in line)
    return f",offset={told['master_repl_offset']}," in told["slave0"]


def test_the_doctor_looks_at_every_master(redis_cluster: RedisCluster, redis_server: Redis) -> None:
    def findings(url: str) -> dict[str, Any]:
        return {found.what: found for found in asyncio.run(doctor.examine_redis(settings(url)))}

    assert findings(redis_cluster.url)["redis"].ok
    assert "3 masters" in findings(redis_cluster.url)["redis"].detail
    assert findings(redis_cluster.url)["eviction"].ok
    careless = redis_cluster.nodes[2]
    careless.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = findings(redis_cluster.url)["eviction"]
        assert not found.ok
        assert f"allkeys-lru of the master on port {careless.port}" in found.detail
    finally:
        careless.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    one_of_many = findings(careless.url)["redis"]
    assert not one_of_many.ok
    assert "redis+cluster://" in one_of_many.detail
    single = findings(redis_server.url.replace("redis://", "redis+cluster://"))["redis"]
    assert not single.ok
    assert "single server" in single.detail
    nobody = findings("redis+cluster://127.0.0.1:1,127.0.0.1:2")["redis"]
    assert not nobody.ok
    assert "127.0.0.1:1, 127.0.0.1:2" in nobody.detail
