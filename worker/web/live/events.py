"""A live subscription as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from random import randint
from time import monotonic

import orjson
import structlog
from fastapi import Request
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from worker.web.auth import Scope as TokenScope
from worker.web.errors import ApiError, Refused
from worker.web.http.bodies import HOLDER
from worker.web.http.rsgi import CONNECTION
from worker.web.live.feed import TooManySources
from worker.web.live.source import Delivery, Source
from worker.web.live.subscription import FeedClosed
from worker.web.middleware import IS_HEAD
from worker.web.security import authenticate
from worker.web.services import Services, services_of

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 15
#: A reader that does not take an event for this long is dropped.
SEND_SECONDS = 10.0
#: How often it is checked that the token of a stream is still good.
_CHECK_SECONDS = 2.0
#: When a client comes back, ms: not all at the same time after a restart.
_RETRY_MS = (1000, 2000)
MEDIA_TYPE = "text/event-stream"
Encode = Callable[[Delivery], bytes]
"""The data of an event, one line, for a delivery without an error."""
Write = Callable[[Delivery], bytes]
"""The whole event for a delivery, as it is sent; empty: none."""


def live_response(request: Request, sources: Sequence[Source], write: Write) -> Response:
    """The events of a subscription, and ``dropped`` at its end, where the server ends it.

    Raises:
        ApiError: the subscriber would have too many sources (429).
    """
    services = services_of(request)
    try:
        services.live.check(sources)
    except TooManySources as error:
        raise Refused(429, "TOO_MANY_REQUESTS", str(error), headers={"retry-after": "1"}) from None
    if request.scope.get(IS_HEAD):
        return Response(media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})
    return _LiveResponse(_events(request, sources, write), services)


class _LiveResponse(EventSourceResponse):
    """Ends without an error where the client takes no more events."""

    def __init__(self, events: AsyncIterator[bytes], services: Services) -> None:
        super().__init__(
            events,
            ping=HEARTBEAT_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="heartbeat", sep="\n"),
            send_timeout=SEND_SECONDS,
        )
        self._metrics = services.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            self._metrics.stream_dropped("slow")
            log.info("live stream dropped", reason="slow", token=scope.get(HOLDER, ""), seconds=SEND_SECONDS)
            scope[CONNECTION].cut()
        except asyncio.CancelledError:
            # of a stop, for which a client that does not read is not waited
            scope[CONNECTION].cut()
            raise


async def _events(request: Request, sources: Sequence[Source], write: Write) -> AsyncIterator[bytes]:
    services = services_of(request)
    # sent at once, so that the client knows that the stream is open
    yield f"retry: {randint(*_RETRY_MS)}\n\n".encode()
    check_at = 0.0
    async with services.live.subscribe(sources, request.headers.get("last-event-id")) as subscription:
        while True:
            try:
                delivery = None
                async with asyncio.timeout(_CHECK_SECONDS):
                    delivery = await subscription.next()
            except TimeoutError:
                pass
            except FeedClosed:
                services.metrics.stream_dropped("stopping")
                yield _event("dropped", None, orjson.dumps({"reason": "this process is stopping: connect again"}))
                return
            if monotonic() >= check_at:
                check_at = monotonic() + _CHECK_SECONDS
                if (refusal := _refusal(request, services)) is not None:
                    services.metrics.stream_dropped("token")
                    yield _event("dropped", None, orjson.dumps({"reason": refusal}))
                    return
            if delivery is not None and (event := write(delivery)):
                yield event


def named_event(delivery: Delivery, encode: Encode) -> bytes:
    """``snapshot``, ``update`` or ``unavailable``, as `GET /v1/live` sends them."""
    if delivery.error is not None:
        return _event("unavailable", "", orjson.dumps({"reason": delivery.error}))
    return _event("snapshot" if delivery.is_snapshot else "update", delivery.id, encode(delivery))


def _refusal(request: Request, services: Services) -> str | None:
    """Why the request would be refused now; None: it would not."""
    try:
        holder = authenticate(request.scope, services.tokens)
    except ApiError as error:
        return str(error)
    return None if TokenScope.READ in holder.scopes else "the token lacks the scope read"


def _event(name: str, identity: str | None, data: bytes) -> bytes:
    head = f"event: {name}\n" if identity is None else f"id: {identity}\nevent: {name}\n"
    return b"".join((head.encode(), b"data: ", data, b"\n\n"))
