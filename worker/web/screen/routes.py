"""The routes of the screen: pages, their streams, marks, sign-in and files."""

import secrets
from typing import Any

from fastapi import APIRouter, Request, Response, Security
from redis.exceptions import RedisError
from starlette.responses import HTMLResponse

from worker.read_model.reader import ReaderError
from worker.web.auth import Scope
from worker.web.errors import Refused, problem_of
from worker.web.permissions import Holder
from worker.web.screen import paths
from worker.web.screen.assets import add_assets
from worker.web.screen.csrf import csrf_token
from worker.web.screen.freshness import FreshnessSource, FreshnessWords
from worker.web.screen.history import show_history
from worker.web.screen.live import open_stream
from worker.web.screen.marks import mark
from worker.web.screen.sign_in import add_sign_in
from worker.web.screen.templates import render
from worker.web.screen.views.alerts import AlertsView
from worker.web.screen.views.booking import BookingView
from worker.web.screen.views.devices import DevicesView
from worker.web.screen.views.now import NowView
from worker.web.screen.views.session import ORDERS, SHOWN, SessionView
from worker.web.screen.views.system import SystemView
from worker.web.screen.views.view import Rendered, View
from worker.web.security import CALLER, bearer_token
from worker.web.services import services_of

VIEWS: dict[str, type[View]] = {
    each.name: each for each in (NowView, SessionView, BookingView, AlertsView, DevicesView, SystemView)
}


def add_screen_routes(router: APIRouter) -> None:
    """Declares the routes of the screen; they are for people, and not in the OpenAPI document."""
    for name in VIEWS:
        _add(router, "GET", paths.VIEW_PATHS[name], _page_of(name))
    _add(router, "GET", paths.LIVE, get_stream)
    _add(router, "GET", paths.HISTORY, show_history)
    _add(router, "POST", paths.MARK, mark, Scope.MANAGE)
    add_sign_in(router)
    add_assets(router)


def _add(router: APIRouter, method: str, path: str, endpoint: Any, scope: Scope = Scope.READ) -> None:
    needed = Security(bearer_token, scopes=[scope.value])
    router.add_api_route(path, endpoint, methods=[method], include_in_schema=False, response_model=None, dependencies=[needed])


def _page_of(name: str) -> Any:
    async def get_page(request: Request) -> Response:
        return await show_page(request, view_of(request, name))

    return get_page


def view_of(request: Request, name: str | None) -> View:
    """The view of a request with the parameters of its query.

    Raises:
        ApiError, QueryError: there is no such view, or a parameter is wrong.
    """
    kind = VIEWS.get(name or "")
    if kind is None:
        raise Refused(404, "NOT_FOUND", "there is no such view")
    holder: Holder = request.scope[CALLER]
    return kind(services_of(request), request.query_params, can_manage=Scope.MANAGE in holder.scopes)


async def show_page(request: Request, view: View) -> Response:
    """The page of a view with what it shows now; while that cannot be read, the page that its stream will fill."""
    services = services_of(request)
    status, headers = 200, {}
    try:
        rendered = await view.read()
        freshness = await FreshnessSource(services.reader).load()
        status = 200 if rendered.is_found else 404
    except (ReaderError, RedisError, OSError) as error:
        problem = problem_of(error)
        assert problem is not None, "an exception of EXPECTED has a response"
        status, headers = problem.status, problem.headers
        rendered = Rendered(dict.fromkeys(view.elements, render("fragments/away.html")))
        words = FreshnessWords("stopped", "Nothing to show yet", str(problem), "")
        freshness = render("fragments/freshness.html", fresh=words)
    html = render(
        f"{view.name}.html",
        view=view,
        current=view.name,
        title=view.title,
        query=view.query,
        fragments=rendered.fragments,
        shown=SHOWN,
        orders=ORDERS,
        freshness=freshness,
        stream=paths.link(paths.LIVE, view=view.name, **view.query),
        here=paths.link(paths.VIEW_PATHS[view.name], **view.query),
        csrf=csrf_token(request),
        nonce=secrets.token_urlsafe(16),
        has_tokens=services.tokens is not None,
    )
    return HTMLResponse(html, status, headers)


async def get_stream(request: Request) -> Response:
    """The fragments of a view as they change."""
    return open_stream(request, view_of(request, request.query_params.get("view")))
