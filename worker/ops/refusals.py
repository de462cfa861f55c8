"""Errors with which Kafka and Redis refuse a client: authentication, authorization, TLS. Retries do not help."""

import ssl

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

from worker.settings import Settings

KAFKA_REFUSES = (
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
REDIS_REFUSES = (AuthenticationError, AuthorizationError, NoPermissionError)
_PROBE_MS = 5_000


async def kafka_refusal(settings: Settings, error: BaseException) -> BaseException | None:
    """The error with which Kafka refuses us, given the error of a client; None if it does not, or cannot be reached."""
    if isinstance(error, KAFKA_REFUSES):
        return error
    # this error only says that no broker took the connection, not why
    return await _refusal(settings) if isinstance(error, KafkaConnectionError) else None


async def _refusal(settings: Settings) -> BaseException | None:
    """The error with which the brokers refuse a connection; None if one accepts it, or none can be reached."""
    client, refusal = settings.kafka_client(), None
    servers = client.pop("bootstrap_servers")
    for host, _, port in (server.rpartition(":") for server in servers):
        try:
            connection = await create_conn(host.strip("[]"), int(port), request_timeout_ms=_PROBE_MS, **client)
        except KAFKA_REFUSES as error:
            refusal = error
        except (KafkaError, OSError, TimeoutError):
            continue
        else:
            connection.close()
            return None
    return refusal
