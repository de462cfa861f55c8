"""What a worker makes sure of before it starts: that its services answer, and that topics and settings are right.

A service that is away is waited for; what is wrong is said, since no waiting mends it.
"""

import ssl
from collections.abc import Iterable

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError

from worker.ops import doctor
from worker.settings import Settings, SettingsError
from worker.stream.retry import until_done

_KAFKA_REFUSES = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
    ssl.SSLCertVerificationError,
)
_REDIS_REFUSES = (AuthenticationError, AuthorizationError, NoPermissionError)
_PROBE_MS = 5_000


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
    except _KAFKA_REFUSES as error:
        raise SettingsError(doctor.broker_refuses(settings, error)) from None
    except KafkaConnectionError:
        # the client says no more than that it has come to no broker
        if (refusal := await _refusal(settings)) is not None:
            raise SettingsError(doctor.broker_refuses(settings, refusal)) from None
        raise


async def _refusal(settings: Settings) -> BaseException | None:
    """Why the brokers refuse a connection of ours; None where one of them takes it, or none answers."""
    client, refusal = settings.kafka_client(), None
    servers = client.pop("bootstrap_servers")
    for host, _, port in (server.rpartition(":") for server in servers):
        try:
            connection = await create_conn(host.strip("[]"), int(port), request_timeout_ms=_PROBE_MS, **client)
        except _KAFKA_REFUSES as error:
            refusal = error
        except (KafkaError, OSError, TimeoutError):
            continue
        else:
            connection.close()
            return None
    return refusal


async def _redis(settings: Settings) -> Iterable[doctor.Finding]:
    try:
        return await doctor.inspect_redis(settings)
    except _REDIS_REFUSES as error:
        raise SettingsError(doctor.redis_refuses(settings, error)) from None
