"""The Redis client of every process."""

from redis.asyncio import Redis

from worker.settings import Settings


def create_redis(settings: Settings) -> Redis:
    """A client that answers bytes and gives up on a silent server; callers decide about retries."""
    return Redis.from_url(
        settings.redis.get_secret_value(), socket_timeout=10, socket_connect_timeout=5, health_check_interval=15
    )
