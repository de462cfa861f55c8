"""The namespace that was live before a rebuild: going back to it, and dropping it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Protocol

from worker.kafka import open_producer
from worker.ops.mirror import mirror_ends, mirror_lag
from worker.ops.table_removal import remove_tables
from worker.ops.verify import Verification
from worker.read_model import builds
from worker.read_model.build_keys import Filled, open_partitions, read_filled, remove_keys
from worker.read_model.builds import Build, BuildError, BuildState, Namespace, read_registry
from worker.read_model.keys import is_ours
from worker.read_model.operations import Running, State
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.group_topic import find_mirrored, record_live, record_mirrored
from worker.topics import FIRST_TABLES

#: How long workers take to see that a namespace is registered, or is not any more, seconds.
_SEEN_SECONDS = 2.5
#: How long workers take at most to copy what is published, seconds.
_COPY_SECONDS = 30.0


class ShownProgress(Protocol):
    """Shows how far a step is."""

    def progress(self, unit: str, total: int | None) -> "AbstractContextManager[Callable[[int], None]]": ...


async def find_kept(settings: Settings, client: Client) -> tuple[Namespace, Build]:
    """The live namespace, and the one that was live before.

    Raises:
        BuildError: none is kept.
    """
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is None or registry.kept is None:
        raise BuildError("no earlier namespace is kept: a rebuild keeps the one that was live, until it is dropped")
    return registry.live, registry.kept


async def roll_back(settings: Settings, client: Client, running: Running, shown: ShownProgress, most_lag: int) -> State:
    """Makes the kept namespace live again, in one step, and keeps the other.

    Raises:
        BuildError: none is kept, or it is behind.
    """
    name = running.operation.request["rollback"]
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is not None and registry.live.name != name:
        live, kept = await find_kept(settings, client)
        if is_ours(settings.redis_namespace, name):
            check_fresh(await read_filled(client, kept.namespace), name, most_lag)
        await open_partitions(client, live, kept.operation)
        await builds.switch(client, settings.redis_namespace, name, kept.operation, "", settings.shaping())
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is not None and registry.kept is not None and registry.live.tables != registry.kept.namespace.tables:
        own = registry.live.settings(settings)
        await record(own, registry.live, registry.kept.namespace)
        if is_ours(settings.redis_namespace, name):
            await correct_alerts(own, client, running, shown)
    return State.SWITCHED


async def record(settings: Settings, live: Namespace, other: Namespace) -> None:
    """Records in Kafka which tables are live: for the workers of their topics, and those of the other namespace's."""
    async with open_producer(settings) as producer:
        for topic_prefix in {each.settings(settings).topic_prefix for each in (live, other)}:
            await record_live(producer, topic_prefix, live)


async def correct_alerts(settings: Settings, client: Client, running: Running, shown: ShownProgress) -> None:
    """Has the alerts topic say what the tables of the settings do, a partition after the other."""
    done = set(running.operation.position.get("alerts", ()))
    with shown.progress("alerts and rows compared", None) as progress:
        verification = Verification(settings, client, progress)
        for number in range(settings.partitions):
            if number not in done:
                count = await verification.correct_alerts(number, running.operation.id)
                done.add(number)
                counts = running.operation.counts
                await running.save(
                    {**running.operation.position, "alerts": sorted(done)},
                    {**counts, "alerts published": counts.get("alerts published", 0) + count},
                )


async def drop_kept(settings: Settings, client: Client, running: Running, shown: ShownProgress) -> State:
    """Removes the namespace that was live before; one that an earlier try took out of the registry too.

    Workers of another version know nothing of builds: they sent alerts until they were stopped, also after the switch. So the
    alerts topic is compared with the live tables once more.

    Raises:
        BuildError: it is live, or a build that is not kept.
    """
    request = running.operation.request
    name = request["drop"]
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is not None and registry.live.name == name:
        raise BuildError(f"{name} is live: it cannot be dropped")
    if any(each.namespace.name == name and each.state is not BuildState.KEPT for each in registry.builds):
        raise BuildError(f"{name} is being built: --abort its operation")
    namespace = Namespace(name, int(request["partitions"]), request["tables"], request.get("topicPrefix", ""))
    if registry.live is not None and not namespace.has_prefix(registry.live.topic_prefix):
        await _end_mirror(namespace.settings(settings), registry.live.settings(settings))
    await drop(namespace.settings(settings), client, namespace, request["operation"], live=registry.live)
    if registry.live is not None and not is_ours(settings.redis_namespace, name):
        await correct_alerts(registry.live.settings(settings), client, running, shown)
    return State.DONE


async def _end_mirror(dropped: Settings, live: Settings) -> None:
    """Ends mirroring between the topics of a namespace that is dropped and those of the live one.

    Raises:
        BuildError: records are not copied yet.
    """
    for settings in (dropped, live):
        if await find_mirrored(settings) is None:
            continue
        # those that are copied back to the topics of the dropped one never end
        ends, deadline = await mirror_ends(dropped), monotonic() + _COPY_SECONDS
        while lag := await mirror_lag(dropped, live, ends):
            if monotonic() > deadline:
                raise BuildError(
                    f"{lag:,} records of {dropped.topic_prefix}.* are not copied to {live.topic_prefix}.* yet: start workers "
                    f"of {live.topic_prefix}, which copy them, then repeat this with --resume"
                )
            await asyncio.sleep(1)
        async with open_producer(settings) as producer:
            await record_mirrored(producer, settings.topic_prefix, None)


async def drop(settings: Settings, client: Client, namespace: Namespace, operation: str, live: Namespace | None = None) -> None:
    """Takes a namespace out of the registry, and removes its keys, and its tables if no other namespace has them.

    Args:
        settings: with the tables of the namespace.
        client: of Redis.
        namespace: that is dropped.
        operation: that made or keeps it.
        live: the live one.
    """
    base = settings.redis_namespace
    registry = await read_registry(client, base)
    await builds.forget(client, base, namespace.name, operation)
    await asyncio.sleep(_SEEN_SECONDS)
    await remove_keys(client, namespace)
    live = live or registry.live
    if live is not None and live.tables != namespace.tables and namespace.tables != FIRST_TABLES:
        await remove_tables(settings)


def check_fresh(filled: Filled, name: str, most_lag: int, uncopied: int = 0) -> None:
    """Raises BuildError if a namespace is not whole, or further behind than that, records that are not copied yet included."""
    if not filled.is_whole:
        raise BuildError(f"{name} is not whole: wait until its workers have filled it, then repeat this")
    if filled.lag is None:
        raise BuildError(f"how far {name} is behind is unknown: its workers do not answer; start them, then repeat this")
    if (lag := filled.lag + uncopied) > most_lag:
        raise BuildError(f"{name} is {lag:,} records behind, more than --max-lag {most_lag:,}: wait, then repeat this")
