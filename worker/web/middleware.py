"""The two ASGI middlewares: `RequestMiddleware` around every request, and `AccessMiddleware` before routing."""

import asyncio
import ipaddress
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.web.errors import ApiError, Refused, Unavailable
from worker.web.http.bodies import BODY_BYTES, HOLDER
from worker.web.http.request_target import check_target
from worker.web.origins import Origins
from worker.web.repeated import SharedResponses
from worker.web.screen.errors import response_to
from worker.web.screen.paths import LIVE, is_public
from worker.web.security import CALLER, authenticate
from worker.web.services import Services

log = structlog.get_logger(__name__)
PUBLIC = frozenset({"/healthz", "/readyz", "/metrics"})
#: Paths whose answers are streams without an end: they take no request slot, and have no timeout.
STREAMS = frozenset({"/v1/live", LIVE})
#: Key of the ASGI scope: set for HEAD, which the app sees as GET.
IS_HEAD = "attendance.is_head"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Headers of proxies: through a proxy, clients of other machines would pass for this machine.
_FORWARDED = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
)
_FORWARDED_PREFIXES = ("x-forwarded", "x-original-forwarded", "x-envoy-external")
_TOO_MANY = "{} has reached its limit of concurrent {}: retry"


class RequestMiddleware:
    """The outermost ASGI middleware: HEAD, CORS headers, metrics and log of every request; it never raises.

    An exception that no handler of the app expects is a bug, and answered here, where Starlette has its ServerErrorMiddleware:
    that one raises the exception again, for a server that logs it.
    """

    def __init__(self, app: ASGIApp, services: Services, origins: Origins) -> None:
        self._app = app
        self._running, self._streaming = services.running, services.streaming
        self._metrics = services.metrics
        self._origins = origins
        self._logs_requests = services.settings.api_access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        requested_method = scope["method"]
        cors_headers = self._origins.headers(scope)
        is_stream = False
        task = asyncio.current_task()
        assert task is not None

        async def send_response(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                if status == 200 and scope["path"] in STREAMS and requested_method != "HEAD":
                    # its duration says nothing: counted is how long it took to begin
                    is_stream = True
                    self._metrics.ended(_route(scope), requested_method, status, time.perf_counter() - began)
                    self._metrics.stream_began()
                    self._streaming.add(task)
                if cors_headers:
                    message = {**message, "headers": [*message.get("headers", ()), *cors_headers]}
            elif requested_method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        if requested_method == "HEAD":
            # every route of GET also answers HEAD
            scope["method"] = "GET"
            scope[IS_HEAD] = True
        began = time.perf_counter()
        self._metrics.began()
        self._running.add(task)
        try:
            problem = await self._handle(scope, receive, send_response)
            if problem is not None and not status:
                await response_to(scope, problem)(scope, receive, send_response)
        finally:
            self._running.discard(task)
            self._streaming.discard(task)
            method = requested_method if requested_method in _METHODS else "other"
            seconds = time.perf_counter() - began
            if is_stream:
                self._metrics.stream_ended()
            else:
                self._metrics.ended(_route(scope), method, status, seconds)
            if self._logs_requests:
                _log_request(scope, requested_method, status, seconds)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Handles the request; returns the error response if the app gave none."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return None
        except asyncio.CancelledError:
            # the time of the graceful stop is over
            return Unavailable("STOPPING", "this process is stopping: retry")
        except Exception as error:
            log.error("request failed", method=scope["method"], path=scope["path"][:200], error=repr(error), exc_info=True)
            return Refused(500, "INTERNAL", "internal error; the server's log has the details")
        return None


class AccessMiddleware:
    """Decides before routing who is served: token, requests in flight, timeout. Raises ApiError, for the app's handlers.

    Without a token file, requests from this machine only are served.
    """

    def __init__(self, app: ASGIApp, services: Services, origins: Origins) -> None:
        self._app = app
        self._repeated = SharedResponses(app)
        self._slots, self._body_bytes, self._streams = services.slots, services.body_bytes, services.streams
        self._tokens = services.tokens
        self._origins = origins
        self._seconds = services.settings.api_request_timeout.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        check_target(scope)
        if self._tokens is None:
            self._check_loopback(scope)
        if scope["method"] == "OPTIONS" and (options_response := self._origins.answer_options(scope)) is not None:
            await options_response(scope, receive, send)
        elif scope["path"] in PUBLIC:
            await (self._repeated if scope["method"] == "GET" else self._app)(scope, receive, send)
        elif is_public(scope["path"]):
            # the sign-in and the files of the screen: answered from memory, and the sign-in bounds itself
            await self._app(scope, receive, send)
        else:
            scope[CALLER] = holder = authenticate(scope, self._tokens)
            scope[HOLDER] = holder.name
            if scope["path"] in STREAMS and scope["method"] == "GET":
                await self._handle_stream(scope, receive, send)
            else:
                await self._handle_authenticated(scope, receive, send)

    async def _handle_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles the request within the holder's share of streams, without a timeout."""
        holder = scope[HOLDER]
        if not self._streams.take(holder):
            raise _too_many(holder, "streams")
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams.give_back(holder)

    async def _handle_authenticated(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles the request within the holder's share of requests in flight, and within the timeout."""
        holder = scope[HOLDER]
        if not self._slots.take(holder):
            raise _too_many(holder, "requests")
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                await self._app(scope, receive, send)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise Unavailable("REQUEST_TIMED_OUT", f"no answer within {self._seconds:g} s: retry") from None
        finally:
            self._slots.give_back(holder)
            if (body_bytes := scope.get(BODY_BYTES, 0)) > 0:
                self._body_bytes.give_back(holder, body_bytes)

    def _check_loopback(self, scope: Scope) -> None:
        """Without tokens, programs of this machine may send requests, but no web page of another site in its browser may.

        The checks of Host and Origin also stop a page that reaches this machine by a DNS name of its own (DNS rebinding).

        Raises:
            ApiError: the request is not from this machine (403).
        """
        client: Any = scope.get("client")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        for name, _ in headers:
            if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES):
                description = f"{name}: without ATTENDANCE_API_TOKENS the API serves this machine only, not requests of a proxy"
                raise Refused(403, "LOOPBACK_ONLY", description)
        hosts = [value for name, value in headers if name == "host"]
        origins = [value for name, value in headers if name == "origin"]
        is_listed = bool(origins) and all(map(self._origins.lists, origins))
        is_cross_site = any(pair == ("sec-fetch-site", "cross-site") for pair in headers)
        is_local = client is not None and is_loopback(client[0]) and (is_listed or not is_cross_site)
        is_local = is_local and all(is_loopback(_hostname(f"//{host}")) for host in hosts)
        is_local = is_local and (is_listed or all(is_loopback(_hostname(origin)) for origin in origins))
        if not is_local:
            description = "without ATTENDANCE_API_TOKENS the API serves this machine only, under its own name (localhost)"
            raise Refused(403, "LOOPBACK_ONLY", description)


def _too_many(holder: str, things: str) -> Refused:
    who = "this token" if holder else "this machine"
    return Refused(429, "TOO_MANY_REQUESTS", _TOO_MANY.format(who, things), headers={"retry-after": "1"})


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback
    return False


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _log_request(scope: Scope, method: str, status: int, seconds: float) -> None:
    # percent-encoded: a path may hold what a terminal takes for a command
    path, client = quote(scope["path"][:200]), scope["client"]
    took = round(seconds * 1000, 1)
    log.info("request", method=method[:20], path=path, status=status, ms=took, token=scope.get(HOLDER, ""), client=client[0])


def _route(scope: Scope) -> str:
    return scope["path"] if scope["path"] in PUBLIC else str(getattr(scope.get("route"), "path", "other"))
