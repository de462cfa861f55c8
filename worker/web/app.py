"""Builds the API: ``create_app(settings)``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.settings import Settings
from worker.web.errors import add_error_handlers
from worker.web.middleware import AccessMiddleware, RequestMiddleware
from worker.web.openapi import add_openapi
from worker.web.origins import Origins
from worker.web.routes.attendance import add_attendance_routes
from worker.web.routes.devices import add_device_routes
from worker.web.routes.health import add_health_routes
from worker.web.routes.history import add_history_routes
from worker.web.routes.live import add_live_routes
from worker.web.routes.ops import add_ops_routes
from worker.web.routes.sessions import add_session_routes
from worker.web.screen.errors import ScreenMiddleware
from worker.web.screen.routes import add_screen_routes
from worker.web.services import Services


def create_app(settings: Settings) -> FastAPI:
    """The API as an ASGI application. It connects in its lifespan, and starts without Kafka and Redis too.

    Raises:
        worker.web.auth.TokensError: the token file is malformed.
    """
    services = Services.of(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.open()
        try:
            yield
        finally:
            await services.close()

    app = _App(
        title="Attendance API",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    add_error_handlers(app)
    # on the app's own router: each included router adds a round of matching to every request
    # the first that matches a path is taken
    for add_routes in (
        add_attendance_routes,
        add_session_routes,
        add_device_routes,
        add_ops_routes,
        add_history_routes,
        add_live_routes,
        add_health_routes,
        add_openapi,
        add_screen_routes,
    ):
        add_routes(app.router)
    return app


class _App(FastAPI):
    """FastAPI with the middlewares of this API: those that FastAPI adds by itself cost time, and do nothing here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # skips FastAPI's telemetry, which reads the environment for every request
        await Starlette.__call__(self, scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        services: Services = self.state.services
        origins = Origins(services.settings.api_cors_origins)
        # within ExceptionMiddleware: the exception handlers also answer requests that are not let in
        access = AccessMiddleware(AsyncExitStackMiddleware(self.router), services, origins)
        answering = ScreenMiddleware(access, ExceptionMiddleware(access, self.exception_handlers))
        return RequestMiddleware(answering, services, origins)
