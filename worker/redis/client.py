"""The Redis client of every process, for a single server or a cluster."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.redis.cluster import Address, Cluster
from worker.redis.exclusive import Exclusive, ExclusiveConnections
from worker.redis.multiplexed import Multiplexed
from worker.settings import Settings

ANSWER_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
#: Per server. redis-py's default of 100 is less than the number of concurrent requests of an API process.
_MAX_CONNECTIONS = 2048


class Server(Redis):
    """redis-py's client of one server, with a cheaper way to run commands of which a repeat changes nothing: `ask`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._multiplexed = Multiplexed(self.connection_pool, ANSWER_SECONDS)
        self._exclusive = ExclusiveConnections(self.connection_pool, ANSWER_SECONDS)

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to commands of which a repeat changes nothing; errors are answers. See `Multiplexed.ask`."""
        return await self._multiplexed.ask(commands)

    async def ask_packed(self, packed: bytes, count: int) -> list[Any]:
        """See `Multiplexed.ask_packed`."""
        return await self._multiplexed.ask_packed(packed, count)

    def exclusive(self) -> AbstractAsyncContextManager[Exclusive]:
        """A connection that nobody else uses meanwhile. See `ExclusiveConnections.lend`."""
        return self._exclusive.lend()


Client = Server | Cluster
"""Both types have the same single-key commands and pipelines."""


def create_redis(settings: Settings) -> Client:
    """A client that returns bytes. Callers limit the time of a call with `answer_timeout`, and retry themselves.

    The client has no socket timeout (redis-py's default is 5 s): redis-py implements it with ``asyncio.wait_for``, which can
    lose a cancellation on Python 3.11.
    """
    if not settings.is_redis_cluster:
        return _connect(settings.redis_url())

    def connect(address: Address) -> Server:
        client = _connect(settings.redis_url(*address))
        # one retry, on a new connection; not more, because another master may own the slots now
        client.set_retry(Retry(NoBackoff(), 1))
        return client

    return Cluster([Address(*server) for server in settings.redis_servers], connect, ANSWER_SECONDS)


def _connect(url: str) -> Server:
    connect: Callable[..., Server] = Server.from_url  # type: ignore[assignment]
    return connect(url, socket_connect_timeout=_CONNECT_SECONDS, socket_timeout=None, max_connections=_MAX_CONNECTIONS)


async def masters(client: Client) -> list[Redis]:
    """A client for each master, or for the single server."""
    return await client.masters() if isinstance(client, Cluster) else [client]


def answer_timeout() -> asyncio.Timeout:
    """Raises TimeoutError if a server takes longer to answer than the limit after which it is considered unavailable."""
    return asyncio.timeout(ANSWER_SECONDS)
