"""Puts the API together: ``create_app(settings)``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaError
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from schemas.refusals import QueryError, Violation
from worker.read_model.reader import ReaderError
from worker.settings import Settings
from worker.web.attendances import attendance_calls
from worker.web.gate import Gate
from worker.web.health import health_calls
from worker.web.openapi import describe
from worker.web.ops_reads import ops_calls
from worker.web.parts import Parts
from worker.web.problems import ApiError, invalid, problem_of, refused

_EXPECTED = (ApiError, QueryError, ReaderError, RedisError, TimeoutError, KafkaError, OSError)


def create_app(settings: Settings) -> FastAPI:
    """The API as an ASGI application; it connects when it is started, and starts without Kafka and Redis too.

    Raises:
        worker.web.tokens.TokensError: the tokens' file is missing or malformed.
    """
    parts = Parts.of(settings)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        parts.open()
        try:
            yield
        finally:
            await parts.close()

    app = FastAPI(
        title="Attendance API",
        version="1",
        lifespan=living,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _framework_error,
            RequestValidationError: _invalid_parameters,
            **dict.fromkeys(_EXPECTED, _expected),
        },
    )
    app.state.parts = parts
    for router in (attendance_calls(), ops_calls(), health_calls()):
        app.include_router(router)
    describe(app)
    app.add_middleware(Gate, settings=settings, tokens=parts.tokens, meters=parts.meters)
    return app


async def _expected(_: Request, error: Exception) -> Response:
    problem = problem_of(error)
    assert problem is not None, error
    return problem.response()


async def _framework_error(request: Request, error: Exception) -> Response:
    """An unknown path, or a method that a path has not."""
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return refused(error.status_code, "NOT_FOUND", "the API has no such path").response()
    allowed: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            allowed |= getattr(route, "methods", None) or set()
    methods = ", ".join(sorted(allowed))
    return refused(405, "METHOD_NOT_ALLOWED", f"this path has {methods}", headers={"allow": methods}).response()


async def _invalid_parameters(_: Request, error: Exception) -> Response:
    """Parameters of path and query that are not as the call takes them."""
    assert isinstance(error, RequestValidationError)
    found = [
        Violation(str(each["loc"][-1]), str(each["msg"]), "REQUIRED" if each["type"] == "missing" else "MALFORMED")
        for each in error.errors()
    ]
    return invalid(found).response()
