"""Puts the API together: ``create_app(settings)``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.settings import Settings
from worker.web.middleware import Gate
from worker.web.openapi import add_openapi
from worker.web.routes.attendance import add_attendance_calls
from worker.web.routes.health import add_health_calls
from worker.web.routes.ops import add_ops_calls
from worker.web.routing import Call
from worker.web.services import Parts


def create_app(settings: Settings) -> FastAPI:
    """The API as an ASGI application; it connects when it is started, and starts without Kafka and Redis too.

    Raises:
        worker.web.auth.TokensError: the tokens' file is missing or malformed.
    """
    parts = Parts.of(settings)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        parts.open()
        try:
            yield
        finally:
            await parts.close()

    app = _App(
        title="Attendance API",
        version="1",
        lifespan=living,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.parts = parts
    # onto the app's own router: one that is included costs each request another round of matching
    app.router.route_class = Call
    for add_calls in (add_attendance_calls, add_ops_calls, add_health_calls, add_openapi):
        add_calls(app.router)
    return app


class _App(FastAPI):
    """FastAPI without the layers that would answer errors in its own shape: the gate answers them all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # past its telemetry, which looks at the environment for every request
        await Starlette.__call__(self, scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        parts: Parts = self.state.parts
        return Gate(AsyncExitStackMiddleware(self.router), parts)
