"""Tells a service that refuses us, which no retry helps, from one that is away: login, rights, TLS, another protocol.

A client often says only that it reached no broker. The servers are probed then, and a refusal needs an answer that shows it:
a load balancer in front of a service that is away also closes connections.
"""

import asyncio
import ssl
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    NoError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from redis.exceptions import AuthenticationError, AuthorizationError, MovedError, NoPermissionError

from worker.kafka import NoAnswer
from worker.redis.cluster import NoCluster
from worker.settings import ENV_PREFIX, Settings

_PROBE_SECONDS = 5.0
_LOGIN = f"set {ENV_PREFIX}BROKER_USERNAME and {ENV_PREFIX}BROKER_PASSWORD as Kafka has them"
RIGHTS = "allow the user what deploy/README.md lists under Rights"
_SECURITY = f"set {ENV_PREFIX}BROKER_SECURITY to"
_KAFKA_CURES: dict[type[BaseException], str] = {
    AuthenticationFailedError: _LOGIN,
    SaslAuthenticationFailed: _LOGIN,
    AuthenticationMethodNotSupported: f"set {ENV_PREFIX}BROKER_SASL_MECHANISM to one that it takes",
    UnsupportedSaslMechanismError: f"set {ENV_PREFIX}BROKER_SASL_MECHANISM to one that it takes",
    IllegalSaslStateError: f"{_SECURITY} PLAINTEXT or SSL, or name its port for SASL",
    ClusterAuthorizationFailedError: f"{RIGHTS}, here on the cluster",
    GroupAuthorizationFailedError: f"{RIGHTS}, here on this consumer group",
    TopicAuthorizationFailedError: f"{RIGHTS}, here on this topic",
    ssl.SSLCertVerificationError: f"set {ENV_PREFIX}BROKER_CA_FILE to the authority that signed its certificate, "
    f"and {ENV_PREFIX}BROKER to a name in it",
}
_CLUSTER = f"set {ENV_PREFIX}REDIS to redis+cluster://host:port"
_REDIS_LOGIN = "set user and password as it has them"


class Refusal(NamedTuple):
    """Why a service refuses us, and what to do about it."""

    reason: str
    cure: str


class _Accepted(Exception):
    """A server takes our connections."""


async def kafka_refusal(settings: Settings, error: BaseException) -> Refusal | None:
    """Why Kafka refuses us, given the error of a client; None if it does not, or cannot be reached."""
    if isinstance(error, tuple(_KAFKA_CURES)) and not isinstance(error, UnsupportedSaslMechanismError):
        return _refusal(error)
    if isinstance(error, NoAnswer) or not isinstance(error, KafkaConnectionError | UnsupportedSaslMechanismError):
        return None
    servers = [server.rpartition(":") for server in settings.bootstrap_servers]
    probes = await asyncio.gather(
        *(_probe_kafka(settings, host.strip("[]"), int(port)) for host, _, port in servers), return_exceptions=True
    )
    if any(isinstance(probe, _Accepted) for probe in probes):
        return None
    return next((probe for probe in probes if isinstance(probe, Refusal)), None)


async def redis_refusal(settings: Settings, error: BaseException) -> Refusal | None:
    """Why Redis refuses us, given the error of a client; None if it does not, or cannot be reached."""
    text = first_line(error)
    if isinstance(error, NoPermissionError):
        return lacking_rights(settings, text)
    if isinstance(error, AuthenticationError | AuthorizationError):
        return Refusal(text, _REDIS_LOGIN)
    if isinstance(error, MovedError):
        return Refusal("it is a server of a cluster", _CLUSTER)
    if isinstance(error, NoCluster):
        return Refusal(text, f"set {ENV_PREFIX}REDIS to redis://host:port/db")
    if "DB index is out of range" in text:
        return Refusal(text, f"end {ENV_PREFIX}REDIS with the number of a database that it has, as in /0")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            authority = f"end {ENV_PREFIX}REDIS with ?ssl_ca_certs=FILE, the authority that signed it"
            return Refusal(cause.verify_message, f"{authority}, and write the host as the certificate names it")
        if isinstance(cause, FileNotFoundError):
            return Refusal("a file that the URL names is missing", f"see to the options of {ENV_PREFIX}REDIS")
    for host, port in settings.redis_servers:
        if refusal := await _probe_redis(settings, host, port):
            return refusal
    return None


def lacking_rights(settings: Settings, text: str) -> Refusal:
    """The refusal of a user of Redis that lacks rights, given the server's texts."""
    rights = f"~{settings.redis_namespace}:* +@all -@dangerous +info"
    return Refusal(
        f"the user lacks a right: {text}", f"a reader needs what deploy/README.md lists under Rights, a worker {rights}"
    )


async def _probe_kafka(settings: Settings, host: str, port: int) -> Refusal | None:
    """How this server refuses a connection; None if it cannot be reached.

    Raises:
        _Accepted: it does not refuse one.
    """
    client = settings.kafka_client()
    del client["bootstrap_servers"]
    client["request_timeout_ms"] = int(1000 * _PROBE_SECONDS)
    uses_tls, has_login = settings.broker_security.endswith("SSL"), settings.broker_security.startswith("SASL")
    without_login = {**client, "security_protocol": "SSL" if uses_tls else "PLAINTEXT"}
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            connection = await create_conn(host, port, **client)
    except UnsupportedSaslMechanismError:
        mechanisms = await _mechanisms(host, port, without_login)
        text = f"set {ENV_PREFIX}BROKER_SASL_MECHANISM to {' or '.join(mechanisms or ['one that it takes'])}"
        return Refusal(f"it does not take {settings.broker_sasl_mechanism}", text)
    except tuple(_KAFKA_CURES) as error:
        return _refusal(error)
    except TimeoutError:
        return None  # of another protocol a server that sees one closes the connection
    except (KafkaError, OSError):
        if not uses_tls and await _speaks_tls(host, port):
            return Refusal("it expects TLS", f"{_SECURITY} SSL or SASL_SSL")
        plain = {**client, "security_protocol": "PLAINTEXT", "ssl_context": None}
        if uses_tls and await _mechanisms(host, port, plain) is not None:
            return Refusal("it does not speak TLS", f"{_SECURITY} PLAINTEXT or SASL_PLAINTEXT, or name its port for TLS")
        return None
    connection.close()
    if not has_login and (mechanisms := await _mechanisms(host, port, without_login)):
        security = "SASL_SSL" if uses_tls else "SASL_PLAINTEXT"
        login = f"{ENV_PREFIX}BROKER_SASL_MECHANISM to {' or '.join(mechanisms)}, and {ENV_PREFIX}BROKER_USERNAME and _PASSWORD"
        return Refusal("it expects a login", f"{_SECURITY} {security}, {login}")
    raise _Accepted


async def _mechanisms(host: str, port: int, client: dict[str, Any]) -> list[str] | None:
    """The SASL mechanisms of a listener of Kafka; empty if it takes no login, None if no Kafka answers."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            connection = await create_conn(host, port, **client)
            with closing(connection):
                answer = await connection.send(SaslHandShakeRequest("PLAIN"))
    except (KafkaError, OSError, TimeoutError):
        return None
    accepts = for_code(answer.error_code) in (NoError, UnsupportedSaslMechanismError)
    return list(answer.enabled_mechanisms) if accepts else []


async def _probe_redis(settings: Settings, host: str, port: int) -> Refusal | None:
    """Whether this server and our URL differ in TLS."""
    uses_tls = settings.redis_url().startswith("rediss")
    if not uses_tls and await _speaks_tls(host, port):
        return Refusal("it expects TLS", f"begin {ENV_PREFIX}REDIS with rediss")
    if uses_tls and await _answers_ping(host, port):
        return Refusal(
            "it does not speak TLS", f"begin {ENV_PREFIX}REDIS with redis instead of rediss, or name its port for TLS"
        )
    return None


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a server answers a TLS handshake, if only with an alert. Its certificate is not verified: nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _answers_ping(host: str, port: int) -> bool:
    """Whether a server speaks the protocol of Redis, without TLS."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            with closing(writer):
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith((b"+PONG", b"-"))
    except (OSError, TimeoutError):
        return False


async def unreachable(servers: Iterable[str]) -> str:
    """Why none of the servers, each as ``host:port``, serves a client: what connecting to the first of them shows."""
    host, _, port = next(iter(servers)).rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return f"no answer within {_PROBE_SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or first_line(error)
    writer.close()
    return "a server takes connections, but does not answer as Kafka does"


def _refusal(error: BaseException) -> Refusal:
    reason = "it takes no login" if isinstance(error, IllegalSaslStateError) else first_line(error)
    return Refusal(reason, next(cure for kind, cure in _KAFKA_CURES.items() if isinstance(error, kind)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type if it has none."""
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
