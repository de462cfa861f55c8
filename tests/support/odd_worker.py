"""A normal worker with one thing made odd: what it never does by itself, or only after a while.

``python -m tests.support.odd_worker ODDITY``
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from worker.cli import commands
from worker.engine import faust_consumer, recovery, watchdog
from worker.monitoring import state
from worker.ops import session_timeout, topics
from worker.stream import partition, stopping, worker

from .dying_worker import wrap

CHECK_SECONDS = 0.5
STALL_SECONDS = 3.0
END_SECONDS = 2.0
BLOCKED_SECONDS = 2.0

#: Coroutine functions at whose call a worker tells itself to end, in the order of a start.
MOMENTS: dict[str, tuple[Any, str]] = {
    "the topics are checked": (topics, "check"),
    "the services are reached": (worker.Worker, "_reach"),
    "the namespace is announced": (worker, "read_targets"),
    "the app starts": (worker.Worker, "_run"),
    "partitions are assigned": (worker.Worker, "_on_assigned"),
    "partitions are recovered": (worker.Worker, "_recover"),
    "a partition begins": (partition.Partition, "run"),
}


def swallow() -> None:
    """No acknowledgement arrives; what the watchdog waits for is made short."""

    def ack(consumer: Any, message: Any) -> bool:
        return False

    def soon(consumer: Any, ends: Any, _limit: float, seeking: float) -> watchdog.Watchdog:
        return watchdog.Watchdog(consumer, ends, STALL_SECONDS, seeking)

    faust_consumer.Consumer.ack = ack  # type: ignore[method-assign]
    worker.Watchdog = soon  # type: ignore[attr-defined]


def swallow_and_hang() -> None:
    """The same, and the app never stops."""

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    swallow()
    stopping.Stopping.__init__.__defaults__ = (END_SECONDS,)
    worker.Worker._stop = hang  # type: ignore[method-assign]


def look_often() -> None:
    """For what somebody else wrote, twice a second instead of each minute."""
    worker._CHECK_LOGS_SECONDS = CHECK_SECONDS


def end_when(moment: str) -> Callable[[], None]:
    """SIGTERM at the first call of something."""

    async def told(original: Callable[..., Awaitable[Any]], *given: Any, **named: Any) -> Any:
        print(f"told to end: {moment}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        return await original(*given, **named)

    return lambda: wrap(*MOMENTS[moment], told)


def know_no_limits() -> None:
    """The brokers do not say which session timeouts they take, as where the right to ask is lacking."""

    async def nothing(_settings: Any) -> list[str]:
        return []

    session_timeout.problems = nothing


def block() -> None:
    """The event loop never runs again after the first batch, as in an endless loop; what counts as blocked is made short."""

    async def forever(*_: Any) -> None:
        time.sleep(3600)  # noqa: ASYNC251 - that is what is wrong

    state.BLOCKED_SECONDS = BLOCKED_SECONDS
    partition.Partition._fold = forever  # type: ignore[method-assign]


def recover_slowly() -> None:
    """Fetches of changelogs are small and take long."""

    async def wait(original: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        await asyncio.sleep(CHECK_SECONDS)
        return await original(*given)

    recovery._FETCH_BYTES = 2_000
    wrap(recovery._ChangelogReader, "read", wait)


ODDITIES: dict[str, Callable[[], None]] = {
    "swallows acknowledgements": swallow,
    "swallows acknowledgements and does not stop": swallow_and_hang,
    "looks often": look_often,
    "blocks": block,
    "recovers slowly": recover_slowly,
    "knows no limits": know_no_limits,
    **{moment: end_when(moment) for moment in MOMENTS},
}


def odd(oddity: str) -> list[str]:
    """The command of such a worker."""
    return [sys.executable, "-m", "tests.support.odd_worker", oddity]


def main(oddity: str) -> None:
    ODDITIES[oddity]()
    sys.argv = ["attendance", "worker"]
    commands.main()


if __name__ == "__main__":
    main(sys.argv[1])
