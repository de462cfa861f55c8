"""Ends tasks for good."""

import asyncio
from collections.abc import Coroutine, Iterable
from math import inf
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN_SECONDS = 0.5


async def end(tasks: Iterable["asyncio.Task[Any]"], seconds: float = inf) -> set["asyncio.Task[Any]"]:
    """Cancels tasks until they are done, whatever they raise; those that are not done after so many seconds.

    Once is not enough: ``asyncio.wait_for`` of Python 3.11, which clients use, drops a cancellation that arrives together
    with the answer it waits for.
    """
    waiting, deadline = set(tasks), monotonic() + seconds
    while waiting and monotonic() < deadline:
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=_AGAIN_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()
    return waiting


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work comes to; None where ``stop`` is set first, which ends the work."""
    doing, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((doing, stopped), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        await end((doing, stopped))
