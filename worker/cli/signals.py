"""Runs the work of a command until it is done, or until Ctrl-C or SIGTERM."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]], on_stop: Callable[[], object] = bool) -> T:
    """Runs ``work`` with an event that SIGINT and SIGTERM set; the signals also call ``on_stop``."""

    async def running() -> T:
        stop = asyncio.Event()

        def stop_now() -> None:
            on_stop()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop_now)
        return await work(stop)

    return asyncio.run(running())
