"""Real services for tests: Apache Kafka, an embedded Kafka-compatible broker, Redis or Valkey.

Each runs on a free port of 127.0.0.1 with its own temporary data folder and log, is ready when start() returns, and
cannot outlive the tests. Use it as a context manager, or start() and close(); see `service.Service` for the faults.
"""

from .embedded import EmbeddedBroker
from .errors import ServiceError, ServiceNotOurs, ServiceStartFailed, ServiceUnavailable, ToolFailed
from .kafka import KafkaCluster, KafkaNode
from .kafka_proxy import KafkaProxy
from .redis import RedisCluster, RedisServer
from .selection import chosen_broker, chosen_redis
from .service import Broker, Redis, Service, ServiceProcess

__all__ = [
    "Broker",
    "EmbeddedBroker",
    "KafkaCluster",
    "KafkaNode",
    "KafkaProxy",
    "Redis",
    "RedisCluster",
    "RedisServer",
    "Service",
    "ServiceError",
    "ServiceNotOurs",
    "ServiceProcess",
    "ServiceStartFailed",
    "ServiceUnavailable",
    "ToolFailed",
    "chosen_broker",
    "chosen_redis",
]
