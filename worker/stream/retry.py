"""Waiting for Kafka or Redis to come back: the same call again with backoff, one log line per change of state."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from worker.engine.effort import known_call, known_wait

log = structlog.get_logger(__name__)

T = TypeVar("T")

_AWAY = (KafkaError, RedisError, OSError, TimeoutError)


async def until_done(what: str, attempt: Callable[[], Awaitable[T]], **context: object) -> T:
    """Calls ``attempt`` until it returns; other errors than those of a service that is away are the caller's."""

    waits = ExitStack()

    def report(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.warning("waiting", what=what, error=repr(state.outcome.exception()), **context)
            waits.enter_context(known_wait())

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(_AWAY),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=report,
        reraise=True,
    )

    async def call() -> T:
        return await attempt()

    def ended() -> None:
        if retrying.statistics["attempt_number"] > 1:
            log.info("goes on", what=what, attempts=retrying.statistics["attempt_number"], **context)

    with waits, known_call():
        try:
            result: T = await retrying(call)
        except Exception:
            # the service answers again, only not what was hoped for
            ended()
            raise
    ended()
    return result
