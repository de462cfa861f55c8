"""Rebuilds the read models beside the live ones, and switches readers to them.

A *build* is a namespace of its own. The workers fill it from their tables, and write it beside the live one from then on. When it
is whole and its lag is small, it is compared with the live one; then one step makes it live. The one that was live is kept, and
written, until it is dropped. What is done is in the registry of namespaces and in the position of the operation; every step may
be repeated.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from worker.ops.namespace_check import CheckReport, compare
from worker.read_model import builds
from worker.read_model.build_keys import Filled, open_partitions, read_filled, remove_keys
from worker.read_model.builds import Build, BuildError, BuildState, Namespace, read_registry
from worker.read_model.keys import is_ours
from worker.read_model.operations import Operations, Running, State
from worker.redis.client import Client
from worker.settings import Settings

COMMAND = "rebuild"
#: Records that a build may be behind the topics when it is compared and becomes live.
MOST_LAG = 1_000
#: Attendances that are compared one by one.
SAMPLE = 2_000
_POLL_SECONDS = 0.5
#: How long workers take to see that a namespace is registered, or is not any more, seconds.
_SEEN_SECONDS = 2.5
#: A partition that has no worker for so long is reported, seconds.
_REPORT_SECONDS = 10.0

OnProgress = Callable[[int], None]
Report = Callable[[str], None]


class Plan(NamedTuple):
    """What a rebuild will do."""

    live: Namespace
    attendances: int
    lag: int | None


def target(settings: Settings) -> str:
    """What operations on the read models work on: one at a time."""
    return f"{settings.topic_prefix} read models"


async def make_plan(settings: Settings, client: Client) -> Plan:
    """Plans a rebuild.

    Raises:
        BuildError: nothing is live, there is a build, or no worker runs.
    """
    registry = await read_registry(client, settings.redis_namespace)
    live = _live(registry, settings)
    for build in registry.builds:
        if build.state is BuildState.KEPT:
            raise BuildError(f"{build.namespace.name}, which was live before, is kept: drop it first, with --drop-old")
        raise BuildError(f"{build.namespace.name} is being built by {build.operation}: --resume or --abort that")
    filled = await read_filled(client, live)
    if len(filled.without_worker) == live.partitions:
        raise BuildError(f"no worker writes {live.name}, and workers fill a build: start one, then repeat this")
    return Plan(live, filled.attendances, filled.lag)


async def begin(operations: Operations, settings: Settings, plan: Plan, request: dict[str, Any]) -> Running:
    """Begins the operation.

    Raises:
        OperationError: another one works on the read models.
    """
    asked = {"from": plan.live.name, "attendances": plan.attendances, **request}
    return await operations.begin(COMMAND, target(settings), asked, {})


class Rebuild:
    """One rebuild, from the position of its operation on."""

    def __init__(self, settings: Settings, client: Client, running: Running) -> None:
        self._settings = settings
        self._base = settings.redis_namespace
        self._client = client
        self._running = running
        self._operation = running.operation.id

    async def fill(self, stop: asyncio.Event, progress: OnProgress, report: Report) -> bool:
        """Registers the build, and waits until the workers have filled it; returns False if it was stopped.

        Raises:
            BuildError: the build is gone: Redis lost it, or it was aborted.
        """
        build = await self._registered()
        most_lag, quiet_since = int(self._running.operation.request["maxLag"]), monotonic()
        while not stop.is_set():
            filled = await read_filled(self._client, build)
            progress(filled.attendances)
            await self._running.save(counts={**self._running.operation.counts, "attendances": filled.attendances})
            if filled.is_whole and filled.lag is not None and filled.lag <= most_lag:
                return True
            if not filled.without_worker:
                quiet_since = monotonic()
            elif monotonic() - quiet_since > _REPORT_SECONDS:
                quiet_since = monotonic()
                await self._check_registered()
                report(f"no worker fills partitions {', '.join(map(str, filled.without_worker))} of {build.name}: start one")
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def check(self, stop: asyncio.Event, progress: OnProgress) -> CheckReport:
        """Compares the build with the live namespace, and registers the report."""
        registry = await read_registry(self._client, self._base)
        build, live = await self._check_registered(), _live(registry, self._settings)
        sample = int(self._running.operation.request["sample"])
        found = await compare(self._client, live, build.namespace, sample=sample, on_progress=progress, stop=stop.is_set)
        await builds.update(self._client, self._base, build._replace(report=found.id))
        counts = {**self._running.operation.counts, **found.compared, "differences": found.difference_count}
        await self._running.save({**self._running.operation.position, "report": found.id}, counts)
        return found

    async def switch(self, accepted: int) -> State:
        """Makes the build live, if its lag is small and its check has at most so many differences; the old one is kept.

        Raises:
            BuildError: it is behind, differs, or was checked again meanwhile.
        """
        registry = await read_registry(self._client, self._base)
        live, position = _live(registry, self._settings), self._running.operation.position
        name = position["namespace"]
        if live.name != name:
            build = await self._check_registered()
            differences = self._running.operation.counts.get("differences", 0)
            if differences > accepted:
                raise BuildError(
                    f"{name} has {differences} differences from {live.name}: look at them, then --accept {differences}, or --abort"
                )
            _check_fresh(await read_filled(self._client, build.namespace), name, self._running.operation.request["maxLag"])
            # the one that is live is written as a kept one from then on
            await open_partitions(self._client, live, self._operation)
            settings = self._settings.shaping()
            await builds.switch(self._client, self._base, name, self._operation, position["report"], settings)
        return State.SWITCHED

    async def remove(self) -> State:
        """Removes everything that this rebuild made.

        Raises:
            BuildError: the build is live.
        """
        if (name := self._running.operation.position.get("namespace")) is not None:
            registry = await read_registry(self._client, self._base)
            if registry.live is not None and registry.live.name == name:
                raise BuildError(f"{name} is live: --rollback makes the earlier one live again, --drop-old then removes this")
            await drop(self._settings, self._client, Namespace(name, self._settings.partitions), self._operation)
        return State.ABORTED

    async def _registered(self) -> Namespace:
        """The build, which is registered if that was not done yet."""
        registry = await read_registry(self._client, self._base)
        if (build := registry.build_of(self._operation)) is not None:
            return build.namespace
        position = self._running.operation.position
        if "begun" in position:
            raise BuildError(f"{position['namespace']} is not in Redis any more, which lost it: --abort {self._operation}")
        # its name is saved before anything is written, so that whatever a killed process leaves can be removed
        name = position.get("namespace") or await builds.reserve(self._client, self._base)
        await self._running.save({"namespace": name})
        namespace = Namespace(name, self._settings.partitions, _live(registry, self._settings).tables)
        await open_partitions(self._client, namespace, self._operation)
        build = Build(namespace, self._operation, BuildState.FILLING, self._settings.shaping())
        await builds.begin(self._client, self._base, build)
        await self._running.save({"namespace": name, "begun": 1})
        return namespace

    async def _check_registered(self) -> Build:
        registry = await read_registry(self._client, self._base)
        build = registry.build_of(self._operation)
        if build is None:
            name = self._running.operation.position.get("namespace", "the build")
            raise BuildError(f"{name} is not in Redis any more, which lost it: --abort {self._operation}, and begin anew")
        return build


async def make_rollback_plan(settings: Settings, client: Client) -> tuple[Namespace, Build]:
    """The live namespace, and the kept one that would be live again.

    Raises:
        BuildError: none is kept, or it is behind.
    """
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is None or registry.kept is None:
        raise BuildError("no earlier namespace is kept: there is nothing to roll back to")
    return registry.live, registry.kept


async def roll_back(settings: Settings, client: Client, most_lag: int) -> str:
    """Makes the kept namespace live again, in one step, and keeps the other; returns its name.

    Raises:
        BuildError: none is kept, or it is behind.
    """
    live, kept = await make_rollback_plan(settings, client)
    _check_fresh(await read_filled(client, kept.namespace), kept.namespace.name, most_lag)
    await open_partitions(client, live, kept.operation)
    name = kept.namespace.name
    await builds.switch(client, settings.redis_namespace, name, kept.operation, "", settings.shaping())
    return name


async def drop_kept(settings: Settings, client: Client, name: str) -> None:
    """Removes the namespace that was live before; one that an earlier try took out of the registry too.

    Raises:
        BuildError: it is live, or a build that is not kept.
    """
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is not None and registry.live.name == name:
        raise BuildError(f"{name} is live: it cannot be dropped")
    kept = registry.kept
    if kept is not None and kept.namespace.name == name:
        await drop(settings, client, kept.namespace, kept.operation)
    elif any(each.namespace.name == name for each in registry.builds):
        raise BuildError(f"{name} is being built: --abort its operation")
    else:
        await remove_keys(client, Namespace(name, settings.partitions))


async def drop(settings: Settings, client: Client, namespace: Namespace, operation: str) -> None:
    """Takes a namespace out of the registry, and removes its keys."""
    await builds.forget(client, settings.redis_namespace, namespace.name, operation)
    await asyncio.sleep(_SEEN_SECONDS)
    await remove_keys(client, namespace)


def _live(registry: builds.Registry, settings: Settings) -> Namespace:
    live = registry.live
    if live is None:
        raise BuildError("no namespace is live in Redis: start a worker, which fills one from the tables")
    if not is_ours(settings.redis_namespace, live.name):
        raise BuildError(f"{live.name} has the layout of another version: use that version, or --refold")
    if live.partitions != settings.partitions:
        raise BuildError(f"ATTENDANCE_PARTITIONS: the read models have {live.partitions} partitions: set that number")
    return live


def _check_fresh(filled: Filled, name: str, most_lag: int) -> None:
    if not filled.is_whole:
        raise BuildError(f"{name} is not whole: wait until its workers have filled it, then repeat this")
    if filled.lag is None:
        raise BuildError(f"how far {name} is behind is unknown: its workers do not answer; start them, then repeat this")
    if filled.lag > most_lag:
        raise BuildError(f"{name} is {filled.lag:,} records behind, more than --max-lag {most_lag:,}: wait, then repeat this")
