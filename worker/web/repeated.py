"""Answers to calls that need no token: made once for all who ask at a time, so that asking often costs little."""

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: How long an answer serves after it was made: whether the process is ready holds for those who asked meanwhile alone.
_KEPT_SECONDS = {"/metrics": 0.5}


class _Answer:
    """Messages of one answer, and when they were complete."""

    def __init__(self, making: "asyncio.Task[list[Message]]") -> None:
        self.making = making
        self.until: float | None = None


class Repeated:
    """Passes GET requests without parameters on to an application, for each path at most one at a time.

    An answer, or the exception in its place, serves all who asked before it was there, and figures for half a second more.
    """

    def __init__(self, app: ASGIApp, now: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._now = now
        self._answers: dict[str, _Answer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        kept = self._answers.get(path)
        if kept is None or (kept.until is not None and kept.until <= self._now()):
            kept = self._answers[path] = _Answer(asyncio.create_task(self._make(scope, receive)))
            kept.making.add_done_callback(lambda made: self._keep(path, made))
        # whoever asked first may leave: the others still wait
        for message in await asyncio.shield(kept.making):
            await send(message)

    def _keep(self, path: str, made: "asyncio.Task[list[Message]]") -> None:
        if not made.cancelled():
            made.exception()  # somebody has seen it, even where all who asked have gone
        self._answers[path].until = self._now() + _KEPT_SECONDS.get(path, 0)

    async def _make(self, scope: Scope, receive: Receive) -> list[Message]:
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, collect)
        return messages
