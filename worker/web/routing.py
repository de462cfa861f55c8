"""Declares routes: the scope that OpenAPI documents is the scope that is required.

FastAPI's request handling takes 65 to 100 µs of the processor, most of it to solve dependencies and parameters. A lookup by id,
a count or a small query takes 180 to 550 µs, server included, and would take 16 to 60 % more with it. Those routes are of
`DirectRoute`, with which a get by id takes 6 % more than without FastAPI's exit stacks and exception handlers. Every other
request is handled by FastAPI.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response, Security, params
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes

from worker.web.auth import Scope
from worker.web.middleware import PUBLIC
from worker.web.models import Problem
from worker.web.security import bearer_token

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
COMMON = (400, 401, 403, 429, 503)
_HEADERS = {401: ("WWW-Authenticate", "string"), 429: ("Retry-After", "integer"), 503: ("Retry-After", "integer")}
Endpoint = Callable[..., Awaitable[Response]]


class DirectRoute(APIRoute):
    """A route that calls the dependency of its scope and its endpoint itself, see the figures above.

    The endpoint takes the request and path parameters; they are texts, which FastAPI would not change.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint, dependant, (security,) = self.endpoint, self.dependant, self.dependencies
        assert isinstance(security, params.Security)
        assert len(dependant.dependencies) == 1, "only FastAPI's request handling solves dependencies"
        others = [*dependant.query_params, *dependant.header_params, *dependant.cookie_params, *dependant.body_params]
        assert not others, "only FastAPI's request handling reads other parameters"
        required = SecurityScopes(list(security.scopes or ()))
        names = [(field.name, field.alias) for field in dependant.path_params]

        async def handle(request: Request) -> Response:
            await bearer_token(request, required)
            values = request.scope["path_params"]
            response: Response = await endpoint(request, **{name: values[alias] for name, alias in names})
            return response

        return handle


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
    route_class: type[APIRoute] = APIRoute,
) -> None:
    """Declares a route.

    Args:
        scope: the scope that the token needs; of several one is enough.
        shape: the model of the response, for OpenAPI only.
        body: the OpenAPI document of the request body.
        errors: statuses in addition to those of every route.
        route_class: `DirectRoute` for a read of few attendances.
    """
    scopes = (scope,) if isinstance(scope, Scope) else scope
    if body is not None:
        errors = (*errors, 413, 415)
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        status_code=status,
        response_model=None,
        responses={status: {"model": shape}, **error_responses(*COMMON, *errors)},
        dependencies=[Security(bearer_token, scopes=[each.value for each in scopes])],
        openapi_extra=None if body is None else {"requestBody": body},
        operation_id=endpoint.__name__,
        route_class_override=route_class,
    )


def add_public(
    router: APIRouter, path: str, endpoint: Endpoint, responses: dict[int | str, dict[str, Any]], **more: Any
) -> None:
    """Declares a route without a token; `worker.web.middleware.PUBLIC` must contain its path."""
    assert path in PUBLIC, "a route that is not public names its scope"
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
