"""Responses of public routes: computed once for concurrent requests, so that frequent requests cost little."""

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: How long a response is reused after it is complete. For other paths 0: only concurrent requests share a response.
_REUSE_SECONDS = {"/metrics": 0.5}


class _SharedResponse:
    """The messages of a response, and until when they are reused once they are complete."""

    def __init__(self, task: "asyncio.Task[list[Message]]") -> None:
        self.task = task
        self.valid_until: float | None = None


class SharedResponses:
    """Passes GET requests without parameters on to an application, at most one at a time for each path.

    Its response, or its exception, goes to all requests that arrived before it was complete; metrics are reused for half a
    second longer.
    """

    def __init__(self, app: ASGIApp, now: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._now = now
        self._responses: dict[str, _SharedResponse] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        shared = self._responses.get(path)
        if shared is None or (shared.valid_until is not None and shared.valid_until <= self._now()):
            shared = self._responses[path] = _SharedResponse(asyncio.create_task(self._respond(scope, receive)))
            shared.task.add_done_callback(lambda task: self._complete(path, task))
        # shielded: the first client may disconnect while others wait
        for message in await asyncio.shield(shared.task):
            await send(message)

    def _complete(self, path: str, task: "asyncio.Task[list[Message]]") -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved, in case all clients have disconnected
        self._responses[path].valid_until = self._now() + _REUSE_SECONDS.get(path, 0)

    async def _respond(self, scope: Scope, receive: Receive) -> list[Message]:
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, collect)
        return messages
