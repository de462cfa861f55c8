"""Which namespaces a worker writes: of its tables the live one, and builds beside it."""

from typing import NamedTuple

from worker.read_model.builds import BuildState, Namespace, Registry, announce, other_topics, read_registry
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
    has_own_topics: bool = False
    """Whether its topics are not those of the live namespace."""

    @property
    def is_live(self) -> bool:
        """Whether readers use it."""
        return not self.build

    @property
    def sends_messages(self) -> bool:
        """Whether its workers send dead letters and forwards. A build that was never live does so for topics of its own."""
        return self.is_live or self.is_kept or self.has_own_topics

    @property
    def sends_alerts(self) -> bool:
        """Whether its workers send alerts: those of the live namespace, and of a kept one with topics of its own."""
        return self.is_live or (self.is_kept and self.has_own_topics)


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
    live = Namespace(name, settings.partitions, tables, settings.topic_prefix)
    return targets_of(await announce(redis, base, live, settings.shaping()), settings)


def targets_of(registry: Registry, settings: Settings) -> tuple[Target, ...]:
    """The namespaces that workers with these settings write, the live one first.

    Raises:
        SettingsConflict: there is none.
    """
    live, base, tables = registry.live, settings.redis_namespace, settings.tables or FIRST_TABLES
    assert live is not None
    targets = [
        Target(
            build.namespace.name,
            build.operation,
            build.state is BuildState.KEPT,
            has_own_topics=not live.has_prefix(settings.topic_prefix),
        )
        for build in registry.builds
        if build.state is not BuildState.LOADING and _is_of(build.namespace, settings)
    ]
    if _is_of(live, settings):
        targets.insert(0, Target(live.name))
    if targets:
        return tuple(targets)
    if not live.has_prefix(settings.topic_prefix):
        raise SettingsConflict(f"{other_topics(live)}, or another ATTENDANCE_NAMESPACE")
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


def _is_of(namespace: Namespace, settings: Settings) -> bool:
    """Whether workers with these settings write a namespace."""
    return (
        is_ours(settings.redis_namespace, namespace.name)
        and namespace.tables == (settings.tables or FIRST_TABLES)
        and namespace.matches(settings)
    )
