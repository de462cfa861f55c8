"""The stream of a page: its view and the freshness, as they change."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request, Response
from redis.exceptions import RedisError
from starlette.responses import StreamingResponse

from worker.read_model.reader import ReaderError
from worker.web.live.source import Delivery
from worker.web.screen.freshness import FreshnessSource
from worker.web.screen.stream import FragmentWriter
from worker.web.screen.views.view import View
from worker.web.services import services_of

_SECONDS = 1.0


def open_stream(request: Request, view: View) -> Response:
    """Server-sent events with the fragments of a view."""
    return StreamingResponse(_events(view, FreshnessSource(services_of(request).reader)), media_type="text/event-stream")


async def _events(view: View, freshness: FreshnessSource) -> AsyncIterator[str]:
    writer = FragmentWriter(view, freshness)
    while True:
        try:
            values = {view.key: await view.load(), freshness.key: await freshness.load()}
            delivery = Delivery("", True, values)
        except (ReaderError, RedisError, OSError) as error:
            delivery = Delivery("", False, {}, str(error))
        if text := writer.write(delivery):
            yield "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
        await asyncio.sleep(_SECONDS)
