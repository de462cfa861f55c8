"""Rebuilds the read models beside the live ones, and switches readers to them.

A *build* is a namespace of its own. In place, the workers fill it from their tables, and write it beside the live one from then
on. With tables of its own (a refold, or another layout), this process loads them, and workers with the settings of the build go
on. When it is whole and its lag is small, it is compared with the live namespace; then one step makes it live. The one that was
live is kept, and written, until it is dropped. What is done is in the registry of namespaces and in the position of the
operation; every step may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol

from worker.ops import topics
from worker.ops.children import Child
from worker.ops.coverage import Coverage, find_coverage
from worker.ops.kept_namespace import ShownProgress, check_fresh, correct_alerts, drop, record
from worker.ops.load_copy import check_row_format
from worker.ops.mirror import mirror_lag
from worker.ops.namespace_check import CheckReport, compare
from worker.ops.new_topics import CREATED, check_new, prepare
from worker.ops.own_tables import local_mirror, local_worker, until_served
from worker.ops.table_loader import load
from worker.ops.table_removal import delete_topics
from worker.read_model import builds
from worker.read_model.build_keys import Filled, open_partitions, read_filled
from worker.read_model.builds import Build, BuildError, BuildState, Namespace, other_topics, read_registry
from worker.read_model.keys import is_ours
from worker.read_model.operations import Operations, Running, State
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.group import recorded
from worker.topics import group_changelog

COMMAND = "rebuild"
#: Records that a build may be behind the topics when it is compared and becomes live.
MOST_LAG = 1_000
#: Attendances that are compared one by one.
SAMPLE = 2_000
_POLL_SECONDS = 0.5
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
    NEW_TOPICS = "new topics"
    """New tables of new topics, to which topics and archives are copied: for another number of partitions."""


class Plan(NamedTuple):
    """What a rebuild will do."""

    mode: Mode
    live: Namespace
    attendances: int
    """In the live namespace; 0 if its layout is another version's."""
    coverage: Coverage | None = None
    """Of a refold: what is read."""


class Shown(ShownProgress, Protocol):
    """What the command shows, and asks."""

    def report(self, line: str) -> None: ...
    def checked(self, report: CheckReport) -> None: ...
    def may_switch(self, name: str, differences: int) -> Awaitable[bool]: ...


def target(settings: Settings) -> str:
    """What operations on the read models work on: one at a time."""
    return f"{settings.redis_namespace} read models"


async def make_plan(
    settings: Settings, client: Client, archives: Sequence[Path], *, refold: bool, from_prefix: str = ""
) -> Plan:
    """Plans a rebuild.

    Args:
        settings: of the build.
        client: of Redis.
        archives: folders, or files of them, for a refold.
        refold: into tables of its own.
        from_prefix: of the topics of the live namespace, if the build is to have others.

    Raises:
        BuildError: nothing is live, there is a build, or no worker runs that would fill one in place.
        LoadError: of a refold: topics and archives do not reach back to the first event.
    """
    base = settings.redis_namespace
    registry = await read_registry(client, base)
    live = registry.live
    if live is None:
        cure = f"set ATTENDANCE_NAMESPACE to that of the workers of {from_prefix}" if from_prefix else "start a worker"
        raise BuildError(f"no namespace is live in Redis under {base}: {cure}")
    for build in registry.builds:
        if build.state is BuildState.KEPT:
            raise BuildError(f"{build.namespace.name}, which was live before, is kept: drop it first, with --drop-old")
        raise BuildError(f"{build.namespace.name} is being built by {build.operation}: --resume or --abort that")
    if from_prefix:
        return await _plan_new_topics(settings, client, live, archives, from_prefix)
    if not live.has_prefix(settings.topic_prefix):
        raise BuildError(other_topics(live))
    if live.partitions != settings.partitions:
        raise BuildError(
            f"ATTENDANCE_PARTITIONS: the read models have {live.partitions} partitions: set that number; to have "
            f"{settings.partitions}, set ATTENDANCE_TOPIC_PREFIX to that of new topics too, and run "
            f"`attendance rebuild --refold --from-prefix {settings.topic_prefix}`"
        )
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


async def _plan_new_topics(
    settings: Settings, client: Client, live: Namespace, archives: Sequence[Path], from_prefix: str
) -> Plan:
    if not live.has_prefix(from_prefix):
        raise BuildError(
            f"--from-prefix: the read models are those of the topics {live.topic_prefix}.*: name {live.topic_prefix}"
        )
    if from_prefix == settings.topic_prefix:
        raise BuildError(f"ATTENDANCE_TOPIC_PREFIX: is {from_prefix}, that of the topics in use: set one whose topics are new")
    await check_new(settings)
    live = live._replace(topic_prefix=from_prefix)
    coverage = await find_coverage(live.settings(settings), archives)
    coverage.check()
    is_readable = is_ours(settings.redis_namespace, live.name)
    attendances = (await read_filled(client, live)).attendances if is_readable else 0
    return Plan(Mode.NEW_TOPICS, live, attendances, coverage)


async def begin(operations: Operations, settings: Settings, plan: Plan, request: dict[str, Any]) -> Running:
    """Begins the operation.

    Raises:
        OperationError: another one works on the read models.
    """
    asked = {
        "mode": plan.mode.value,
        "from": plan.live.name,
        "tables": plan.live.tables,
        "topicPrefix": plan.live.topic_prefix,
        "partitions": plan.live.partitions,
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
        self._own = settings
        partitions, topic_prefix = self._request.get("partitions", settings.partitions), self._request.get("topicPrefix", "")
        self._live = Namespace(self._request["from"], partitions, self._request["tables"], topic_prefix)
        self._source = self._live.settings(settings)
        self._processes: list[Child] = []

    @property
    def _settings(self) -> Settings:
        """With the tables of the build."""
        return self._own.model_copy(update={"tables": self._position["tables"]})

    @property
    def _namespace(self) -> Namespace:
        """The build's."""
        topic_prefix = self._own.topic_prefix if self._mode is Mode.NEW_TOPICS else self._live.topic_prefix
        return Namespace(self._position["namespace"], self._own.partitions, self._position["tables"], topic_prefix)

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
                await self._start_processes(stack)
                if not await self._until_filled(stop):
                    return False
                found = await self._check(stop)
                if found is None or stop.is_set():
                    return False
                await self._running.mark(State.READY)
                if not await self._shown.may_switch(self._position["namespace"], found.difference_count):
                    return State.READY
                # the question may have waited long, and a worker may be replaced at this moment
                if not await self._until_filled(stop):
                    return False
                await self._switch(found)
            else:
                await self._start_processes(stack)
            if self._mode is not Mode.IN_PLACE:
                await self._hand_over(stop)
        return State.SWITCHED

    async def _start_processes(self, stack: AsyncExitStack) -> None:
        """Starts what serves a build of its own tables until the workers do."""
        if self._mode is not Mode.IN_PLACE:
            self._processes.append(await stack.enter_async_context(local_worker(self._settings)))
        if self._mode is Mode.NEW_TOPICS:
            self._processes.append(await stack.enter_async_context(local_mirror()))

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
        # of other topics nothing is left to be sent
        is_same = is_own and self._mode is not Mode.NEW_TOPICS
        await open_partitions(self._client, self._namespace, self._operation, self._source.group if is_same else "")
        state = BuildState.LOADING if is_own else BuildState.FILLING
        build = Build(self._namespace, self._operation, state, self._own.shaping())
        await builds.begin(self._client, self._base, build, await self._live_settings(), self._live.topic_prefix)
        await self._save(begun=1)

    async def _live_settings(self) -> Mapping[str, int] | None:
        """Those that shape the live tables; None: a version made them that recorded none."""
        source = self._source
        if not await topics.exists(source, group_changelog(source.topic_prefix, source.tables)):
            return None
        record = await recorded(source)
        return None if record is None else record.settings

    async def _load(self, stop: asyncio.Event) -> bool:
        """Loads the tables of the build, if it has its own, and hands it to workers; returns False if it was stopped."""
        build = await self._registered()
        if build.state is not BuildState.LOADING:
            return True
        archives, total = [Path(each) for each in self._request["archives"]], self._request.get("records")
        if self._mode is Mode.NEW_TOPICS:
            total = self._request.get("archived")
        with self._shown.progress("records", total) as progress:
            of = self._settings, self._source, self._client, self._running
            if self._mode is Mode.NEW_TOPICS:
                is_loaded = await prepare(*of, archives, stop=stop, progress=progress)
            else:
                is_loaded = await load(
                    *of, build.namespace, archives, refold=self._mode is Mode.REFOLD, stop=stop, progress=progress
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
                for process in self._processes:
                    process.check()
                filled = await read_filled(self._client, build)
                progress(filled.attendances)
                await self._running.save(counts={**self._running.operation.counts, "attendances": filled.attendances})
                if filled.is_whole and filled.lag is not None and filled.lag + await self._mirror_lag() <= most_lag:
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

    async def _mirror_lag(self) -> int:
        """Records that are not copied yet to the topics of the build."""
        return await mirror_lag(self._source, self._settings) if self._mode is Mode.NEW_TOPICS else 0

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
            build, most_lag = await self._registered(), int(self._request["maxLag"])
            check_fresh(await read_filled(self._client, build.namespace), name, most_lag, await self._mirror_lag())
            # the one that is live is written as a kept one from then on
            await open_partitions(self._client, registry.live, self._operation)
            await builds.switch(self._client, self._base, name, self._operation, found.id, self._source.shaping())
        await self._save(switched=1)

    async def _hand_over(self, stop: asyncio.Event) -> None:
        """Has the alerts topic say what the new tables do, and leaves the partitions to other workers."""
        await record(self._settings, self._namespace, self._live)
        await correct_alerts(self._settings, self._client, self._running, self._shown)
        await until_served(self._settings, self._processes, stop, self._shown.report)

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
            await drop(self._settings, self._client, self._namespace, self._operation)
            if created := self._position.get(CREATED):
                await delete_topics(self._settings, created)
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
