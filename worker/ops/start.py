"""What a worker makes sure of before it starts: that its services answer, and that topics and settings are right.

A service that is away is waited for; what is wrong is said, since no waiting mends it.
"""

from collections.abc import Iterable

from aiokafka.errors import KafkaError

from worker.ops import doctor
from worker.ops.refusals import REDIS_REFUSES, kafka_refusal
from worker.settings import Settings, SettingsError
from worker.stream.retry import until_done


async def problems(settings: Settings) -> list[str]:
    """Waits until Kafka and Redis answer; what is then wrong with topics and settings, a line each with the cure.

    Raises:
        SettingsError: a service answers, and refuses us; or the file of ``ATTENDANCE_BROKER_CA_FILE`` cannot be used.
    """
    try:
        settings.kafka_client()
    except OSError as error:
        raise SettingsError(f"ATTENDANCE_BROKER_CA_FILE: {settings.broker_ca_file} cannot be used ({error})") from None
    broker = await until_done("kafka", lambda: _broker(settings))
    redis = await until_done("redis", lambda: _redis(settings))
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
    except REDIS_REFUSES as error:
        raise SettingsError(doctor.redis_refuses(settings, error)) from None
