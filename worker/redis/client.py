"""The Redis client of every process: of one server, or of a cluster."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.redis.cluster import Address, Cluster
from worker.redis.multiplexed import Multiplexed
from worker.settings import Settings

_PATIENCE_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
#: To one server; redis-py's own bound, 100, is fewer than the requests that an API process works on.
_MOST_CONNECTIONS = 2048


class Server(Redis):
    """redis-py's client of one server, with a way to ask it that costs less."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._multiplexed = Multiplexed(self.connection_pool, _PATIENCE_SECONDS)

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answer to each command, all of which only read, errors among them; see `Multiplexed.ask`."""
        return await self._multiplexed.ask(commands)


Client = Server | Cluster
"""What reads and writes the read models; both take the same commands of one key, and pipelines of them."""


def create_redis(settings: Settings) -> Client:
    """A client that answers bytes; callers bound their questions with `patience` and decide about retries.

    It has no socket timeout (redis-py's would be 5 s), which is kept with ``asyncio.wait_for``: on Python 3.11 that loses
    cancellations.
    """
    if not settings.is_redis_cluster:
        return _connect(settings.redis_url())

    def connect(address: Address) -> Server:
        client = _connect(settings.redis_url(*address))
        # a fresh connection where an old one was lost, and no more: another master may have the slots now
        client.set_retry(Retry(NoBackoff(), 1))
        return client

    return Cluster([Address(*server) for server in settings.redis_servers], connect, _PATIENCE_SECONDS)


def _connect(url: str) -> Server:
    connect: Callable[..., Server] = Server.from_url  # type: ignore[assignment]
    return connect(url, socket_connect_timeout=_CONNECT_SECONDS, socket_timeout=None, max_connections=_MOST_CONNECTIONS)


async def masters(client: Client) -> list[Redis]:
    """A client for each server that is written to."""
    return await client.masters() if isinstance(client, Cluster) else [client]


def patience() -> asyncio.Timeout:
    """How long a server may take to answer before it counts as away: raises TimeoutError then."""
    return asyncio.timeout(_PATIENCE_SECONDS)
