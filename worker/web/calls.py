"""How calls are declared: the scope that OpenAPI documents is the scope that is asked for."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from worker.web.gate import ALLOWED
from worker.web.problems import refused
from worker.web.shapes import Problem
from worker.web.tokens import Scope

SECURITY = "token"
_TOLD = {
    400: "The request is malformed; each field that is wrong is named",
    401: "No token, or none that is known",
    403: "The token lacks the scope, or without tokens the request comes from elsewhere",
    404: "There is no such thing",
    405: "The path has no such method",
    409: "Something later keeps undoing the change",
    413: "The body is too large",
    429: "Too many requests at once",
    503: "Redis, Kafka or a worker is away, or a partition is being repaired: ask again after Retry-After",
}
_ALWAYS = (400, 401, 403, 429, 503)
_HEADERS = {401: ("WWW-Authenticate", "string"), 429: ("Retry-After", "integer"), 503: ("Retry-After", "integer")}
Endpoint = Callable[..., Awaitable[Response]]


class Call(APIRoute):
    """A route that asks for its scope before it looks at the request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        ((needed, *_),) = (each[SECURITY] for each in (self.openapi_extra or {})["security"])
        handler = super().get_route_handler()

        async def asking(request: Request) -> Response:
            if needed not in request.scope[ALLOWED]:
                raise refused(403, "MISSING_SCOPE", f"the token lacks the scope {needed}", {"scope": needed})
            return await handler(request)

        return asking


def add(
    router: APIRouter,
    method: str,
    path: str,
    endpoint: Endpoint,
    scope: Scope,
    shape: Any,
    *,
    status: int = 200,
    body: dict[str, Any] | None = None,
    errors: tuple[int, ...] = (),
) -> None:
    """Declares a call.

    Args:
        shape: the answer's model, for OpenAPI alone: answers are written as they are.
        body: the request's body as OpenAPI has it.
        errors: statuses beside those that every call has.
    """
    extra: dict[str, Any] = {"security": [{SECURITY: [scope.value]}]}
    if body is not None:
        extra["requestBody"] = body
        errors = (*errors, 413)
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
