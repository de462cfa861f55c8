"""The registry of namespaces: one build at a time, switches in one step, and a dropped build that nobody can write."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.support.place import Place, document, on, some, write
from tests.support.services import Redis
from worker.read_model import builds
from worker.read_model.build_keys import open_partitions, remove_keys
from worker.read_model.builds import Build, BuildError, BuildState, Namespace, Registry, announce, read_registry, tables_for
from worker.read_model.keys import LAYOUT_VERSION, PartitionKeys, live_key, namespace
from worker.read_model.reader import AttendanceReader, OtherLayout
from worker.read_model.writer import Dropped, Fenced, NeedsRepair, PartitionWriter
from worker.redis.client import Client, create_redis, masters
from worker.settings import Settings, load_settings

SETTINGS, OTHERS = {"partitions": 4, "clock_tolerance": 1}, {"partitions": 4, "clock_tolerance": 2}


@pytest.fixture(params=["server", "cluster"])
def redis_server(request: pytest.FixtureRequest, redis_server: Redis) -> Redis:
    """One server, then a cluster: what is below holds for both."""
    return redis_server if request.param == "server" else request.getfixturevalue("redis_cluster")


def with_registry(server: Redis, scenario: Callable[[Client, str], Awaitable[None]]) -> None:
    """Runs a scenario under a base of its own, whose namespace 0 is live."""

    async def running() -> None:
        client, base = create_redis(load_settings(_env_file=None, redis=server.url)), f"builds-{uuid4().hex[:10]}"
        try:
            await announce(client, base, Namespace(namespace(base), 4))
            await scenario(client, base)
        finally:
            await client.unlink(live_key(base))
            await client.aclose()

    asyncio.run(running())


def a_build(name: str, operation: str = "op-1", tables: str = "1", report: str = "") -> Build:
    return Build(Namespace(name, 4, tables), operation, BuildState.FILLING, SETTINGS, report)


def names(registry: Registry) -> tuple[str | None, list[tuple[str, BuildState]]]:
    """The live namespace and the builds."""
    return registry.live and registry.live.name, [(each.namespace.name, each.state) for each in registry.builds]


def test_a_redis_that_loses_its_data_has_a_live_namespace(redis_server: Redis) -> None:
    """At any moment of an announcement."""

    async def scenario(client: Client, base: str) -> None:
        wanted, announcing = Namespace(namespace(base), 4), True

        async def lose() -> None:
            while announcing:
                await client.unlink(live_key(base))

        losing = asyncio.create_task(lose())
        for _ in range(60):
            assert (await announce(client, base, wanted)).live == wanted
        announcing = False
        await losing

    with_registry(redis_server, scenario)


def test_a_switch_without_a_live_namespace_names_the_cure(redis_server: Redis) -> None:
    async def scenario(client: Client, base: str) -> None:
        await client.unlink(live_key(base))
        build = a_build(await builds.reserve(client, base), report="r1")
        await builds.begin(client, base, build)
        with pytest.raises(BuildError, match="start the workers"):
            await builds.switch(client, base, build.namespace.name, "op-1", "r1", SETTINGS)

    with_registry(redis_server, scenario)


def test_a_build_becomes_live_and_the_other_is_kept(redis_server: Redis) -> None:
    async def scenario(client: Client, base: str) -> None:
        first, second = namespace(base), await builds.reserve(client, base)
        assert second == namespace(base, 1)
        build = a_build(second)
        await builds.begin(client, base, build)
        with pytest.raises(BuildError, match="--abort"):
            await builds.begin(client, base, a_build(await builds.reserve(client, base), "op-2"))
        with pytest.raises(BuildError, match="not checked"):
            await builds.switch(client, base, second, "op-1", "", SETTINGS)
        await builds.update(client, base, build._replace(report="r1"))
        for operation, report in (("op-1", "r2"), ("op-2", "r1")):
            with pytest.raises(BuildError):
                await builds.switch(client, base, second, operation, report, SETTINGS)
        assert names(await read_registry(client, base)) == (first, [(second, BuildState.FILLING)])
        await builds.switch(client, base, second, "op-1", "r1", SETTINGS)
        await builds.switch(client, base, second, "op-1", "r1", SETTINGS)
        assert names(await read_registry(client, base)) == (second, [(first, BuildState.KEPT)])
        with pytest.raises(BuildError, match="--drop-old"):
            await builds.begin(client, base, a_build(await builds.reserve(client, base), "op-3"))
        # back, and forth again
        await builds.switch(client, base, first, "op-1", "", SETTINGS)
        assert names(await read_registry(client, base)) == (first, [(second, BuildState.KEPT)])
        await builds.switch(client, base, second, "op-1", "", SETTINGS)
        await builds.forget(client, base, first, "op-1")
        await builds.forget(client, base, first, "op-1")
        assert names(await read_registry(client, base)) == (second, [])

    with_registry(redis_server, scenario)


def test_of_concurrent_builds_one_is_registered(redis_server: Redis) -> None:
    async def scenario(client: Client, base: str) -> None:
        given = [a_build(await builds.reserve(client, base), f"op-{number}") for number in range(6)]
        answers = await asyncio.gather(*(builds.begin(client, base, each) for each in given), return_exceptions=True)
        assert [each for each in answers if each is not None and not isinstance(each, BuildError)] == []
        assert sum(each is None for each in answers) == 1
        assert len((await read_registry(client, base)).builds) == 1

    with_registry(redis_server, scenario)


def test_readers_of_an_older_layout_keep_theirs(redis_server: Redis) -> None:
    """Until the older namespace is dropped; going back leaves nothing of the newer one."""

    async def scenario(client: Client, base: str) -> None:
        older, newer = f"{base}:{LAYOUT_VERSION - 1}.0", namespace(base, 7)
        await client.hset(live_key(base), "namespace", older)
        before = await client.hgetall(live_key(base))
        await builds.begin(client, base, a_build(newer, tables="7", report="r"))
        with pytest.raises(OtherLayout):
            await AttendanceReader(client, base).count({})
        for _ in range(2):
            await builds.switch(client, base, newer, "op-1", "r", OTHERS)
            registry = await read_registry(client, base)
            assert (registry.live, registry.live_settings) == (Namespace(newer, 4, "7"), SETTINGS)
            assert registry.kept is not None
            assert (registry.kept.namespace.name, registry.kept.settings) == (older, OTHERS)
            # what a reader of the older version looks at
            assert await client.hmget(live_key(base), "namespace", "partitions") == [older.encode(), b"4"]
            await builds.switch(client, base, older, "op-1", "", SETTINGS)
            assert (await read_registry(client, base)).live == Namespace(older, 4)
        kept = {name: value for name, value in (await client.hgetall(live_key(base))).items() if b"build:" not in name}
        assert kept == before
        await builds.switch(client, base, newer, "op-1", "", SETTINGS)
        await builds.forget(client, base, older, "op-1")
        registry = await read_registry(client, base)
        assert (registry.live, registry.live_settings) == (Namespace(newer, 4, "7"), SETTINGS)
        assert await client.hget(live_key(base), "namespace") == newer.encode()
        assert not any(f":{LAYOUT_VERSION}" in name for name in registry.fields)

    with_registry(redis_server, scenario)


def test_workers_use_the_tables_of_their_settings(redis_server: Redis) -> None:
    async def scenario(client: Client, base: str) -> None:
        def settings(**values: Any) -> Settings:
            return load_settings(_env_file=None, **{"namespace": base, "partitions": 4, **values})

        async def tables(own: Settings) -> str:
            return tables_for(await read_registry(client, base), own)

        first, others = settings(), settings(clock_tolerance="2m")
        assert (await tables(first), await tables(others)) == ("1", "1")
        build = a_build(namespace(base, 3), tables="3")._replace(
            state=BuildState.LOADING, settings=others.shaping(), report="r"
        )
        await builds.begin(client, base, build)
        assert await tables(others) == "1", "it is not loaded yet"
        await builds.update(client, base, build._replace(state=BuildState.FILLING))
        # that of the live tables is not known before the first switch: their workers compare it themselves
        assert await tables(first) == "1"
        await builds.switch(client, base, build.namespace.name, "op-1", "r", first.shaping())
        assert (await tables(first), await tables(others)) == ("1", "3")
        assert await tables(settings(partitions=9)) == "3", "the live ones, whose workers name the difference"
        await builds.forget(client, base, namespace(base), "op-1")
        # with the same settings, but other topics
        build = Build(Namespace(namespace(base, 4), 4, "4", "moved"), "op-2", BuildState.FILLING, others.shaping(), report="r")
        moved = settings(topic_prefix="moved", clock_tolerance="2m")
        await builds.begin(client, base, build, live_prefix=others.topic_prefix)
        for _ in range(2):
            assert (await tables(others), await tables(moved)) == ("3", "4")
            await builds.switch(client, base, build.namespace.name, "op-2", "r", others.shaping())

    with_registry(redis_server, scenario)


def test_a_dropped_build_cannot_be_claimed_or_written(redis_server: Redis) -> None:
    """Whatever a worker still does that was stopped meanwhile: no key comes back."""

    async def scenario(place: Place) -> None:
        build = Namespace(f"{place.keys.namespace}-build", 1)
        await open_partitions(place.client, build, "op-1")
        writer, late = (PartitionWriter(place.client, build.name, 0, "g") for _ in range(2))
        with pytest.raises(Dropped):
            await writer.claim("op-2")
        await writer.claim("op-1")
        await writer.begin_repair()
        await writer.apply(write(*some(5).items()))
        await writer.end_repair({"events.offset": 1, "bookings.offset": 1})
        await writer.apply(write((("b9", "s9"), document("b9", "s9"))))
        await remove_keys(place.client, build)
        await remove_keys(place.client, build)

        async def none_left() -> bool:
            found = [key for each in await masters(place.client) async for key in each.scan_iter(f"{build.name}:*")]
            return found == []

        assert await none_left()
        for refused, error in (
            (lambda: writer.apply(write((("b8", "s8"), document("b8", "s8")))), NeedsRepair),
            (lambda: writer.heartbeat({"events.end": 1}), NeedsRepair),
            (lambda: writer.claim("op-1"), Dropped),
            (lambda: late.claim("op-1"), Dropped),
            (writer.begin_repair, Fenced),
        ):
            with pytest.raises(error):
                await refused()
        assert await none_left()
        assert PartitionKeys(build.name, 0).watermark not in await place.names()

    on(redis_server, scenario)
