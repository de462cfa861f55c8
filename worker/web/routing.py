"""How calls are declared: the scope that OpenAPI documents is the scope that is asked for."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from worker.web.auth import Scope
from worker.web.errors import refused
from worker.web.middleware import ALLOWED, PUBLIC
from worker.web.models import Problem

SECURITY = "token"
_TOLD = {
    400: "The request is malformed; each field that is wrong is named",
    401: "No token, or none that is known",
    403: "The token lacks the scope, or without tokens the request comes from elsewhere",
    404: "There is no such thing",
    405: "The path has no such method",
    409: "Something later keeps undoing the change",
    413: "The body is too large",
    415: "The body's Content-Encoding is neither gzip nor identity",
    429: "Too many requests at once",
    503: "Redis, Kafka or a worker is away, or a partition is being repaired: ask again after Retry-After",
}
_ALWAYS = (400, 401, 403, 429, 503)
_HEADERS = {401: ("WWW-Authenticate", "string"), 429: ("Retry-After", "integer"), 503: ("Retry-After", "integer")}
Endpoint = Callable[..., Awaitable[Response]]


class Call(APIRoute):
    """A route that asks for its scope before it looks at the request.

    A call that takes nothing but its path, or reads its body itself, goes to its endpoint without FastAPI's own steps:
    they have nothing to do there, and cost more than the rest.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        declared = (self.openapi_extra or {}).get("security") or ()
        #: One of these scopes is enough; none: the call is public.
        self._needed: list[str] = [each[SECURITY][0] for each in declared]
        self._inner, self.app = self.app, self._answer
        self._plain = not (self.dependant.query_params or self.dependant.header_params or self.body_field)
        self._names = [(field.name, field.alias) for field in self.dependant.path_params]

    async def _answer(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if not self._needed:
            assert scope["path"] in PUBLIC, "every call but the public ones names its scope"
        elif scope[ALLOWED].isdisjoint(self._needed):
            needed = " or ".join(self._needed)
            raise refused(403, "MISSING_SCOPE", f"the token lacks the scope {needed}", {"scope": self._needed[0]})
        if not self._plain:
            await self._inner(scope, receive, send)
            return
        given = scope["path_params"]
        response = await self.endpoint(Request(scope, receive, send), **{name: given[alias] for name, alias in self._names})
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
    """Declares a call.

    Args:
        scope: what the token needs; of several one is enough.
        shape: the answer's model, for OpenAPI alone: answers are written as they are.
        body: the request's body as OpenAPI has it.
        errors: statuses beside those that every call has.
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
        responses={status: {"model": shape}, **problems(*_ALWAYS, *errors)},
        openapi_extra=extra,
        operation_id=endpoint.__name__,
    )


def add_public(
    router: APIRouter, path: str, endpoint: Endpoint, responses: dict[int | str, dict[str, Any]], **more: Any
) -> None:
    """Declares a call that needs no token; the gate has its path."""
    router.add_api_route(path, endpoint, response_model=None, responses=responses, operation_id=endpoint.__name__, **more)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a call, as FastAPI takes them."""
    told: dict[int | str, dict[str, Any]] = {}
    for status in sorted(set(statuses)):
        told[status] = {"model": Problem, "description": _TOLD[status]}
        if status in _HEADERS:
            name, kind = _HEADERS[status]
            told[status]["headers"] = {name: {"required": True, "schema": {"type": kind}}}
    return told


def json_body(reference: str, *kinds: str) -> dict[str, Any]:
    """A request body of one of our models, by its name."""
    schema = {"schema": {"$ref": f"#/components/schemas/{reference}"}}
    return {"required": True, "content": dict.fromkeys(kinds or ("application/json",), schema)}
