"""Checks before a worker starts: its services answer, and topics and settings are right.

It waits for a service that is unavailable, and reports what no waiting can fix.
"""

from collections.abc import Iterable

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from worker.ops import doctor
from worker.ops.refusals import kafka_refusal, redis_refusal
from worker.settings import Settings, SettingsError
from worker.stream.retry import SILENCE_SECONDS, until_done


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


async def _redis(settings: Settings) -> Iterable[doctor.Finding]:
    try:
        return await doctor.inspect_redis(settings)
    except (RedisError, OSError) as error:
        if (refusal := await redis_refusal(settings, error)) is not None:
            raise SettingsError(doctor.redis_refuses(settings, refusal)) from None
        raise
