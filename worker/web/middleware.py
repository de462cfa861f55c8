"""The gate that every request passes first: who asks, how many at once, for how long; and that every error has its shape."""

import asyncio
import ipaddress
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.web.auth import Scope as Allowed
from worker.web.auth import TokensError, presented_token
from worker.web.errors import ApiError, framework_problem, problem_of, refused, unavailable
from worker.web.http.bodies import BODY_BYTES, HOLDER
from worker.web.http.request_target import check_target
from worker.web.origins import Origins
from worker.web.permissions import Holder
from worker.web.repeated import Repeated
from worker.web.services import Parts

log = structlog.get_logger()
PUBLIC = frozenset({"/healthz", "/readyz", "/metrics"})
#: Where the scopes of whoever asks are kept in the ASGI scope.
ALLOWED = "attendance.allowed"
#: Where the `Holder` of a request is kept there.
CALLER = "attendance.caller"
_EVERYTHING = frozenset(Allowed)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CHALLENGE = {"www-authenticate": 'Bearer realm="attendance"'}
#: Headers that a proxy adds: it would let others in as if they were this machine.
_FORWARDED = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
)
_FORWARDED_PREFIXES = ("x-forwarded", "x-original-forwarded", "x-envoy-external")
_TOO_MANY = "{} has as many requests under way as it may: ask again"


class Gate:
    """ASGI middleware, the outermost; without a file of tokens it lets this machine alone in."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._repeated = Repeated(app)
        self._parts = parts
        self._tokens = parts.tokens
        self._meters = parts.meters
        self._origins = Origins(parts.settings.api_cors_origins)
        self._seconds = parts.settings.api_request_timeout.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        asked = scope["method"]
        added = self._origins.headers(scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if added:
                    message = {**message, "headers": [*message.get("headers", ()), *added]}
            elif asked == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        if asked == "HEAD":
            # whatever answers GET answers HEAD
            scope["method"] = "GET"
        began = time.perf_counter()
        self._meters.began()
        running, task = self._parts.running, asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            problem = await self._pass(scope, receive, sending)
            if problem is not None and not status:
                await problem.response()(scope, receive, sending)
        finally:
            running.discard(task)
            method = asked if asked in _METHODS else "other"
            self._meters.ended(_route(scope), method, status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Lets the request through; the error to answer where it was stopped, or stopped itself."""
        try:
            check_target(scope)
            if self._tokens is None:
                self._only_this_machine(scope)
            if scope["method"] == "OPTIONS" and (granted := self._origins.answer_options(scope)) is not None:
                await granted(scope, receive, send)
                return None
            if scope["path"] in PUBLIC:
                await (self._repeated if scope["method"] == "GET" else self._app)(scope, receive, send)
                return None
            scope[CALLER] = holder = self._holder(scope)
            scope[HOLDER], scope[ALLOWED] = holder.name, holder.scopes
            return await self._pass_known(scope, receive, send)
        except ClientDisconnect:
            return None
        except (HTTPException, RequestValidationError) as error:
            return framework_problem(error, scope)
        except asyncio.CancelledError:
            # the server's time to stop gracefully is over
            return unavailable("STOPPING", "this process stops: ask again")
        except Exception as error:
            if (problem := problem_of(error)) is not None:
                return problem
            log.error("request failed", method=scope["method"], path=scope["path"][:200], error=repr(error), exc_info=True)
            return refused(500, "INTERNAL", "this should not happen; the server's log says more")

    async def _pass_known(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Lets the request of a holder through, within its share."""
        slots, holder = self._parts.slots, scope[HOLDER]
        if not slots.take(holder):
            who = "this token" if holder else "this machine"
            return refused(429, "TOO_MANY_REQUESTS", _TOO_MANY.format(who), headers={"retry-after": "1"})
        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._app(scope, receive, send)
        except TimeoutError:
            if limit.expired():
                return unavailable("REQUEST_TIMED_OUT", f"no answer within {self._seconds:g} s: ask again")
            raise
        finally:
            slots.give_back(holder)
            if (held := scope.get(BODY_BYTES, 0)) > 0:
                self._parts.body_bytes.give_back(holder, held)
        return None

    def _holder(self, scope: Scope) -> Holder:
        """Whoever asks; raises ApiError where that is nobody."""
        if self._tokens is None:
            return Holder("", _EVERYTHING, None)
        presented = presented_token([value for name, value in scope["headers"] if name == b"authorization"])
        if presented is None:
            raise refused(401, "UNAUTHENTICATED", "send `Authorization: Bearer TOKEN`", headers=_CHALLENGE)
        try:
            holder = self._tokens.holder(presented)
        except TokensError as error:
            log.error("nobody gets in", error=str(error))
            raise unavailable("TOKENS_UNREADABLE", "the server cannot check tokens now") from None
        if holder is None:
            challenge = {"www-authenticate": 'Bearer realm="attendance", error="invalid_token"'}
            raise refused(401, "UNAUTHENTICATED", "this token is not known, or has expired", headers=challenge)
        return Holder(holder.name, holder.scopes, holder.source)

    def _only_this_machine(self, scope: Scope) -> None:
        """Without tokens the machine's own programs may ask; a web page in its browser may not, whatever name it calls us."""
        client: Any = scope.get("client")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        for name, _ in headers:
            if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES):
                description = (
                    f"{name}: a proxy forwards to an API without ATTENDANCE_API_TOKENS, which serves this machine alone"
                )
                raise refused(403, "LOOPBACK_ONLY", description)
        hosts = [value for name, value in headers if name == "host"]
        origins = [value for name, value in headers if name == "origin"]
        listed = bool(origins) and all(map(self._origins.lists, origins))
        foreign = any(pair == ("sec-fetch-site", "cross-site") for pair in headers)
        good = client is not None and is_loopback(client[0]) and (listed or not foreign)
        good = good and all(is_loopback(_hostname(f"//{host}")) for host in hosts)
        good = good and (listed or all(is_loopback(_hostname(origin)) for origin in origins))
        if not good:
            description = "without ATTENDANCE_API_TOKENS this machine alone is served, under its own name (localhost)"
            raise refused(403, "LOOPBACK_ONLY", description)


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


def _route(scope: Scope) -> str:
    return scope["path"] if scope["path"] in PUBLIC else str(getattr(scope.get("route"), "path", "other"))
