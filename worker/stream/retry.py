"""Repeats a call with backoff while Kafka or Redis is unavailable, with one log line per change of state."""

import asyncio
from collections import Counter
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
#: How many calls of this process wait for each service or task now; a port in another thread only reads it.
waiting_calls: Counter[str] = Counter()
#: For calls that a server answers at once: without an answer for so long, it is logged as unavailable, seconds. Clients wait
#: far longer for a server that is frozen, or behind a firewall that drops packets.
SILENCE_SECONDS = 4.0


async def until_done(what: str, attempt: Callable[[], Awaitable[T]], *, silence: float | None = None, **context: object) -> T:
    """Calls ``attempt`` until it returns. Raises any error that does not mean that a service is unavailable.

    Args:
        what: the service or task, for the log lines.
        silence: after so many seconds without an answer the service counts as unavailable; None: a call may take any time.
        context: further fields of the log lines.
    """
    is_waiting = False

    def log_waiting(error: str) -> None:
        nonlocal is_waiting
        if not is_waiting:
            is_waiting = True
            waiting_calls[what] += 1
            log.warning("waiting", what=what, error=error, **context)

    def log_resumed() -> None:
        if is_waiting:
            log.info("resumed", what=what, **context)

    timer = silence and asyncio.get_running_loop().call_later(silence, log_waiting, f"no answer for {silence:g} s")
    with calling():
        try:
            try:
                result = await attempt()
            except _UNAVAILABLE as error:
                log_waiting(repr(error))
                with waiting():
                    result = await _retry(attempt)
        except Exception:
            # the service answers again, although with an error
            log_resumed()
            raise
        finally:
            if timer:
                timer.cancel()
            waiting_calls[what] -= is_waiting
        log_resumed()
        return result


async def _retry(attempt: Callable[[], Awaitable[T]]) -> T:
    async def call() -> T:
        return await attempt()

    wait = wait_random_exponential(multiplier=0.1, max=5)
    await asyncio.sleep(random() / 10)
    retrying = AsyncRetrying(retry=retry_if_exception_type(_UNAVAILABLE), wait=wait, reraise=True)
    result: T = await retrying(call)
    return result
