"""Checks broker, topics, Redis, workers and settings; each finding says what to do."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

from aiokafka.errors import KafkaConnectionError, KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from worker.engine.fetching import missing_codecs
from worker.ops import session_timeout, topics
from worker.ops.refusals import Refusal, first_line, kafka_refusal, lacking_rights, redis_refusal, unreachable
from worker.ops.worker_status import describe, worker_statuses
from worker.read_model import rights
from worker.read_model.builds import other_topics, read_registry
from worker.read_model.freshness import find_problems
from worker.read_model.reader import AttendanceReader, NotServing, OtherLayout
from worker.redis.client import Client, create_redis, masters
from worker.redis.cluster import NoCluster
from worker.settings import ENV_PREFIX, Settings

_TIMEOUT = 15.0
_NO_EVICTION = "noeviction"


class Finding(NamedTuple):
    """The result of one check."""

    what: str
    ok: bool
    detail: str


async def examine(settings: Settings) -> list[Finding]:
    """Checks broker, topics, codecs, Redis and workers. A service that is unavailable is a finding, not an exception."""
    return [
        *await examine_broker(settings),
        examine_codecs(),
        *await examine_redis(settings),
        *await examine_workers(settings),
        *await asyncio.to_thread(examine_workers_here, settings),
    ]


async def examine_broker(settings: Settings) -> list[Finding]:
    """Checks that the broker answers and that the topics are as they must be."""
    try:
        return await inspect_broker(settings)
    except (KafkaError, OSError, TimeoutError) as error:
        return [Finding("broker", False, await broker_failure(settings, error))]


async def inspect_broker(settings: Settings) -> list[Finding]:
    """As `examine_broker`, but raises if the broker does not answer.

    Raises:
        KafkaError, OSError, TimeoutError: the broker does not answer, or refuses us.
    """
    async with asyncio.timeout(_TIMEOUT):
        topic_problems = await topics.check(settings)
        timeout_problems = await session_timeout.problems(settings)
    reached = Finding("broker", True, f"answers at {', '.join(settings.bootstrap_servers)}")
    bad = [Finding("topics", False, problem) for problem in topic_problems]
    good = Finding("topics", True, f"{len(topics.plans(settings))} topics exist with the required configs")
    return [reached, *(bad or [good]), *(Finding("session timeout", False, problem) for problem in timeout_problems)]


async def examine_redis(settings: Settings) -> list[Finding]:
    """Checks that Redis answers, its version, eviction, the user's rights, and the number of partitions recorded in it."""
    try:
        return await inspect_redis(settings)
    except (RedisError, OSError, TimeoutError) as error:
        return [Finding("redis", False, await redis_failure(settings, error))]


def examine_codecs() -> Finding:
    """Checks that every codec of Kafka can be decoded on this machine."""
    if missing := missing_codecs():
        return Finding("codecs", False, f"{', '.join(missing)} cannot be decoded here: install cramjam")
    return Finding("codecs", True, "gzip, snappy, lz4 and zstd are decoded")


async def examine_workers(settings: Settings) -> list[Finding]:
    """Checks that every partition has a worker, and that Kafka answers it; no finding if Redis does not answer."""
    client = create_redis(settings)
    try:
        async with asyncio.timeout(_TIMEOUT):
            partitions = await AttendanceReader(client, settings.redis_namespace).status()
    except NotServing:
        return [Finding("workers", True, f"no worker has filled the namespace {settings.redis_namespace} yet: start one")]
    except OtherLayout as error:
        return [Finding("workers", False, str(error))]
    except (RedisError, OSError, TimeoutError):
        return []
    finally:
        await client.aclose()
    bad = [Finding("workers", False, each.description) for each in find_problems(partitions)]
    oldest = max(each.fresh_age for each in partitions)
    fresh = "" if oldest == inf else f"; the oldest read models are {oldest:.0f} s old"
    return bad or [Finding("workers", True, f"each of {len(partitions)} partitions has a worker, and Kafka answers it{fresh}")]


def examine_workers_here(settings: Settings) -> list[Finding]:
    """Asks the workers on this machine whether they are ready; no finding where none answers."""
    return [Finding("worker here", status["ready"], describe(status)) for status in worker_statuses(settings)]


async def inspect_redis(settings: Settings) -> list[Finding]:
    """As `examine_redis`, but raises if Redis does not answer.

    Raises:
        RedisError, OSError, TimeoutError: Redis does not answer, or refuses us.
    """
    client = create_redis(settings)
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await _redis_findings(client, settings)
    finally:
        await client.aclose()


async def broker_failure(settings: Settings, error: BaseException) -> str:
    """One line for an error of a Kafka client: the broker refuses us, or does not answer."""
    refusal = await kafka_refusal(settings, error)
    if refusal is not None:
        return broker_refuses(settings, refusal)
    # the text of this error has addresses, but not what went wrong
    is_vague = isinstance(error, KafkaConnectionError)
    return broker_away(settings, await unreachable(settings.bootstrap_servers) if is_vague else first_line(error))


async def redis_failure(settings: Settings, error: BaseException) -> str:
    """One line for an error of redis-py: Redis refuses us, or does not answer."""
    refusal = await redis_refusal(settings, error)
    return redis_away(settings, error) if refusal is None else redis_refuses(settings, refusal)


def broker_away(settings: Settings, reason: str) -> str:
    """One line for a broker that cannot be reached."""
    servers = settings.kafka_address
    return f"{ENV_PREFIX}BROKER: Kafka at {servers} is unavailable ({reason}): start it, or set another address"


def broker_refuses(settings: Settings, refusal: Refusal) -> str:
    """One line for a broker that refuses us."""
    servers = settings.kafka_address
    return f"{ENV_PREFIX}BROKER: Kafka at {servers} refuses this client ({refusal.reason}): {refusal.cure}"


def redis_away(settings: Settings, error: BaseException) -> str:
    """One line for a Redis that cannot be reached, without its password."""
    where = settings.redis_address
    return f"{ENV_PREFIX}REDIS: Redis at {where} is unavailable ({first_line(error)}): start it, or set another address"


def redis_refuses(settings: Settings, refusal: Refusal) -> str:
    """One line for a Redis that refuses us, without its password."""
    return f"{ENV_PREFIX}REDIS: Redis at {settings.redis_address} refuses this client ({refusal.reason}): {refusal.cure}"


async def _redis_findings(client: Client, settings: Settings) -> list[Finding]:
    try:
        infos: list[dict[str, Any]] = [await server.info() for server in await masters(client)]
    except NoCluster as error:
        return [Finding("redis", False, f"{ENV_PREFIX}REDIS: {error}: write redis://host:port/db")]
    if infos[0].get("cluster_enabled") and not settings.is_redis_cluster:
        hint = "write redis+cluster://host:port"
        return [
            Finding(
                "redis", False, f"{ENV_PREFIX}REDIS: the server at {settings.redis_address} belongs to a Redis Cluster: {hint}"
            )
        ]
    findings = [_version(infos), await _eviction(client, infos, settings), await _rights(client, settings)]
    registry = await read_registry(client, settings.redis_namespace)
    namespaces, live = [build.namespace for build in registry.builds], registry.live
    if live is not None and not any(each.matches(settings) for each in (live, *namespaces)):
        if not live.has_prefix(settings.topic_prefix):
            findings.append(Finding("topics", False, other_topics(live)))
        elif live.partitions != settings.partitions:
            detail = f"{ENV_PREFIX}PARTITIONS is {settings.partitions}, the read models have {live.partitions}"
            findings.append(Finding("partitions", False, f"{detail}: set that, or another {ENV_PREFIX}NAMESPACE"))
    return findings


def _version(infos: Sequence[dict[str, Any]]) -> Finding:
    """Checks the oldest version of the servers."""
    versions = [str(info.get("valkey_version") or info.get("redis_version")) for info in infos]
    version = min(versions, key=lambda text: int(text.split(".")[0]))
    is_supported = int(version.split(".")[0]) >= 7
    masters_count = f", {len(infos)} masters" if len(infos) > 1 else ""
    return Finding("redis", is_supported, f"version {version}{masters_count}" + ("" if is_supported else ": use 7 or newer"))


async def _eviction(client: Client, infos: Sequence[dict[str, Any]], settings: Settings) -> Finding:
    """Checks that no server evicts keys; names the first that does."""
    servers = await masters(client)
    policies = [(await _policy(server, info), info.get("tcp_port")) for server, info in zip(servers, infos, strict=False)]
    policy, port = next(((policy, port) for policy, port in policies if policy != _NO_EVICTION), policies[0])
    if policy == _NO_EVICTION:
        return Finding("eviction", True, f"maxmemory-policy {policy}")
    where = f" of the master on port {port}" if len(infos) > 1 else ""
    problem = f"maxmemory-policy {policy}{where}" if policy else f"the server{where} does not report its maxmemory-policy"
    hint = f"set it to {_NO_EVICTION}, an evicted index key makes answers wrong"
    return Finding("eviction", False, f"{ENV_PREFIX}REDIS: {problem} at {settings.redis_address}: {hint}")


async def _policy(server: Redis, info: dict[str, Any]) -> str:
    """The server's maxmemory-policy; empty if it does not return it."""
    if "maxmemory_policy" in info:
        return str(info["maxmemory_policy"])
    with suppress(ResponseError):
        config: dict[Any, Any] = await server.config_get("maxmemory-policy")
        for value in config.values():
            return value.decode() if isinstance(value, bytes) else str(value)
    return ""


async def _rights(client: Client, settings: Settings) -> Finding:
    """Checks the rights of the Redis user."""
    lacking = await rights.lacking(client, settings.redis_namespace, settings.partitions)
    if lacking:
        return Finding("rights", False, redis_refuses(settings, lacking_rights(settings, "; ".join(lacking))))
    return Finding("rights", True, "the user has every right that a worker needs")
