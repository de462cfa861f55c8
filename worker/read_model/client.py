"""The Redis client of every process."""

import asyncio

from redis.asyncio import Redis

from worker.settings import Settings

_PATIENCE_SECONDS = 10.0


def create_redis(settings: Settings) -> Redis:
    """A client that answers bytes; callers bound their questions with `patience` and decide about retries.

    It has no socket timeout: redis-py keeps one with ``asyncio.wait_for``, which loses cancellations on Python 3.11.
    """
    return Redis.from_url(settings.redis.get_secret_value(), socket_connect_timeout=5)


def patience() -> asyncio.Timeout:
    """How long a server may take to answer before it counts as away: raises TimeoutError then."""
    return asyncio.timeout(_PATIENCE_SECONDS)
