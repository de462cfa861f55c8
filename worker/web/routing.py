"""Declares routes: the scope that OpenAPI documents is the scope that is required."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from worker.web.auth import Scope
from worker.web.errors import Refused
from worker.web.middleware import ALLOWED, PUBLIC
from worker.web.models import Problem

SECURITY = "token"
_DESCRIPTIONS = {
    400: "The request is malformed; each field that is wrong is named",
    401: "No token, an unknown one or an expired one",
    403: "The token lacks the scope, or without tokens the request comes from elsewhere",
    404: "Not found",
    405: "The path does not support the method",
    409: "A later event keeps overriding the change",
    413: "The body is too large",
    415: "The body's Content-Encoding is neither gzip nor identity",
    429: "Too many requests at once",
    503: "Redis, Kafka or a worker is unavailable, or a partition is being repaired: retry after Retry-After",
}
_COMMON = (400, 401, 403, 429, 503)
_HEADERS = {401: ("WWW-Authenticate", "string"), 429: ("Retry-After", "integer"), 503: ("Retry-After", "integer")}
Endpoint = Callable[..., Awaitable[Response]]


class ScopedRoute(APIRoute):
    """A route that checks the token's scope before it reads the request.

    A route with path parameters only, or that parses its body itself, calls its endpoint directly: FastAPI's request handling
    has nothing to do for it, and costs more than the rest of the request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        declared = (self.openapi_extra or {}).get("security") or ()
        #: One of these scopes is enough; empty: the route is public.
        self._scopes: list[str] = [each[SECURITY][0] for each in declared]
        self._fastapi_app, self.app = self.app, self._answer
        self._is_direct = not (self.dependant.query_params or self.dependant.header_params or self.body_field)
        self._names = [(field.name, field.alias) for field in self.dependant.path_params]

    async def _answer(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if not self._scopes:
            assert scope["path"] in PUBLIC, "every call but the public ones names its scope"
        elif scope[ALLOWED].isdisjoint(self._scopes):
            required = " or ".join(self._scopes)
            raise Refused(403, "MISSING_SCOPE", f"the token lacks the scope {required}", {"scope": self._scopes[0]})
        if not self._is_direct:
            await self._fastapi_app(scope, receive, send)
            return
        values = scope["path_params"]
        response = await self.endpoint(Request(scope, receive, send), **{name: values[alias] for name, alias in self._names})
        await response(scope, receive, send)


def add(
    router: APIRouter,
    method: str,
    path: str,
    endpoint: Endpoint,
    scope: Scope | tuple[Scope, ...],
    shape: Any,
    *,
    status: int = 200,
    body: dict[str, Any] | None = None,
    errors: tuple[int, ...] = (),
) -> None:
    """Declares a route.

    Args:
        scope: the scope that the token needs; of several one is enough.
        shape: the model of the response, for OpenAPI only.
        body: the OpenAPI document of the request body.
        errors: statuses in addition to those of every route.
    """
    scopes = (scope,) if isinstance(scope, Scope) else scope
    extra: dict[str, Any] = {"security": [{SECURITY: [each.value]} for each in scopes]}
    if body is not None:
        extra["requestBody"] = body
        errors = (*errors, 413, 415)
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        status_code=status,
        response_model=None,
        responses={status: {"model": shape}, **error_responses(*_COMMON, *errors)},
        openapi_extra=extra,
        operation_id=endpoint.__name__,
    )


def add_public(
    router: APIRouter, path: str, endpoint: Endpoint, responses: dict[int | str, dict[str, Any]], **more: Any
) -> None:
    """Declares a route without a token; `worker.web.middleware.PUBLIC` must contain its path."""
    router.add_api_route(path, endpoint, response_model=None, responses=responses, operation_id=endpoint.__name__, **more)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for FastAPI's ``responses``."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted(set(statuses)):
        responses[status] = {"model": Problem, "description": _DESCRIPTIONS[status]}
        if status in _HEADERS:
            name, kind = _HEADERS[status]
            responses[status]["headers"] = {name: {"required": True, "schema": {"type": kind}}}
    return responses


def json_body(reference: str, *kinds: str) -> dict[str, Any]:
    """The OpenAPI document of a request body, by the name of its schema."""
    schema = {"schema": {"$ref": f"#/components/schemas/{reference}"}}
    return {"required": True, "content": dict.fromkeys(kinds or ("application/json",), schema)}
