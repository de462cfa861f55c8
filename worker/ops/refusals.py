"""What Kafka and Redis answer when they are there and refuse us: waiting mends none of it."""

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
    """Why Kafka refuses us, given the error of a client; None where it does not, or does not answer."""
    if isinstance(error, KAFKA_REFUSES):
        return error
    # the client says no more than that it has come to no broker
    return await _refusal(settings) if isinstance(error, KafkaConnectionError) else None


async def _refusal(settings: Settings) -> BaseException | None:
    """Why the brokers refuse a connection of ours; None where one of them takes it, or none answers."""
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
