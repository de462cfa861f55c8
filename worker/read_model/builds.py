"""The namespaces that workers write: the live one, which readers use, and beside it at most one *build*.

A build is filled while the live namespace is read and written; then it becomes live in one step, and the one that was live
becomes a build that is kept, and written, until it is dropped. Both are fields of one hash, so that readers and workers see
either the state before or the state after.

Readers of older layout versions go on with the namespace that they know: where a build of another layout becomes live, it is
named in fields of its own, with the layout version behind their names (`keys.LIVE_FIELDS`), until the older one is dropped.
"""

from collections.abc import Mapping
from enum import StrEnum
from secrets import token_bytes
from typing import Any, NamedTuple

import orjson

from schemas.query.signatures import KEY_BYTES
from worker.read_model.keys import LIVE_FIELDS, is_ours, live_key, namespace
from worker.read_model.lua_scripts import REGISTRY
from worker.read_model.watermark import parse_hash
from worker.redis.client import Client, answer_timeout, create_redis
from worker.redis.scripts import run
from worker.settings import ENV_PREFIX, Settings, SettingsError
from worker.topics import FIRST_TABLES

_BUILD, _LAST = "build:", "lastBuild"
#: The fields of the live namespace for readers of this layout, and for all others.
_OWN, _PLAIN = LIVE_FIELDS[::2], LIVE_FIELDS[1::2]
_ATTEMPTS = 20


class BuildState(StrEnum):
    """Of a build."""

    FILLING = "filling"
    """Workers fill it from their tables, or write it since."""
    LOADING = "loading"
    """A command fills its tables; no worker takes part yet."""
    KEPT = "kept"
    """It was live before, and can become so again."""


class Namespace(NamedTuple):
    """A namespace of read models, and from what it is filled."""

    name: str
    partitions: int
    tables: str = FIRST_TABLES
    """Names consumer group, changelogs and state folder: see `worker.topics`."""
    topic_prefix: str = ""
    """Of its topics; empty: not recorded, it is that of the workers."""

    def has_prefix(self, prefix: str) -> bool:
        """Whether its topics may have this prefix."""
        return self.topic_prefix in ("", prefix)

    def matches(self, settings: Settings) -> bool:
        """Whether workers with these settings have its topics and its number of partitions."""
        return self.partitions == settings.partitions and self.has_prefix(settings.topic_prefix)

    def settings(self, settings: Settings) -> Settings:
        """The settings of its workers, from those of this process."""
        return settings.model_copy(
            update={
                "topic_prefix": self.topic_prefix or settings.topic_prefix,
                "partitions": self.partitions,
                "tables": self.tables,
            }
        )


class Build(NamedTuple):
    """A namespace that is not live."""

    namespace: Namespace
    operation: str
    """The id of the operation that made it."""
    state: BuildState
    settings: Mapping[str, int]
    """Those that shape results, see `Settings.shaping`."""
    report: str = ""
    """The id of the report of its check; empty: it was not checked yet."""

    def encode(self) -> str:
        _, partitions, tables, topic_prefix = self.namespace
        return orjson.dumps(
            {
                "partitions": partitions,
                "tables": tables,
                "topicPrefix": topic_prefix,
                "operation": self.operation,
                "state": self.state,
                "settings": dict(self.settings),
                "report": self.report,
            }
        ).decode()

    @classmethod
    def decode(cls, name: str, packed: bytes) -> "Build":
        document = orjson.loads(packed)
        of = Namespace(name, int(document["partitions"]), document["tables"], document.get("topicPrefix", ""))
        state = BuildState(document["state"])
        return cls(of, document["operation"], state, document["settings"], document["report"])


class Registry(NamedTuple):
    """The namespaces of one ``ATTENDANCE_NAMESPACE``."""

    live: Namespace | None
    """None: none is live yet."""
    live_settings: Mapping[str, int] | None
    """Those that shape its tables, see `Settings.shaping`; None: not known, as before the first rebuild."""
    builds: tuple[Build, ...]
    fields: Mapping[str, str]
    """As they were read."""

    @property
    def kept(self) -> Build | None:
        """The build that was live before."""
        return next((each for each in self.builds if each.state is BuildState.KEPT), None)

    def build_of(self, operation: str) -> Build | None:
        """The build that an operation made."""
        return next((each for each in self.builds if each.operation == operation), None)


class BuildError(Exception):
    """A build cannot be registered, switched to or dropped; the message says why and what to do."""


async def read_registry(client: Client, base: str) -> Registry:
    """The namespaces under ``ATTENDANCE_NAMESPACE``."""
    async with answer_timeout():
        answer = await client.execute_command("HGETALL", live_key(base))  # type: ignore[no-untyped-call]
    return parse_registry(answer)


async def with_live_tables(settings: Settings) -> Settings:
    """The settings with the tables of the live namespace, unless they name some.

    Raises:
        SettingsError: it is of other topics.
    """
    if settings.tables:
        return settings
    client = create_redis(settings)
    try:
        live = (await read_registry(client, settings.redis_namespace)).live
    finally:
        await client.aclose()
    if live is None:
        return settings
    if not live.has_prefix(settings.topic_prefix):
        raise SettingsError(other_topics(live))
    return settings.model_copy(update={"tables": live.tables})


def other_topics(live: Namespace) -> str:
    """What somebody does whose settings name other topics than those of the live namespace."""
    return (
        f"{ENV_PREFIX}TOPIC_PREFIX: the read models are those of the topics {live.topic_prefix}.*: set "
        f"{ENV_PREFIX}TOPIC_PREFIX={live.topic_prefix} and {ENV_PREFIX}PARTITIONS={live.partitions}"
    )


def parse_registry(answer: Any) -> Registry:
    """The registry from the answer to HGETALL on the live key."""
    fields = {name.decode(): value.decode(errors="replace") for name, value in parse_hash(answer).items()}
    builds = [
        Build.decode(name.removeprefix(_BUILD), value.encode()) for name, value in fields.items() if name.startswith(_BUILD)
    ]
    live = parse_live([fields.get(name) for name in LIVE_FIELDS])
    packed = fields.get(_OWN[3] if _OWN[0] in fields else _PLAIN[3])
    return Registry(live, orjson.loads(packed) if packed else None, tuple(sorted(builds, key=_name_of)), fields)


def _name_of(build: Build) -> str:
    return build.namespace.name


def parse_live(values: list[Any]) -> Namespace | None:
    """The live namespace from the values of `LIVE_FIELDS`."""
    texts = [value.decode() if isinstance(value, bytes) else value for value in values[: len(LIVE_FIELDS)]]
    own, plain = texts[::2], texts[1::2]
    name, partitions, tables, _settings, topic_prefix = plain if own[0] is None else own
    if name is None or partitions is None:
        return None
    return Namespace(name, int(partitions), tables or FIRST_TABLES, topic_prefix or "")


async def announce(client: Client, base: str, namespace: Namespace, settings: Mapping[str, int] | None = None) -> Registry:
    """Makes a namespace live if there is none, and creates the cursor key. Returns the live namespace and the builds.

    Args:
        client: of Redis.
        base: ``ATTENDANCE_NAMESPACE``.
        namespace: that becomes live.
        settings: those that shape it; of the first tables they need not be given.
    """
    key = live_key(base)
    values = {"namespace": namespace.name, "partitions": str(namespace.partitions)}
    if namespace.tables != FIRST_TABLES:
        packed = orjson.dumps(dict(settings or {})).decode()
        values |= {"tables": namespace.tables, "settings": packed, "topicPrefix": namespace.topic_prefix}
    while True:
        async with answer_timeout(), client.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, "cursorKey", token_bytes(KEY_BYTES))
            pipe.hgetall(key)
            *_, fields = await pipe.execute()
        registry = parse_registry(fields)
        if registry.live is not None:
            return registry
        # of several workers the first one decides; it is read again, since Redis may lose it at any moment
        await run(client, REGISTRY, key, orjson.dumps([dict.fromkeys(LIVE_FIELDS, ""), values, []]))


async def reserve(client: Client, base: str) -> str:
    """The name of the next build; it is given to nobody else."""
    async with answer_timeout():
        number = await client.execute_command("HINCRBY", live_key(base), _LAST, 1)  # type: ignore[no-untyped-call]
    return namespace(base, int(number))


async def begin(
    client: Client, base: str, build: Build, live_settings: Mapping[str, int] | None = None, live_prefix: str = ""
) -> None:
    """Registers a build. Workers whose tables it is filled from begin to write it within about a second.

    Args:
        client: of Redis.
        base: ``ATTENDANCE_NAMESPACE``.
        build: the new one.
        live_settings: those that shape the live namespace, for workers that have to choose.
        live_prefix: of the topics of the live namespace, if the build has others.

    Raises:
        BuildError: there is another one.
    """

    def change(registry: Registry) -> "_Change":
        for other in registry.builds:
            if other.namespace.name != build.namespace.name:
                raise BuildError(_occupied(other))
        values = {_BUILD + build.namespace.name: build.encode()}
        live_fields = _OWN if _OWN[0] in registry.fields else _PLAIN
        if live_settings is not None and registry.live_settings is None:
            values[live_fields[3]] = orjson.dumps(dict(live_settings)).decode()
        if live_prefix and registry.live is not None and not registry.live.topic_prefix:
            values[live_fields[4]] = live_prefix
        # if all other fields are as they were: no other build may come meanwhile
        return _Change(values, [])

    await _change(client, base, change)


async def update(client: Client, base: str, build: Build) -> None:
    """Replaces what is registered of a build.

    Raises:
        BuildError: it is not registered any more.
    """

    def change(registry: Registry) -> "_Change":
        _own(registry, build.namespace.name, build.operation)
        return _Change({_BUILD + build.namespace.name: build.encode()}, [])

    await _change(client, base, change)


async def switch(client: Client, base: str, name: str, operation: str, report: str, settings: Mapping[str, int]) -> None:
    """Makes a build live, in one step. The namespace that was live is kept, as a build of this operation.

    Args:
        name: of the build's namespace.
        operation: that made it.
        report: id of its check's report; of a kept build it may be empty.
        settings: those that shape the namespace that was live, if the registry does not have them.

    Raises:
        BuildError: it is not that build any more, or its check has another report.
    """

    def change(registry: Registry) -> "_Change":
        live = registry.live
        if live is not None and live.name == name:
            return _Change({}, [])  # done before
        build = _own(registry, name, operation)
        if build.state is not BuildState.KEPT and (not report or build.report != report):
            raise BuildError(f"{name} was not checked, or was checked again meanwhile: resume {operation}, which checks it")
        if live is None:
            raise BuildError(f"no namespace of {base} is live: Redis lost its data; start the workers, which fill it again")
        kept = Build(live, operation, BuildState.KEPT, registry.live_settings or settings)
        values, gone = _live_fields(registry, base, build)
        return _Change({**values, _BUILD + live.name: kept.encode()}, [*gone, _BUILD + name])

    await _change(client, base, change)


async def forget(client: Client, base: str, name: str, operation: str) -> None:
    """Takes a build out of the registry, so that workers write it no more; its keys stay.

    Raises:
        BuildError: it is another operation's.
    """

    def change(registry: Registry) -> "_Change":
        if not any(each.namespace.name == name for each in registry.builds):
            return _Change({}, [])  # done before
        _own(registry, name, operation)
        gone = [_BUILD + name]
        if registry.fields.get("namespace") == name and registry.live is not None:
            # older readers have used it; the live one takes the plain fields
            values = dict(zip(_PLAIN, [registry.fields.get(name, "") for name in _OWN], strict=True))
            return _Change(values, [*gone, *_OWN])
        return _Change({}, gone)

    await _change(client, base, change)


class _Change(NamedTuple):
    """Values to set by field, and fields to delete."""

    values: Mapping[str, str]
    gone: list[str]


async def _change(client: Client, base: str, change: Any) -> None:
    """Changes the registry, from what it is, in one step."""
    for _ in range(_ATTEMPTS):
        registry = await read_registry(client, base)
        values, gone = change(registry)
        if not values and not gone:
            return
        names = {*LIVE_FIELDS, *values, *gone, *(name for name in registry.fields if name.startswith(_BUILD))}
        expected = {name: registry.fields.get(name, "") for name in names}
        if await run(client, REGISTRY, live_key(base), orjson.dumps([expected, values, gone])):
            return
    raise BuildError("the namespaces are being changed by others again and again: look at `attendance operations`")


def _live_fields(registry: Registry, base: str, new: Build) -> tuple[dict[str, str], list[str]]:
    """The fields to set and to delete so that a namespace becomes live."""
    assert registry.live is not None
    if not is_ours(base, new.namespace.name):
        return {}, list(_OWN)  # a kept one of an older layout: the plain fields still name it
    has_own = _OWN[0] in registry.fields
    fields = _OWN if has_own or not is_ours(base, registry.live.name) else _PLAIN
    name, partitions, tables, topic_prefix = new.namespace
    settings = orjson.dumps(dict(new.settings)).decode()
    return dict(zip(fields, [name, str(partitions), tables, settings, topic_prefix], strict=True)), []


def tables_for(registry: Registry, settings: Settings) -> str:
    """The tables of workers with these settings: those of the live namespace if it was made with them, else of such a build.

    Where there are none, those of the live namespace, whose workers say which setting differs.
    """
    live, base, shaping = registry.live, settings.redis_namespace, settings.shaping()
    if live is None:
        return FIRST_TABLES
    if is_ours(base, live.name) and registry.live_settings in (None, shaping) and live.has_prefix(settings.topic_prefix):
        return live.tables
    for build in registry.builds:
        namespace = build.namespace
        is_served = build.state is not BuildState.LOADING and is_ours(base, namespace.name)
        if is_served and build.settings == shaping and namespace.has_prefix(settings.topic_prefix):
            return namespace.tables
    return live.tables


def _own(registry: Registry, name: str, operation: str) -> Build:
    build = registry.build_of(operation)
    if build is None or build.namespace.name != name:
        raise BuildError(f"{name} is not a build of {operation} any more: see `attendance operations`")
    return build


def _occupied(build: Build) -> str:
    if build.state is BuildState.KEPT:
        return f"{build.namespace.name}, which was live before, is still kept: `attendance rebuild --drop-old` drops it"
    return f"{build.namespace.name} is being built by {build.operation}: --resume or --abort that"
