"""Where a text, as a booking's id, is still found: in Redis, in what compaction keeps of topics, in stores and in archives.

Values are read by their type and unpacked, since Redis and tables compress some of what they keep.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.support.system import System
from worker.domain.rows import original_of
from worker.engine.stores import open_store
from worker.engine.stores.base import SEPARATOR
from worker.engine.stores.memory import MemoryStore
from worker.ops.archive_reader import find_sources, read_records
from worker.redis.client import create_redis, masters
from worker.topics import TABLES, TopicNames, group_changelog, group_of

_AT_ONCE = 2_000


def traces(system: System, texts: Collection[str], *, archives: Iterable[Path] = ()) -> list[str]:
    """The places where one of the texts is found: Redis, tables' changelogs, alerts and the group's topic, archives."""
    places = [*in_redis(system), *in_topics(system), *in_archives(archives)]
    return named(places, texts)


def named(places: Iterable[tuple[str, bytes]], texts: Collection[str]) -> list[str]:
    """Names of the places, of which each is given with all that it holds, that have one of the texts."""
    sought = [text.encode() for text in texts]
    return sorted({name for name, content in places if any(text in content for text in sought)})


def in_redis(system: System) -> list[tuple[str, bytes]]:
    """Every key of the tenant, with its name and all members and values."""

    async def reading() -> list[tuple[str, bytes]]:
        client = create_redis(system.settings)
        try:
            return [each async for each in _content(client, f"*{system.settings.redis_namespace}*")]
        finally:
            await client.aclose()

    return asyncio.run(reading())


async def _content(client: Any, pattern: str) -> AsyncIterator[tuple[str, bytes]]:
    for server in await masters(client):
        async for key in server.scan_iter(pattern, count=_AT_ONCE):
            kind = (await server.type(key)).decode()
            reads: dict[str, tuple[str, ...]] = {
                "string": ("GET",),
                "hash": ("HGETALL",),
                "set": ("SMEMBERS",),
                "zset": ("ZRANGE", "0", "-1"),
                "list": ("LRANGE", "0", "-1"),
                "stream": ("XRANGE", "-", "+"),
            }
            if kind in reads:  # it may have gone meanwhile
                command, *rest = reads[kind]
                yield f"redis {key.decode()}", key + b" " + b" ".join(_flat(await server.execute_command(command, key, *rest)))


def _flat(answer: Any) -> Iterator[bytes]:
    if isinstance(answer, bytes):
        yield answer
    elif isinstance(answer, dict):
        yield from _flat([*answer.keys(), *answer.values()])
    elif isinstance(answer, Iterable):
        for each in answer:
            yield from _flat(each)
    elif answer is not None:
        yield str(answer).encode()


def in_topics(system: System) -> list[tuple[str, bytes]]:
    """What compaction would keep of the changelogs and of the alerts topic: the last record of each key, deletions aside."""
    settings = system.settings
    topics = TopicNames.of(settings.topic_prefix, settings.tables)
    found = []
    for topic in (topics.attendance_changelog, topics.bookings_changelog, topics.alerts):
        for key, value in kept(system, topic).items():
            original = original_of(value) if topic == topics.bookings_changelog else b""
            found.append((f"topic {topic} {key!r}", b" ".join((key, value, original))))
    of_group = system.consume(group_changelog(settings.topic_prefix, settings.tables), 1)
    return found + [(f"topic {each.topic}", each.key + (each.value or b"")) for each in of_group]


def kept(system: System, topic: str) -> dict[bytes, bytes]:
    """What compaction would keep of a topic, by key."""
    last = {record.key: record.value for record in system.consume(topic)}
    return {key: value for key, value in last.items() if value is not None}


def in_store(system: System) -> list[tuple[str, bytes]]:
    """Every row of the store, of which no worker may run."""
    settings = system.settings
    store = open_store(settings.store, group_of(settings.topic_prefix, settings.tables))
    assert not isinstance(store, MemoryStore), "a store in memory is gone with its worker"
    found = []
    try:
        for number, table in enumerate(TABLES):
            for partition in range(settings.partitions):
                for page in store.table(number).pages(partition):
                    for key, row in page:
                        is_reference = table == "bookings" and key.endswith(SEPARATOR)
                        found.append(
                            (f"store {table} {key!r}", b" ".join((key, row, original_of(row) if is_reference else b"")))
                        )
    finally:
        store.close()
    return found


def in_archives(folders: Iterable[Path]) -> list[tuple[str, bytes]]:
    """Every record of archives, every file's name, and their manifests."""
    found = []
    for folder in folders:
        found += [(f"file {path.name}", path.name.encode()) for path in folder.iterdir()]
        found.append(("manifest", (folder / "manifest.json").read_bytes()))
        for record in read_records(find_sources([folder])):
            headers = b" ".join(value or b"" for _, value in record.headers)
            content = b" ".join((record.key or b"", record.value or b"", headers))
            found.append((f"archive {record.topic} {record.partition} {record.offset}", content))
    return found
