"""Repeats a call with backoff while Kafka or Redis is unavailable, with one log line per change of state."""

import asyncio
from collections.abc import Awaitable, Callable
from random import random
from typing import TypeVar

import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from worker.engine.progress import calling, waiting

log = structlog.get_logger(__name__)

T = TypeVar("T")

_UNAVAILABLE = (KafkaError, RedisError, OSError, TimeoutError)


async def until_done(what: str, attempt: Callable[[], Awaitable[T]], **context: object) -> T:
    """Calls ``attempt`` until it returns. Raises any error that does not mean that a service is unavailable."""
    with calling():
        try:
            return await attempt()
        except _UNAVAILABLE as error:
            log.warning("waiting", what=what, error=repr(error), **context)
        with waiting():
            try:
                result = await _retry(attempt)
            except Exception:
                # the service answers again, although with an error
                log.info("resumed", what=what, **context)
                raise
        log.info("resumed", what=what, **context)
        return result


async def _retry(attempt: Callable[[], Awaitable[T]]) -> T:
    async def call() -> T:
        return await attempt()

    wait = wait_random_exponential(multiplier=0.1, max=5)
    await asyncio.sleep(random() / 10)
    retrying = AsyncRetrying(retry=retry_if_exception_type(_UNAVAILABLE), wait=wait, reraise=True)
    result: T = await retrying(call)
    return result
