"""Cancels tasks, and runs work until a stop."""

import asyncio
from collections.abc import Coroutine, Iterable
from math import inf
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")

_REPEAT_SECONDS = 0.5
#: How long a cancelled start may take to end by itself, seconds: a broker that answers does so within milliseconds.
_START_SECONDS = 0.3


async def cancel_all(tasks: Iterable["asyncio.Task[Any]"], seconds: float = inf) -> set["asyncio.Task[Any]"]:
    """Cancels tasks again and again until they are done, whatever they raise. Returns those that are not done in time.

    Cancelling once is not enough: ``asyncio.wait_for`` of Python 3.11, which clients use, drops a cancellation that arrives
    together with the result it waits for.
    """
    waiting, deadline = set(tasks), monotonic() + seconds
    while waiting and monotonic() < deadline:
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=_REPEAT_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()
    return waiting


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, T], grace: float = 0) -> T | None:
    """The result of the work; None if ``stop`` is set first, which cancels it after ``grace`` seconds in which it may end."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        if grace and not working.done():
            await asyncio.wait((working,), timeout=grace)
        return working.result() if working.done() else None
    finally:
        await cancel_all((working, stopped))


async def uncancelled(start: Coroutine[Any, Any, T]) -> T:
    """Awaits the start of a Kafka client; if cancelled, once that has ended, but at most `_START_SECONDS` later.

    aiokafka forgets the connection of a start that is cancelled while the first answer is on its way: only the garbage
    collector closes it, with an error line. A client that has started closes it when it is stopped.
    """
    starting = asyncio.create_task(start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait((starting,), timeout=_START_SECONDS)
        raise
    finally:
        await cancel_all((starting,))
