"""The stop of a worker: each step has a time limit, slow steps are logged, and the process ends in any case.

It is safe to give a step up: what was not committed is redelivered, to this worker or another.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable
from time import monotonic

import structlog

log = structlog.get_logger(__name__)

#: From the beginning of a stop to the end of the process, at most, seconds.
STOP_SECONDS = 14.0
#: A step that takes longer is logged, seconds.
_SLOW_SECONDS = 1.0


class Stopping:
    """The stop of one process."""

    def __init__(self, seconds: float = STOP_SECONDS) -> None:
        self._seconds = seconds
        self._exit_code: int | None = None
        self._error = ""
        self._waits_for = "the current work"
        self._gave_up = False
        self._timer: threading.Timer | None = None

    def begin(self, exit_code: int, error: str = "") -> None:
        """Begins the stop: after `STOP_SECONDS` the process ends, whatever it waits for. Only the first call counts.

        Args:
            exit_code: of the process.
            error: why a worker ends by itself. The command prints it, or this class if the process ends before that.
        """
        if self._exit_code is not None:
            return
        self._exit_code, self._error = exit_code, error
        if not error:
            log.info("stopping")
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def withdraw(self) -> None:
        """The process goes on: a stop that was begun does not end it."""
        if self._timer is not None:
            self._timer.cancel()
        self._exit_code, self._error, self._gave_up = None, "", False

    async def step(self, what: str, work: Awaitable[object], seconds: float) -> None:
        """Awaits one step, but no longer than this. Its errors are logged and stop nothing."""
        self._waits_for = what
        begun, task = monotonic(), asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        took = round(monotonic() - begun, 1)
        if not done:
            self._gave_up = True
            task.cancel()
            log.warning("stop step timed out", step=what, seconds=took)
        elif not task.cancelled() and task.exception() is not None:
            log.warning("stop step failed", step=what, error=repr(task.exception()))
        elif took >= _SLOW_SECONDS:
            log.info("slow stop step", step=what, seconds=took)
        self._waits_for = "after " + what

    def finish(self) -> None:
        """Ends the process at once if a step was given up: a normal exit would wait for the rest of it."""
        log.info("stopped")
        if self._gave_up and self._exit_code == 0:
            _exit(self._exit_code)

    def _end(self) -> None:
        log.warning("stop timed out", step=self._waits_for, seconds=self._seconds)
        if self._error:
            sys.stderr.write(f"{self._error}\n")
        _exit(self._exit_code or 0)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
