"""The keys of a build: opened for the workers that fill it, how far they are, and removed again."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from worker.read_model.builds import Namespace, read_registry
from worker.read_model.freshness import Partition
from worker.read_model.keys import BY_STATUS, UNLISTED, PartitionKeys, is_ours
from worker.read_model.lua_scripts import BUILD
from worker.read_model.watermark import parse_watermark, watermark_command
from worker.read_model.writer import unlink_generation
from worker.redis.client import Client, answer_timeout
from worker.redis.scripts import raise_first_error, run


class Filled(NamedTuple):
    """What a namespace holds now."""

    partitions: Sequence[Partition]
    attendances: int
    """In all partitions, also in those that are being filled."""

    @property
    def is_whole(self) -> bool:
        """Whether every partition is filled."""
        return all(each.state == "live" for each in self.partitions)

    @property
    def lag(self) -> int | None:
        """Records that are not applied yet; None: unknown for some partition."""
        lags = [each.lag for each in self.partitions]
        return None if None in lags else sum(lag or 0 for lag in lags)

    @property
    def without_worker(self) -> list[int]:
        """Partitions that no worker writes."""
        return [each.number for each in self.partitions if not each.has_owner]


async def read_filled(client: Client, namespace: Namespace) -> Filled:
    """How far a namespace is filled."""
    keys = [PartitionKeys(namespace.name, number) for number in range(namespace.partitions)]
    answers = raise_first_error(await client.ask([watermark_command(each.watermark) for each in keys]))
    partitions = [parse_watermark(number, answer) for number, answer in enumerate(answers)]
    commands: list[tuple[Any, ...]] = []
    for each, partition in zip(keys, partitions, strict=True):
        if generation := partition.mark.get("building") or partition.mark.get("keys"):
            prefix = each.prefix(generation)
            commands += ("ZCARD", prefix + BY_STATUS), ("HGET", prefix + UNLISTED, "attendances")
    counts = raise_first_error(await client.ask(commands)) if commands else []
    return Filled(partitions, sum(int(count or 0) for count in counts))


async def describe_builds(client: Client, base: str) -> list[dict[str, Any]]:
    """Each namespace beside the live one, as `GET /v1/status` shows it."""
    shown = []
    for build in (await read_registry(client, base)).builds:
        name, partitions, tables, _ = build.namespace
        document: dict[str, Any] = {"namespace": name, "state": build.state.value, "operation": build.operation}
        document |= {"tables": tables, "partitions": partitions, "filledPartitions": None, "attendances": None, "lag": None}
        if is_ours(base, name):
            filled = await read_filled(client, build.namespace)
            whole = sum(each.state == "live" for each in filled.partitions)
            document |= {"filledPartitions": whole, "attendances": filled.attendances, "lag": filled.lag}
        shown.append(document)
    return shown


async def open_partitions(client: Client, namespace: Namespace, operation: str, handover: str = "") -> None:
    """Allows workers to write a namespace that is not live, for an operation.

    Args:
        client: of Redis.
        namespace: that is written.
        operation: that makes or keeps it.
        handover: the consumer group from which its workers take over, if they are of another.
    """
    for number in range(namespace.partitions):
        await run(client, BUILD, PartitionKeys(namespace.name, number).watermark, "open", operation, handover)


async def remove_keys(client: Client, namespace: Namespace) -> None:
    """Removes every key of a namespace that is neither live nor registered; what is still written to it is refused."""
    for number in range(namespace.partitions):
        keys = PartitionKeys(namespace.name, number)
        for generation in await run(client, BUILD, keys.watermark, "close", ""):
            await unlink_generation(client, keys, generation.decode())
        async with answer_timeout():
            await client.unlink(keys.watermark, keys.changes)
