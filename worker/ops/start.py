"""Checks before a worker starts: its services answer, and topics and settings are right.

It waits for a service that is unavailable, and reports what no waiting can fix.
"""

from collections.abc import Iterable

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from worker.ops import doctor, topics
from worker.ops.refusals import kafka_refusal, redis_refusal
from worker.read_model.builds import Registry, read_registry, tables_for
from worker.redis.client import create_redis
from worker.settings import Settings, SettingsError
from worker.stream.group_topic import live_tables
from worker.stream.retry import SILENCE_SECONDS, until_done
from worker.topics import group_changelog


async def with_tables(settings: Settings) -> Settings:
    """The settings with the tables that a worker uses: waits until Redis answers which are live.

    Raises:
        SettingsError: Redis refuses us.
    """
    if settings.tables:
        return settings
    # Kafka first, as in all that follows
    has_group = await until_done("kafka", lambda: _has_group(settings), silence=SILENCE_SECONDS, address=settings.kafka_address)
    registry = await until_done("redis", lambda: _registry(settings), silence=SILENCE_SECONDS, address=settings.redis_address)
    if registry.live is None and has_group:
        tables = await until_done(
            "kafka", lambda: live_tables(settings), silence=SILENCE_SECONDS, address=settings.kafka_address
        )
    else:
        tables = tables_for(registry, settings)
    return settings.model_copy(update={"tables": tables})


async def problems(settings: Settings) -> list[str]:
    """Waits until Kafka and Redis answer, and returns what is wrong with topics and settings, a line each with the fix.

    Raises:
        SettingsError: a service refuses us.
    """
    broker = await until_done("kafka", lambda: _broker(settings), silence=SILENCE_SECONDS, address=settings.kafka_address)
    redis = await until_done("redis", lambda: _redis(settings), silence=SILENCE_SECONDS, address=settings.redis_address)
    return [finding.detail for finding in (*broker, *redis) if not finding.ok]


async def _broker(settings: Settings) -> Iterable[doctor.Finding]:
    try:
        return await doctor.inspect_broker(settings)
    except (KafkaError, OSError) as error:
        if (refusal := await kafka_refusal(settings, error)) is not None:
            raise SettingsError(doctor.broker_refuses(settings, refusal)) from None
        raise


async def _has_group(settings: Settings) -> bool:
    """Whether the first group's topic exists; where it is missing, `problems` says so."""
    try:
        return await topics.exists(settings, group_changelog(settings.topic_prefix))
    except (KafkaError, OSError) as error:
        if (refusal := await kafka_refusal(settings, error)) is not None:
            raise SettingsError(doctor.broker_refuses(settings, refusal)) from None
        raise


async def _registry(settings: Settings) -> Registry:
    client = create_redis(settings)
    try:
        return await read_registry(client, settings.redis_namespace)
    except (RedisError, OSError) as error:
        if (refusal := await redis_refusal(settings, error)) is not None:
            raise SettingsError(doctor.redis_refuses(settings, refusal)) from None
        raise
    finally:
        await client.aclose()


async def _redis(settings: Settings) -> Iterable[doctor.Finding]:
    try:
        return await doctor.inspect_redis(settings)
    except (RedisError, OSError) as error:
        if (refusal := await redis_refusal(settings, error)) is not None:
            raise SettingsError(doctor.redis_refuses(settings, refusal)) from None
        raise
