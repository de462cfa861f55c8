"""Which namespaces a worker writes: of its tables the live one, and builds beside it."""

from typing import NamedTuple

from worker.read_model.builds import BuildState, Namespace, Registry, announce, read_registry
from worker.read_model.keys import is_ours, namespace
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.errors import SettingsConflict, TablesDropped
from worker.topics import FIRST_TABLES


class Target(NamedTuple):
    """A namespace that the workers of some tables write."""

    namespace: str
    build: str = ""
    """The operation that made it, or keeps it; empty: it is live."""
    is_kept: bool = False
    """Whether it was live before, and is kept."""

    @property
    def is_live(self) -> bool:
        """Whether readers use it."""
        return not self.build


async def read_targets(settings: Settings, redis: Client, written: tuple[Target, ...] = ()) -> tuple[Target, ...]:
    """The namespaces to write, the live one first. Where none is live yet, or Redis lost it, one becomes so.

    Args:
        settings: of the worker, with its tables.
        redis: the client.
        written: those that it writes so far.

    Raises:
        SettingsConflict: there is none for these settings.
    """
    base, tables = settings.redis_namespace, settings.tables or FIRST_TABLES
    if written and not written[0].is_live:
        registry = await read_registry(redis, base)
        # the workers of the live tables announce it again
        return written if registry.live is None else targets_of(registry, settings)
    name = written[0].namespace if written else namespace(base, int(tables) - 1)
    live = Namespace(name, settings.partitions, tables)
    return targets_of(await announce(redis, base, live, settings.shaping()), settings)


def targets_of(registry: Registry, settings: Settings) -> tuple[Target, ...]:
    """The namespaces that workers with these settings write, the live one first.

    Raises:
        SettingsConflict: there is none.
    """
    live, base, tables = registry.live, settings.redis_namespace, settings.tables or FIRST_TABLES
    assert live is not None
    targets = [
        Target(build.namespace.name, build.operation, build.state is BuildState.KEPT)
        for build in registry.builds
        if build.namespace.tables == tables
        and build.state is not BuildState.LOADING
        and build.namespace.partitions == settings.partitions
        and is_ours(base, build.namespace.name)
    ]
    if live.tables == tables and live.partitions == settings.partitions and is_ours(base, live.name):
        targets.insert(0, Target(live.name))
    if targets:
        return tuple(targets)
    if live.partitions != settings.partitions:
        raise SettingsConflict(
            f"ATTENDANCE_PARTITIONS: the read models in Redis have {live.partitions} partitions, this worker has "
            f"{settings.partitions}; set that number, or another ATTENDANCE_NAMESPACE"
        )
    if not is_ours(base, live.name):
        raise SettingsConflict(
            f"ATTENDANCE_NAMESPACE: the read models in Redis ({live.name}) have the layout of another version; run "
            "`attendance rebuild` of this version, which fills new ones beside them, and start this worker then"
        )
    raise TablesDropped(f"ATTENDANCE_TABLES: no read models are filled from tables {tables}: tables {live.tables} are live")
