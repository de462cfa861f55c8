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

from worker.settings import Settings
from worker.web.meters import Meters
from worker.web.problems import ApiError, framework_problem, problem_of, refused, unavailable
from worker.web.tokens import Scope as Allowed
from worker.web.tokens import TokenFile, TokensError, presented_token

log = structlog.get_logger()
PUBLIC = frozenset({"/healthz", "/readyz", "/metrics"})
#: Where the scopes of whoever asks are kept in the ASGI scope.
ALLOWED = "attendance.allowed"
_EVERYTHING = frozenset(Allowed)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CHALLENGE = {"www-authenticate": 'Bearer realm="attendance"'}


class Gate:
    """ASGI middleware, the outermost.

    Args:
        tokens: None lets this machine alone in, without a token.
    """

    def __init__(self, app: ASGIApp, settings: Settings, tokens: TokenFile | None, meters: Meters) -> None:
        self._app = app
        self._tokens = tokens
        self._meters = meters
        self._most = settings.api_max_requests
        self._seconds = settings.api_request_timeout.total_seconds()
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        self._meters.began()
        try:
            problem = await self._pass(scope, receive, sending)
            if problem is not None and not status:
                await problem.response()(scope, receive, sending)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "other")
            self._meters.ended(route, method, status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Lets the request through; the error to answer where it was stopped, or stopped itself."""
        try:
            self._admit(scope)
            if scope["path"] in PUBLIC:
                await self._app(scope, receive, send)
                return None
            if self._under_way >= self._most:
                return refused(
                    429, "TOO_MANY_REQUESTS", "too many requests are under way: ask again", headers={"retry-after": "1"}
                )
            self._under_way += 1
            try:
                async with asyncio.timeout(self._seconds) as limit:
                    await self._app(scope, receive, send)
            except TimeoutError:
                if limit.expired():
                    return unavailable("REQUEST_TIMED_OUT", f"no answer within {self._seconds:g} s: ask again")
                raise
            finally:
                self._under_way -= 1
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
        return None

    def _admit(self, scope: Scope) -> None:
        """Notes what whoever asks may do; raises ApiError where that is nothing."""
        if self._tokens is None:
            _only_this_machine(scope)
            scope[ALLOWED] = _EVERYTHING
        elif scope["path"] not in PUBLIC:
            scope[ALLOWED] = self._scopes(scope)

    def _scopes(self, scope: Scope) -> frozenset[str]:
        presented = presented_token([value for name, value in scope["headers"] if name == b"authorization"])
        if presented is None:
            raise refused(401, "UNAUTHENTICATED", "send `Authorization: Bearer TOKEN`", headers=_CHALLENGE)
        assert self._tokens is not None
        try:
            holder = self._tokens.holder(presented)
        except TokensError as error:
            log.error("nobody gets in", error=str(error))
            raise unavailable("TOKENS_UNREADABLE", "the server cannot check tokens now") from None
        if holder is None:
            challenge = {"www-authenticate": 'Bearer realm="attendance", error="invalid_token"'}
            raise refused(401, "UNAUTHENTICATED", "this token is not known, or has expired", headers=challenge)
        return holder.scopes


def _only_this_machine(scope: Scope) -> None:
    """Without tokens the machine's own programs may ask; a web page in its browser may not, whatever name it calls us."""
    client: Any = scope.get("client")
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    foreign = any(name == b"sec-fetch-site" and value == b"cross-site" for name, value in scope["headers"])
    good = client is not None and is_loopback(client[0]) and not foreign
    good = good and all(is_loopback(_hostname(f"//{host}")) for host in hosts)
    good = good and all(is_loopback(_hostname(origin)) for origin in origins)
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
