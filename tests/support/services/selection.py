"""Which services a test session uses, as the environment says."""

from __future__ import annotations

from collections.abc import Mapping

from .embedded import EmbeddedBroker
from .given import GivenBroker, GivenRedis
from .kafka import KafkaCluster
from .redis import RedisServer
from .service import Broker, Redis


def chosen_broker(environment: Mapping[str, str]) -> Broker:
    """The broker to start() and later close().

    ATTENDANCE_TEST_BROKER (`host:port` or `kafka://host:port`) names a running one; else ATTENDANCE_TEST_BROKER_KIND
    is `apache` (default, one Kafka broker) or `embedded` (Tansu). Raises ValueError for any other text.
    """
    if given := environment.get("ATTENDANCE_TEST_BROKER"):
        return GivenBroker(given)
    kind = environment.get("ATTENDANCE_TEST_BROKER_KIND") or "apache"
    if kind == "apache":
        return KafkaCluster()
    if kind == "embedded":
        return EmbeddedBroker()
    raise ValueError(f"ATTENDANCE_TEST_BROKER_KIND is {kind!r}: it may be apache or embedded")


def chosen_redis(environment: Mapping[str, str]) -> Redis:
    """The Redis to start() and later close(): the one ATTENDANCE_TEST_REDIS (`redis://…`) names, else a new one."""
    given = environment.get("ATTENDANCE_TEST_REDIS")
    return GivenRedis(given) if given else RedisServer()
