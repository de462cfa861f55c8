"""Rebuilds the read models beside the live ones, and switches readers to them.

A *build* is a namespace of its own. In place, the workers fill it from their tables, and write it beside the live one from then
on. With tables of its own (a refold, or another layout), this process loads them, and workers with the settings of the build go
on. When it is whole and its lag is small, it is compared with the live namespace; then one step makes it live. The one that was
live is kept, and written, until it is dropped. What is done is in the registry of namespaces and in the position of the
operation; every step may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol

from worker.kafka import open_producer
from worker.ops import topics
from worker.ops.children import Child
from worker.ops.coverage import Coverage, find_coverage
from worker.ops.load_copy import check_row_format
from worker.ops.namespace_check import CheckReport, compare
from worker.ops.own_tables import local_worker, until_served
from worker.ops.table_loader import load
from worker.ops.table_removal import remove_tables
from worker.ops.verify import Verification
from worker.read_model import builds
from worker.read_model.build_keys import Filled, open_partitions, read_filled, remove_keys
from worker.read_model.builds import Build, BuildError, BuildState, Namespace, read_registry
from worker.read_model.keys import is_ours
from worker.read_model.operations import Operations, Running, State
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.group import record_live_tables, recorded_settings
from worker.topics import FIRST_TABLES, group_changelog

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


class Mode(StrEnum):
    """From what a build is filled."""

    IN_PLACE = "in place"
    """The tables of the live namespace, by its workers."""
    COPY = "copy"
    """New tables, copied from those of the live namespace: for another layout."""
    REFOLD = "refold"
    """New tables, folded from the topics and archives."""


class Plan(NamedTuple):
    """What a rebuild will do."""

    mode: Mode
    live: Namespace
    attendances: int
    """In the live namespace; 0 if its layout is another version's."""
    coverage: Coverage | None = None
    """Of a refold: what is read."""


class Shown(Protocol):
    """What the command shows, and asks."""

    def progress(self, unit: str, total: int | None) -> "AbstractContextManager[Callable[[int], None]]": ...
    def report(self, line: str) -> None: ...
    def checked(self, report: CheckReport) -> None: ...
    def may_switch(self, name: str, differences: int) -> Awaitable[bool]: ...


def target(settings: Settings) -> str:
    """What operations on the read models work on: one at a time."""
    return f"{settings.topic_prefix} read models"


async def make_plan(settings: Settings, client: Client, archives: Sequence[Path], *, refold: bool) -> Plan:
    """Plans a rebuild.

    Raises:
        BuildError: nothing is live, there is a build, or no worker runs that would fill one in place.
        LoadError: of a refold: topics and archives do not reach back to the first event.
    """
    base = settings.redis_namespace
    registry = await read_registry(client, base)
    live = registry.live
    if live is None:
        raise BuildError("no namespace is live in Redis: start a worker, which fills one from the tables")
    for build in registry.builds:
        if build.state is BuildState.KEPT:
            raise BuildError(f"{build.namespace.name}, which was live before, is kept: drop it first, with --drop-old")
        raise BuildError(f"{build.namespace.name} is being built by {build.operation}: --resume or --abort that")
    if live.partitions != settings.partitions:
        raise BuildError(f"ATTENDANCE_PARTITIONS: the read models have {live.partitions} partitions: set that number")
    is_readable = is_ours(base, live.name)
    filled = await read_filled(client, live) if is_readable else Filled((), 0)
    if refold:
        coverage = await find_coverage(settings.model_copy(update={"tables": live.tables}), archives)
        coverage.check()
        return Plan(Mode.REFOLD, live, filled.attendances, coverage)
    if not is_readable:
        await check_row_format(settings.model_copy(update={"tables": live.tables}))
        return Plan(Mode.COPY, live, 0)
    if registry.live_settings not in (None, settings.shaping()):
        raise BuildError(
            "the tables were made with other settings (those marked * in deploy/README.md): --refold, or set those"
        )
    if len(filled.without_worker) == live.partitions:
        raise BuildError(f"no worker writes {live.name}, and workers fill a build: start one, then repeat this")
    return Plan(Mode.IN_PLACE, live, filled.attendances)


async def begin(operations: Operations, settings: Settings, plan: Plan, request: dict[str, Any]) -> Running:
    """Begins the operation.

    Raises:
        OperationError: another one works on the read models.
    """
    asked = {
        "mode": plan.mode.value,
        "from": plan.live.name,
        "tables": plan.live.tables,
        "attendances": plan.attendances,
        **request,
    }
    return await operations.begin(COMMAND, target(settings), asked, {})


class Rebuild:
    """One rebuild, from the position of its operation on.

    Args:
        settings: of this process.
        client: of Redis.
        running: the operation.
        shown: what is shown and asked.
    """

    def __init__(self, settings: Settings, client: Client, running: Running, shown: Shown) -> None:
        self._base = settings.redis_namespace
        self._client = client
        self._running = running
        self._shown = shown
        self._operation = running.operation.id
        self._request = running.operation.request
        self._mode = Mode(self._request["mode"])
        self._source = settings.model_copy(update={"tables": self._request["tables"]})
        self._worker: Child | None = None

    @property
    def _settings(self) -> Settings:
        """With the tables of the build."""
        return self._source.model_copy(update={"tables": self._position["tables"]})

    @property
    def _position(self) -> Mapping[str, Any]:
        return self._running.operation.position

    async def run(self, stop: asyncio.Event) -> bool | State:
        """Goes on until the build is live, or READY; returns that, or False if it was stopped.

        Raises:
            BuildError: the build is gone, is behind, or differs.
        """
        async with AsyncExitStack() as stack:
            if "switched" not in self._position:
                await self._register()
                if not await self._load(stop):
                    return False
                if self._mode is not Mode.IN_PLACE:
                    self._worker = await stack.enter_async_context(local_worker(self._settings))
                if not await self._until_filled(stop):
                    return False
                found = await self._check(stop)
                if found is None or stop.is_set():
                    return False
                await self._running.mark(State.READY)
                if not await self._shown.may_switch(self._position["namespace"], found.difference_count):
                    return State.READY
                await self._switch(found)
            elif self._mode is not Mode.IN_PLACE:
                self._worker = await stack.enter_async_context(local_worker(self._settings))
            if self._mode is not Mode.IN_PLACE:
                await self._hand_over(stop)
        return State.SWITCHED

    async def _register(self) -> None:
        """Registers the build, if that was not done yet."""
        registry, position = await read_registry(self._client, self._base), self._position
        if registry.build_of(self._operation) is not None:
            return
        if "begun" in position:
            raise BuildError(f"{position['namespace']} is not in Redis any more, which lost it: --abort {self._operation}")
        # its name is saved before anything is written, so that whatever a killed process leaves can be removed
        name = position.get("namespace") or await builds.reserve(self._client, self._base)
        is_own = self._mode is not Mode.IN_PLACE
        # the first tables have the number 1, and the first namespace has 0
        tables = str(int(name.rpartition(".")[2]) + 1) if is_own else self._source.tables
        await self._save(namespace=name, tables=tables)
        namespace = Namespace(name, self._source.partitions, tables)
        await open_partitions(self._client, namespace, self._operation, self._source.group if is_own else "")
        state = BuildState.LOADING if is_own else BuildState.FILLING
        build = Build(namespace, self._operation, state, self._source.shaping())
        await builds.begin(self._client, self._base, build, await self._live_settings())
        await self._save(begun=1)

    async def _live_settings(self) -> Mapping[str, int] | None:
        """Those that shape the live tables; None: a version made them that recorded none."""
        source = self._source
        if not await topics.exists(source, group_changelog(source.topic_prefix, source.tables)):
            return None
        return await recorded_settings(source)

    async def _load(self, stop: asyncio.Event) -> bool:
        """Loads the tables of the build, if it has its own, and hands it to workers; returns False if it was stopped."""
        build = await self._registered()
        if build.state is not BuildState.LOADING:
            return True
        archives, total = [Path(each) for each in self._request["archives"]], self._request.get("records")
        with self._shown.progress("records", total) as progress:
            is_loaded = await load(
                self._settings,
                self._source,
                self._client,
                self._running,
                build.namespace,
                archives,
                refold=self._mode is Mode.REFOLD,
                stop=stop,
                progress=progress,
            )
        if is_loaded:
            await builds.update(self._client, self._base, build._replace(state=BuildState.FILLING))
        return is_loaded

    async def _until_filled(self, stop: asyncio.Event) -> bool:
        """Waits until the build is whole and its lag is small; returns False if it was stopped.

        Raises:
            BuildError: the build is gone: Redis lost it, or it was aborted.
        """
        build, quiet_since = (await self._registered()).namespace, monotonic()
        most_lag = int(self._request["maxLag"])
        with self._shown.progress("attendances", int(self._request["attendances"]) or None) as progress:
            while not stop.is_set():
                if self._worker is not None:
                    self._worker.check()
                filled = await read_filled(self._client, build)
                progress(filled.attendances)
                await self._running.save(counts={**self._running.operation.counts, "attendances": filled.attendances})
                if filled.is_whole and filled.lag is not None and filled.lag <= most_lag:
                    return True
                if not filled.without_worker:
                    quiet_since = monotonic()
                elif monotonic() - quiet_since > _REPORT_SECONDS:
                    quiet_since = monotonic()
                    await self._registered()
                    missing = ", ".join(map(str, filled.without_worker))
                    self._shown.report(f"no worker writes partitions {missing} of {build.name}: start one")
                await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _check(self, stop: asyncio.Event) -> CheckReport | None:
        """Compares the build with the live namespace, and registers the report; None if it was stopped."""
        registry, build = await read_registry(self._client, self._base), await self._registered()
        live, sample = registry.live, int(self._request["sample"])
        if live is None:
            raise BuildError("no namespace is live in Redis, which lost it: wait until a worker has filled one, then --resume")
        if not is_ours(self._base, live.name):
            # what another version wrote cannot be read: the build is only counted
            self._shown.report(f"not compared with {live.name}, whose layout is another version's: `attendance verify` later")
            live = build.namespace
        with self._shown.progress("places compared", None) as progress:
            found = await compare(self._client, live, build.namespace, sample=sample, on_progress=progress, stop=stop.is_set)
        if stop.is_set():
            return None
        if not found.is_complete:
            raise BuildError(f"{build.namespace.name} is filled again and again, and was not compared: see its workers' logs")
        await builds.update(self._client, self._base, build._replace(report=found.id))
        counts = {**self._running.operation.counts, **found.compared, "differences": found.difference_count}
        await self._running.save({**self._position, "report": found.id}, counts)
        self._shown.checked(found)
        return found

    async def _switch(self, found: CheckReport) -> None:
        """Makes the build live, if its lag is small; the namespace that was live is kept."""
        registry, name = await read_registry(self._client, self._base), self._position["namespace"]
        if registry.live is not None and registry.live.name != name:
            build = await self._registered()
            _check_fresh(await read_filled(self._client, build.namespace), name, int(self._request["maxLag"]))
            # the one that is live is written as a kept one from then on
            await open_partitions(self._client, registry.live, self._operation)
            await builds.switch(self._client, self._base, name, self._operation, found.id, self._source.shaping())
        await self._save(switched=1)

    async def _hand_over(self, stop: asyncio.Event) -> None:
        """Has the alerts topic say what the new tables do, and leaves the partitions to other workers."""
        await record(self._settings, self._position["tables"])
        await correct_alerts(self._settings, self._client, self._running, self._shown)
        if self._worker is not None:
            await until_served(self._settings, self._worker, stop, self._shown.report)

    async def remove(self) -> State:
        """Removes everything that this rebuild made; of one that was killed behind its switch nothing, and returns SWITCHED.

        Raises:
            BuildError: the build is live, and has still to take over, or was live before.
        """
        if (name := self._position.get("namespace")) is not None:
            registry = await read_registry(self._client, self._base)
            if registry.live is not None and registry.live.name == name:
                if self._mode is Mode.IN_PLACE:
                    return State.SWITCHED
                raise BuildError(f"{name} is live: --resume {self._operation} ends what is left; then --rollback goes back")
            if any(each.namespace.name == name and each.state is BuildState.KEPT for each in registry.builds):
                raise BuildError(f"{name} was live before, and is kept: --drop-old removes it")
            namespace = Namespace(name, self._source.partitions, self._position["tables"])
            await drop(self._settings, self._client, namespace, self._operation)
        return State.ABORTED

    async def _registered(self) -> Build:
        registry = await read_registry(self._client, self._base)
        build = registry.build_of(self._operation)
        if build is None:
            name = self._position.get("namespace", "the build")
            raise BuildError(f"{name} is not in Redis any more, which lost it: --abort {self._operation}, and begin anew")
        return build

    async def _save(self, **position: Any) -> None:
        await self._running.save({**self._position, **position})


async def find_kept(settings: Settings, client: Client) -> tuple[Namespace, Build]:
    """The live namespace, and the one that was live before.

    Raises:
        BuildError: none is kept.
    """
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is None or registry.kept is None:
        raise BuildError("no earlier namespace is kept: a rebuild keeps the one that was live, until it is dropped")
    return registry.live, registry.kept


async def roll_back(settings: Settings, client: Client, running: Running, shown: Shown, most_lag: int) -> State:
    """Makes the kept namespace live again, in one step, and keeps the other.

    Raises:
        BuildError: none is kept, or it is behind.
    """
    name = running.operation.request["rollback"]
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is not None and registry.live.name != name:
        live, kept = await find_kept(settings, client)
        if is_ours(settings.redis_namespace, name):
            _check_fresh(await read_filled(client, kept.namespace), name, most_lag)
        await open_partitions(client, live, kept.operation)
        await builds.switch(client, settings.redis_namespace, name, kept.operation, "", settings.shaping())
    registry = await read_registry(client, settings.redis_namespace)
    if registry.live is not None and registry.kept is not None and registry.live.tables != registry.kept.namespace.tables:
        own = settings.model_copy(update={"tables": registry.live.tables})
        await record(own, registry.live.tables)
        if is_ours(settings.redis_namespace, name):
            await correct_alerts(own, client, running, shown)
    return State.SWITCHED


async def record(settings: Settings, tables: str) -> None:
    """Records in Kafka which tables are live."""
    async with open_producer(settings) as producer:
        await record_live_tables(settings, producer, tables)


async def correct_alerts(settings: Settings, client: Client, running: Running, shown: Shown) -> None:
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


async def drop_kept(settings: Settings, client: Client, running: Running, shown: Shown) -> State:
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
    namespace = Namespace(name, int(request["partitions"]), request["tables"])
    own = settings.model_copy(update={"tables": namespace.tables})
    await drop(own, client, namespace, request["operation"], live=registry.live)
    if registry.live is not None and not is_ours(settings.redis_namespace, name):
        await correct_alerts(settings.model_copy(update={"tables": registry.live.tables}), client, running, shown)
    return State.DONE


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


def _check_fresh(filled: Filled, name: str, most_lag: int) -> None:
    if not filled.is_whole:
        raise BuildError(f"{name} is not whole: wait until its workers have filled it, then repeat this")
    if filled.lag is None:
        raise BuildError(f"how far {name} is behind is unknown: its workers do not answer; start them, then repeat this")
    if filled.lag > most_lag:
        raise BuildError(f"{name} is {filled.lag:,} records behind, more than --max-lag {most_lag:,}: wait, then repeat this")
