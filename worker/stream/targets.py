"""Which namespaces a worker writes: of its tables the live one, and builds beside it."""

from typing import NamedTuple

from worker.read_model.builds import BuildState, Registry
from worker.read_model.keys import is_ours, namespace
from worker.read_model.writer import announce
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.errors import SettingsConflict
from worker.topics import FIRST_TABLES


class Target(NamedTuple):
    """A namespace that the workers of some tables write."""

    namespace: str
    build: str
    """The operation that made it, or keeps it; empty: it is live."""

    @property
    def is_live(self) -> bool:
        """Whether readers use it."""
        return not self.build


async def read_targets(settings: Settings, redis: Client) -> tuple[Target, ...]:
    """The namespaces to write, the live one first. Where none is live yet, one becomes so.

    Raises:
        SettingsConflict: there is none for these settings.
    """
    base = settings.redis_namespace
    return targets_of(await announce(redis, base, namespace(base), settings.partitions), settings)


def targets_of(registry: Registry, settings: Settings) -> tuple[Target, ...]:
    """The namespaces that workers with these settings write, the live one first.

    Raises:
        SettingsConflict: there is none.
    """
    live, base, tables = registry.live, settings.redis_namespace, settings.tables or FIRST_TABLES
    assert live is not None
    targets = [
        Target(build.namespace.name, build.operation)
        for build in registry.builds
        if build.namespace.tables == tables
        and build.state is not BuildState.LOADING
        and build.namespace.partitions == settings.partitions
        and is_ours(base, build.namespace.name)
    ]
    if live.tables == tables and live.partitions == settings.partitions and is_ours(base, live.name):
        targets.insert(0, Target(live.name, ""))
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
    raise SettingsConflict(
        f"ATTENDANCE_TABLES: the read models of tables {tables} were dropped; tables {live.tables} are live: set nothing, "
        "and start this worker again"
    )
